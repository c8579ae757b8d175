"""A decoder of a training as ONNX beside a profile, for the edge's console: written node by node, as the network is."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import nn

from edge_service.protection.profiles.decoder import DecoderDocument, DecoderFile, write_decoder
from edge_service.vision.sessions import OrtGraph
from lab.data.embedders import open_encoder
from lab.defence.decoders import DECODERS, Upsampling, build, rebuilt
from lab.defence.runs import Run, load_into
from lab.export.onnx_export import IR_VERSION, OPSET, Graph
from shared.errors import SetupError

PARITY: Final = 1e-4
# The commonest inversion network; the other families are for measurements.
_FAMILIES: Final = ("upsampling-112", "upsampling")
_NONE: Final = ""


def export_decoder(run: Run, profiles: Path, *, replace: bool) -> Path:
    """Writes the decoder that a training made on clean embeddings, beside the profile of its name.

    Args:
        run: trained.
        profiles: folder of profiles.
        replace: whether a decoder that is there may be replaced.

    Returns:
        the decoder's folder.

    Raises:
        SetupError: the training holds no decoder of a family that can be exported, or torch and ONNX Runtime differ.
        Conflict: there is one.
    """
    families = [name for name in _FAMILIES if (run.folder / "attackers" / f"{name}.pt").exists()]
    if not families:
        raise SetupError(
            f"{run.folder} holds no trained decoder of {' or '.join(_FAMILIES)}; run patronus lab train --out "
            f"{run.folder}."
        )
    encoder = open_encoder(run.recipe.embedder)
    dim = encoder.dim or run.material().learned.shape[1]
    decoder = build(families[0], dim)
    load_into(decoder, run.folder / "attackers" / f"{families[0]}.pt")
    found = decoder_file(families[0], decoder.eval().requires_grad_(False), dim, encoder.sha256)
    return write_decoder(profiles, run.recipe.name, found, replace=replace)


def decoder_file(family: str, decoder: nn.Module, dim: int, embedder_sha256: str) -> DecoderFile:
    """A trained decoder as the edge reads it.

    Args:
        family: of ``DECODERS``, one of upsampling.
        decoder: in evaluation mode.
        dim: of embeddings.
        embedder_sha256: of the embedder's converted file.

    Raises:
        SetupError: torch and ONNX Runtime differ by over 1e-4.
    """
    assert isinstance(decoder, Upsampling)
    side = DECODERS[family][0]
    graph = to_onnx(decoder, dim, side)
    check_parity(decoder, graph, dim)
    digest = hashlib.sha256(graph).hexdigest()
    document = DecoderDocument(family=family, sha256=digest, embedder_sha256=embedder_sha256, dim=dim, side=side)
    return DecoderFile(document, graph)


def check_parity(decoder: nn.Module, graph: bytes, dim: int) -> float:
    """The largest difference between torch and ONNX Runtime in a channel of a pixel, 0 to 1, on random directions.

    Raises:
        SetupError: it is over 1e-4.
    """
    rows = np.random.default_rng(0).standard_normal((8, dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    [found] = OrtGraph(graph, "the exported decoder").run({"embedding": rows})
    worst = float(np.abs(found - rebuilt(decoder, rows)).max())
    if not worst <= PARITY:
        raise SetupError(f"The exported decoder differs from the trained one by {worst:.1e}; it is not written.")
    return worst


def to_onnx(decoder: Upsampling, dim: int, side: int) -> bytes:
    """A decoder as a serialised ONNX model.

    From ``embedding`` (n, dim) to ``picture`` (n, 3, side, side) in 0..1, both float32.
    """
    g = Graph()
    at = g.node("Mul", "embedding", g.constant(float(dim**0.5)))
    for layer in decoder.body:
        at = _layer(g, layer, at)
    g.node("Sigmoid", at, out="picture")
    graph = helper.make_graph(
        g.nodes,
        "decoder",
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", dim])],
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", 3, side, side])],
        g.constants,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, producer_name="patronus", opset_imports=opsets, ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _layer(g: Graph, layer: nn.Module, at: str) -> str:  # noqa: PLR0911 - one for each kind
    def given(value: torch.Tensor) -> str:
        return g.constant(value.detach().cpu().contiguous().numpy())

    match layer:
        case nn.Linear():
            return g.node("Gemm", at, given(layer.weight), given(layer.bias), transB=1)
        case nn.Unflatten():
            return g.node("Reshape", at, g.constant(np.array([-1, *layer.unflattened_size], dtype=np.int64)))
        case nn.BatchNorm2d():
            assert layer.running_mean is not None
            assert layer.running_var is not None
            parts = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
            return g.node("BatchNormalization", at, *map(given, parts), epsilon=layer.eps)
        case nn.LeakyReLU():
            return g.node("LeakyRelu", at, alpha=layer.negative_slope)
        case nn.Upsample():
            scales = g.constant(np.array([1, 1, 2, 2], dtype=np.float32))
            options = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
            return g.node("Resize", at, _NONE, scales, **options)
        case nn.Conv2d():
            bias = () if layer.bias is None else (given(layer.bias),)
            return g.node("Conv", at, given(layer.weight), *bias, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        case nn.PixelShuffle():
            return g.node("DepthToSpace", at, blocksize=layer.upscale_factor, mode="CRD")
    raise SetupError(f"A decoder with {type(layer).__name__} cannot be exported.")
