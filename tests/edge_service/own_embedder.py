"""Embedders of an operator's own: small networks, fitted to the sample faces so that these are told apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_service.vision.embedder_check import sample_faces
from edge_service.vision.embedder_files import EmbedderDescription

DIM = 32
_TILE = 7


def write_own(folder: Path, name: str = "mine", said: dict[str, Any] | None = None, **graph: Any) -> Path:
    """Writes ``name.onnx`` and its description, and returns the first.

    Args:
        folder: where.
        name: of the files.
        said: members of the description beside the dim, by which the network is fitted, too.
        graph: arguments of ``own_network``.
    """
    description = {"dim": DIM, "mean": 127.5, "scale": 1 / 127.5} | (said or {})
    path = folder / f"{name}.onnx"
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(own_network(EmbedderDescription(**description), **graph), path)
    path.with_suffix(".embedder.json").write_text(json.dumps(description))
    return path


def own_network(
    said: EmbedderDescription,
    *,
    batch: str | int = "n",
    before: list[onnx.NodeProto] | None = None,
    after: list[onnx.NodeProto] | None = None,
    extra_inputs: tuple[str, ...] = (),
    extra_outputs: tuple[str, ...] = (),
    kind: int = TensorProto.FLOAT,
    shape: list[str | int] | None = None,
    weights: NDArray[np.float32] | None = None,
    constants: dict[str, Any] | None = None,
) -> onnx.ModelProto:
    """Mean colors of tiles, times a matrix, with nodes before (``face`` to ``x``) and after (``rows`` to ``y``)."""
    side = said.pixels
    fitted = fitted_weights(said) if weights is None else weights
    nodes = [
        *(before or [helper.make_node("Identity", ["face"], ["x"])]),
        helper.make_node("AveragePool", ["x"], ["tiles"], kernel_shape=[_TILE] * 2, strides=[_TILE] * 2),
        helper.make_node("Flatten", ["tiles"], ["flat"]),
        helper.make_node("MatMul", ["flat", "onto"], ["rows"]),
        *(after or [helper.make_node("Identity", ["rows"], ["y"])]),
    ]
    graph = helper.make_graph(
        nodes,
        "own",
        [
            helper.make_tensor_value_info("face", kind, shape or [batch, 3, side, side]),
            *(helper.make_tensor_value_info(each, TensorProto.FLOAT, [1]) for each in extra_inputs),
        ],
        [helper.make_tensor_value_info(each, TensorProto.FLOAT, None) for each in ("y", *extra_outputs)],
        [
            numpy_helper.from_array(fitted, "onto"),
            *(numpy_helper.from_array(np.asarray(value), key) for key, value in (constants or {}).items()),
        ],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def fitted_weights(said: EmbedderDescription, *, mixed: bool = False) -> NDArray[np.float32]:
    """(tiles, dim) float32 by which each person of the samples has a direction of their own.

    Args:
        said: of the network's input.
        mixed: whether one of the pictures gets another person's direction.
    """
    faces, people = sample_faces(said.template)
    count = said.pixels // _TILE
    cut = said.prepared(faces)[:, :, : count * _TILE, : count * _TILE]
    flat = cut.reshape(len(faces), 3, count, _TILE, count, _TILE).mean(axis=(3, 5)).reshape(len(faces), -1)
    random = np.random.default_rng(5)
    directions = dict(zip(sorted(set(people)), np.linalg.qr(random.normal(size=(said.dim or 0, 3)))[0].T, strict=True))
    wanted = np.stack([directions[each] for each in people])
    if mixed:
        wanted[people.index("obama")] = directions["biden"]
    wanted = wanted + 0.05 * random.normal(size=wanted.shape)
    return np.asarray(np.linalg.pinv(flat.astype(np.float64)) @ wanted, np.float32)
