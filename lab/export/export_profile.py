"""A trained network becomes a profile that the edge runs: ONNX, document and model card, checked before it is kept."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import numpy as np
import torch

from edge_service.protection.profiles.document import PatronusStep, ProfileDocument, SealStep
from edge_service.protection.profiles.files import Profile, write_profile
from edge_service.vision.sessions import OrtGraph
from lab.data.splits import TEST, Labelled
from lab.data.verification import all_impostors
from lab.defence.network import PatronusNetwork
from lab.defence.protection import protect
from lab.defence.recipe import Recipe
from lab.defence.runs import Run
from lab.defence.statistics import digest
from lab.export.model_card import card
from lab.export.onnx_export import to_onnx
from shared.errors import SetupError
from shared.wire.common import Threshold

# Largest difference of any coordinate between torch and ONNX Runtime.
PARITY: Final = 1e-5
# A slope over this is there to give all of phi_max to whoever has any margin.
_STEEP: Final = 10.0
# Of the rule of three, as in calibration.
_CONFIDENCE: Final = 0.95
# Raw lengths outside this multiple of the shortest and longest that were seen are another embedder's.
_LENGTHS: Final = (0.5, 2.0)


def export_profile(run: Run, folder: Path, *, replace: bool) -> Profile:
    """Writes the profile of a finished training.

    Args:
        run: trained and calibrated; its figures go into the profile where it was evaluated.
        folder: of profiles.
        replace: whether a profile of this name may be replaced.

    Raises:
        SetupError: the training is not calibrated, or torch and ONNX Runtime differ.
        Conflict: there is a profile of this name.
    """
    calibration = run.read("calibration.json")
    if calibration is None:
        raise SetupError(f"{run.folder} is not calibrated; run patronus lab calibrate --out {run.folder}.")
    if calibration["phi_max"] <= 0:
        raise SetupError(
            f"Calibration of {run.folder} allowed no perturbation at all, so a profile of it would protect nothing; "
            f"{_advice(run.recipe, calibration['people'])}."
        )
    material = run.material()
    fitted = run.fitted(material)
    network = run.network(fitted)
    graph = to_onnx(network)
    check_parity(network, graph, material.labelled)
    lengths = np.linalg.norm(material.labelled.raw.astype(np.float64), axis=1)
    recipe = run.recipe
    evaluation = run.read("evaluation.json") or {}
    document = ProfileDocument(
        name=recipe.name,
        summary=recipe.summary,
        embedder=material.encoder.name,
        embedder_sha256=material.encoder.sha256,
        steps=[
            PatronusStep(
                sha256=hashlib.sha256(graph).hexdigest(),
                dim=network.size.dim,
                seed_dim=network.size.seed_dim,
                layers=["erase", "perturb"] if _erases(network) else ["perturb"],
                input_norm=[float(lengths.min() * _LENGTHS[0]), float(lengths.max() * _LENGTHS[1])],
                phi_max=min(float(network.phi_max) + 1e-6, np.pi / 2),
            ),
            *([SealStep()] if recipe.seal else []),
        ],
        threshold=Threshold(cosine=recipe.tau, fmr=_fmr(network, material.labelled, recipe)),
        budgets={key: value for key, value in calibration.items() if key != "curve"},
        cohort_sha256=digest(fitted.cohort),
        figures=evaluation,
    )
    trained = sum(value.numel() for value in network.parameters())
    return write_profile(folder, document, graph, card(recipe, document, trained), replace=replace)


def check_parity(network: PatronusNetwork, graph: bytes, labelled: Labelled) -> float:
    """The largest difference between torch and ONNX Runtime on faces that test.

    Raises:
        SetupError: it is over 1e-5.
    """
    rows = labelled.rows(TEST)[:512]
    random = np.random.default_rng(0)
    dim = network.size.dim
    seal = np.linalg.qr(random.standard_normal((dim, dim)))[0].astype(np.float32)
    inputs = {
        "x": labelled.raw[rows].astype(np.float32),
        "seed": random.standard_normal((len(rows), network.size.seed_dim)).astype(np.float32),
        "phi_limit": np.full(len(rows), np.pi, dtype=np.float32),
        "seal": seal,
    }
    session = OrtGraph(graph, "the exported network")
    found = dict(zip(session.output_names, session.run(inputs), strict=True))
    with torch.no_grad():
        output = network(*(torch.from_numpy(value) for value in inputs.values()))
    # A steep limit magnifies the rounding of arccos: where it is neither 0 nor phi_max, two right answers differ.
    limit = output.limit.numpy()
    compared = (limit <= 0) | (limit >= float(network.phi_max)) | (float(network.slope) <= _STEEP)
    differences = [
        np.abs(found["template"] - output.template.numpy()).max(axis=1)[compared],
        np.abs(found["angle"] - output.angle.numpy())[compared],
    ]
    worst = float(np.max(differences)) if compared.any() else np.inf
    if not worst <= PARITY:
        raise SetupError(f"The exported network differs from the trained one by {worst:.1e}; it is not published.")
    return worst


def _advice(recipe: Recipe, people: int) -> str:
    """What may help where calibration allowed nothing."""
    needed = int(np.ceil(-np.log(1 - _CONFIDENCE) / recipe.fnmr_rise))
    if people < needed:
        return (
            f"{people} people calibrated it, and it takes about {needed} to show that FNMR rises by at most "
            f"{recipe.fnmr_rise:.1%}: add people, and train again"
        )
    return "train again in another folder, longer or with a smaller --phi-max"


def _fmr(network: PatronusNetwork, labelled: Labelled, recipe: Recipe) -> float:
    """FMR at tau of protected templates of people who test; where nobody was mistaken, its upper bound."""
    rows = labelled.rows(TEST)
    protected = np.ascontiguousarray(protect(network, labelled.unit).templates[rows])
    gallery = None if recipe.sides == "both" else np.ascontiguousarray(labelled.unit[rows])
    found = all_impostors(protected, labelled.people[rows], gallery)
    return max(found.fmr(recipe.tau), -float(np.log(1 - _CONFIDENCE)) / found.pairs)


def _erases(network: PatronusNetwork) -> bool:
    """Whether there is an erase step that does anything: cross-validation may have chosen none."""
    return network.size.erases and not np.allclose(network.eraser.numpy(), np.eye(network.size.dim), atol=1e-6)
