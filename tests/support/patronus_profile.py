"""Real profiles for tests: a Patronus network of random weights, exported and written as the lab does it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edge_service.protection.profiles import files
from edge_service.protection.profiles.document import PatronusStep, ProfileDocument, SealStep
from edge_service.protection.profiles.files import Profile, load_profile, write_profile
from lab.defence.network import NetworkShape, PatronusNetwork
from lab.export.onnx_export import to_onnx

SHIPPED = Path(files.__file__).parent
DIM, SEED_DIM, PHI_MAX = 128, 16, 0.3
Rows = NDArray[np.float32]
Change = Callable[[onnx.GraphProto], None]


def make_network(*, erases: bool = True, dim: int = DIM, cohort: int = 64) -> PatronusNetwork:
    """A network that turns most random embeddings by some 0.1 rad, and those of its cohort by nothing."""
    torch.manual_seed(5)
    size = NetworkShape(dim=dim, seed_dim=SEED_DIM, width=32, blocks=1, erases=erases, cohort=cohort)
    network = PatronusNetwork(size)
    with torch.no_grad():
        # A quarter of the directions is removed, another quarter shrunk, and not along the same axes.
        basis, other = (torch.linalg.qr(torch.randn(dim, dim))[0][:, : dim // 4] for _ in range(2))
        identity = torch.eye(dim)
        network.eraser.copy_((identity - 0.6 * other @ other.T) @ (identity - basis @ basis.T))
        network.cohort.copy_(torch.nn.functional.normalize(torch.randn(cohort, dim), dim=1))
        network.margin_from.fill_(0.363)
        network.phi_max.fill_(PHI_MAX)
        for values in network.parameters():
            values.add_(0.1 * torch.randn_like(values))
    return network


def make_profile(
    folder: Path,
    network: PatronusNetwork,
    *,
    name: str = "mine",
    seals: bool = True,
    change: Change | None = None,
    step: dict[str, Any] | None = None,
    **document: Any,
) -> Profile:
    """A profile of this network in ``folder``.

    Args:
        folder: of profiles.
        network: that it runs.
        name: of the profile.
        seals: whether a seal follows.
        change: made to the graph before it is written.
        step: members of the patronus step that are to be otherwise.
        document: members of the document that are to be otherwise.
    """
    graph = to_onnx(network)
    if change is not None:
        model = onnx.load_from_string(graph)
        change(model.graph)
        graph = model.SerializeToString()
    layers = ["erase", "perturb"] if network.size.erases else ["perturb"]
    patronus = {
        "sha256": hashlib.sha256(graph).hexdigest(),
        "dim": network.size.dim,
        "seed_dim": network.size.seed_dim,
        "layers": layers,
        "input_norm": None,
        "phi_max": PHI_MAX,
    }
    made = {
        "name": name,
        "summary": "for a test",
        "embedder": "sface_2021dec",
        "steps": [PatronusStep(**patronus | (step or {})), *([SealStep()] if seals else [])],
    }
    return write_profile(folder, ProfileDocument(**made | document), graph)


def copy_profile(shipped: str, folder: Path, name: str, **changes: Any) -> Profile:
    """A copy of a shipped profile in ``folder``, under another name and with other members."""
    home = folder / name
    shutil.copytree(SHIPPED / shipped, home)
    document = json.loads((home / "profile.json").read_text())
    (home / "profile.json").write_text(json.dumps(document | {"name": name} | changes))
    return load_profile(name, own=folder)


def units(count: int, dim: int = DIM, seed: int = 0) -> Rows:
    """Random unit rows."""
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def angles_between(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float64]:
    """Radians between unit rows; exact for small angles too, which an arccos is not."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    return 2 * np.arctan2(np.linalg.norm(left - right, axis=1), np.linalg.norm(left + right, axis=1))


def output_changed(output: str, kind: str, *others: NDArray[Any]) -> Change:
    """A graph whose output goes through one more node, with constants as its further inputs."""

    def change(graph: onnx.GraphProto) -> None:
        before = f"{output}_before"
        for node in graph.node:
            node.output[:] = [before if name == output else name for name in node.output]
        names = [f"{output}_{number}" for number in range(len(others))]
        graph.initializer.extend(
            numpy_helper.from_array(value, name) for value, name in zip(others, names, strict=True)
        )
        graph.node.append(helper.make_node(kind, [before, *names], [output]))

    return change


def output_replaced_where_first_is_large(output: str, value: float) -> Change:
    """A graph that answers this value for an embedding whose first entry is over 0.9, and is right elsewhere."""

    def change(graph: onnx.GraphProto) -> None:
        before = f"{output}_before"
        for node in graph.node:
            node.output[:] = [before if name == output else name for name in node.output]
        constants = {"zero": np.array([0]), "one": np.array([1]), "most": np.float32(0.9), "bad": np.float32(value)}
        graph.initializer.extend(numpy_helper.from_array(np.asarray(v), f"trap_{k}") for k, v in constants.items())
        graph.node.extend(
            [
                helper.make_node("Slice", ["x", "trap_zero", "trap_one", "trap_one"], ["trap_first"]),
                helper.make_node("Greater", ["trap_first", "trap_most"], ["trap_rows"]),
                helper.make_node("Squeeze", ["trap_rows", "trap_one"], ["trap_flat"]),
                helper.make_node(
                    "Where", ["trap_rows" if output == "template" else "trap_flat", "trap_bad", before], [output]
                ),
            ]
        )

    return change


def curve(population: str, pairs: int, shift: float = 0.0, **changes: Any) -> dict[str, Any]:
    """A measured curve as a profile carries it: scores of impostors and of genuine pairs are normal."""
    thresholds = [round(0.2 + 0.0025 * step, 4) for step in range(241)]
    rates = {
        name: [float(f"{NormalDist(mean + shift, spread).cdf(2 * (mean + shift) - at):.6g}") for at in thresholds]
        for name, mean, spread in (("fmr", 0.0, 0.12), ("tar", 0.6, 0.12))
    }
    edges = [-1.0, 1.0]
    made = {"population": population, "rule": "mean", "templates": 1, "band": None, "thresholds": thresholds}
    made |= {"impostor_pairs": pairs, "impostor_histogram": {"edges": edges, "counts": [pairs]}}
    made |= {"genuine_pairs": 1000, "genuine_histogram": {"edges": edges, "counts": [1000]}}
    return made | rates | changes
