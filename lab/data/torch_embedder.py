"""A differentiable torch copy of an ONNX embedder: the same embeddings, with gradients down to the pixels.

Weights are frozen: gradients flow to the input alone. A copy is checked against ONNX Runtime when it is loaded, on
noise and on real faces, and refused if it differs.

``onnx2torch`` does the same for more operators. It is not used: it imports torchvision, lacks the constants of opset
21, and takes 1.4 to 2 times as long forward and backward. It keeps batch normalization apart from convolutions, and
torch's own PReLU computes the gradient of its slopes.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, fx, nn
from torch.nn import functional

from edge_service.models.manifest import CHECKOUT
from edge_service.vision.align import ARCFACE, SIDE, Alignment, similarity_transform
from edge_service.vision.embedder_files import EmbedderDescription, EmbedderFile
from lab.data.embedders import open_file, unit
from lab.data.image_store import DEFAULT
from lab.data.images import read_folder
from lab.data.onnx_operators import CONVERTERS, Affine, OnnxNode
from shared.errors import SetupError

# Largest difference of any coordinate of unit embeddings between the copy and ONNX Runtime. Both compute in float32, in
# another order of sums; SFace differs by some 1e-6.
TOLERANCE: Final = 1e-4

_NOISES: Final = 4
_PICTURES: Final = CHECKOUT / "tests" / "pictures"

_log = logging.getLogger(__name__)


def load_torch_embedder(path: Path, *, faces: NDArray[np.uint8] | None = None, cache: Path = DEFAULT) -> nn.Module:
    """The torch copy of an ONNX embedder, checked against ONNX Runtime.

    The module takes (n, 3, 112, 112) float32, RGB 0 to 255, and returns (n, d) float32 raw embeddings; what the JSON
    beside the file asks for is done inside (``edge_service.vision.embedder_files``). It is in evaluation mode, and none
    of its parameters wants a gradient. It is fastest in pieces of 8 images, each with its own way back.

    Args:
        path: the .onnx file, with one input and one output.
        faces: (n, 112, 112, 3) uint8 RGB to compare on, besides noise; None: the public-domain faces of a checkout's
            ``tests/pictures``, where there is one and the face detector is ready.
        cache: where those faces are kept, once found and aligned.

    Raises:
        SetupError: the file is missing, has an operator that is not supported, or the copy differs from it.
    """
    file = open_file(path)
    torch_embedder = TorchEmbedder(read_onnx(file.data, path.name), file.description)
    noise = np.random.default_rng(0).integers(0, 256, (_NOISES, SIDE, SIDE, 3), dtype=np.uint8)
    for_check = _public_faces(cache) if faces is None else faces
    check_parity(torch_embedder, file, np.concatenate([noise, for_check]))
    return torch_embedder


class TorchEmbedder(nn.Module):
    """Prepares faces as an embedder's file asks for, and embeds them.

    Args:
        network: from ``read_onnx``.
        description: of its input; by default the network takes RGB 0 to 255.
    """

    mean: Tensor
    scale: Tensor
    grid: Tensor | None

    def __init__(self, network: nn.Module, description: EmbedderDescription | None = None) -> None:
        super().__init__()
        wanted = description or EmbedderDescription()
        self._side, self._flipped = wanted.pixels, wanted.channels == "BGR"
        self._normalizes = bool(np.any(wanted.mean)) or bool(np.any(np.asarray(wanted.scale) != 1))
        self.register_buffer("mean", torch.tensor(wanted.mean).reshape(-1, 1, 1))
        self.register_buffer("scale", torch.tensor(wanted.scale).reshape(-1, 1, 1))
        self.register_buffer("grid", None if wanted.template is ARCFACE else _grid(wanted.template))
        self.network = network
        self.requires_grad_(False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Embeds faces.

        Args:
            x: (n, 3, 112, 112) float32, RGB 0 to 255.

        Returns:
            (n, d) float32, raw.
        """
        rows: Tensor = self.network(self.prepared(x).contiguous(memory_format=torch.channels_last))
        return rows

    def prepared(self, x: Tensor) -> Tensor:
        """What the graph takes of faces (n, 3, 112, 112) float32, RGB 0 to 255: (n, 3, side, side) float32."""
        if self.grid is not None:
            grid = self.grid.expand(len(x), -1, -1, -1)
            x = functional.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        if x.shape[-1] != self._side:
            x = functional.interpolate(x, size=(self._side, self._side), mode="bilinear", align_corners=False)
        x = x.flip(1) if self._flipped else x
        return (x - self.mean) * self.scale if self._normalizes else x


def check_parity(torch_embedder: TorchEmbedder, file: EmbedderFile, faces: NDArray[np.uint8]) -> float:
    """Compares a copy with ONNX Runtime, on the same prepared pixels.

    Args:
        torch_embedder: of the file.
        file: the embedder.
        faces: (n, 112, 112, 3) uint8 RGB.

    Returns:
        The largest difference of any coordinate of unit embeddings.

    Raises:
        SetupError: it is over 1e-4, or not a number.
    """
    session = file.session()
    with torch.no_grad():
        x = torch.from_numpy(EmbedderDescription().prepared(faces))
        found = unit(torch_embedder(x).numpy())
        blob = np.ascontiguousarray(torch_embedder.prepared(x).numpy())
    expected = unit(session.rows(blob))
    difference = float(np.abs(found - expected).max()) if found.shape == expected.shape else np.inf
    if not difference <= TOLERANCE:
        raise SetupError(
            f"The torch copy of {file.path.name} gives other embeddings than ONNX Runtime does (by {difference:.1e}); "
            "it cannot stand in for the embedder.",
            reason="embedding-differs",
        )
    return difference


def _public_faces(cache: Path) -> NDArray[np.uint8]:
    """(n, 112, 112, 3) uint8 RGB; none outside a checkout, or before the face detector is fetched."""
    try:
        return read_folder(_PICTURES, cache=cache, aligned=False).pixels
    except SetupError:
        _log.info("no public-domain faces at hand; the copy is compared on noise alone")
        return np.empty((0, SIDE, SIDE, 3), np.uint8)


def _grid(template: Alignment) -> Tensor:
    """Where each pixel of a template comes from in the ArcFace one: (1, side, side, 2) float32, -1 to 1."""
    onto = np.vstack([similarity_transform(ARCFACE.points.astype(np.float32), template.points), [0, 0, 1]])
    rows, columns = np.mgrid[: template.side, : template.side]
    places = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ np.linalg.inv(onto)[:2].T
    return torch.from_numpy((places * 2 / (ARCFACE.side - 1) - 1).astype(np.float32)[None])


_ARITHMETIC: Final[dict[str, Callable[..., Any]]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": operator.truediv,
}
_SAME_VALUE: Final = ("Identity", "Dropout")  # in inference


def read_onnx(data: bytes, name: str) -> fx.GraphModule:
    """Reads a serialized model with one input of four axes and one output.

    Args:
        data: the bytes of the file.
        name: of the file, for errors.

    Returns:
        a module in evaluation mode; none of its parameters has a gradient.

    Raises:
        SetupError: not such a model, or an operator, or a use of one, that is not supported.
    """
    try:
        model = onnx.load_model_from_string(data)
        shapes = onnx.shape_inference.infer_shapes(model).graph
    except Exception as problem:  # protobuf's errors share no base class
        raise SetupError(f"{name} is not an ONNX model; export the embedder again.") from problem
    reader = _Reader(model.graph, name)
    reader.rank = {each.name: len(each.type.tensor_type.shape.dim) for each in (*shapes.input, *shapes.value_info)}
    module = reader.read()
    # Double until here, so that what is folded is rounded once.
    module = module.float().eval().requires_grad_(False)
    # With channels last, forward and backward take half the time or less, above all in depthwise convolutions.
    for each in module.modules():
        if isinstance(each, nn.Conv2d):
            each.weight.data = each.weight.data.contiguous(memory_format=torch.channels_last)
    return module


class _Reader:
    """Converts node by node; ``values`` holds what is computed so far."""

    def __init__(self, graph: onnx.GraphProto, name: str) -> None:
        self.name = name
        self.onnx = graph
        self.constants: dict[str, NDArray[Any]] = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.values: dict[str, fx.Node] = {}
        self.rank: dict[str, int] = {}
        self.graph, self.root = fx.Graph(), nn.Module()

    def read(self) -> fx.GraphModule:
        """All of it; see ``read_onnx``."""
        inputs = [value for value in self.onnx.input if value.name not in self.constants]
        if len(inputs) != 1 or len(self.onnx.output) != 1 or self.rank.get(inputs[0].name) != 4:
            raise SetupError(f"{self.name} does not have one input of four axes and one output; name an embedder.")
        self.values[inputs[0].name] = self.graph.placeholder("x")
        for node in self.onnx.node:
            self._take(node)
        output = self.values.get(self.onnx.output[0].name)
        if output is None:
            raise SetupError(f"{self.name} gives a constant; name an embedder.")
        self.graph.output(output)
        self._fold()
        self.graph.lint()
        return fx.GraphModule(self.root, self.graph)

    def _take(self, node: onnx.NodeProto) -> None:
        rank = self.rank.get(node.input[0]) if node.input else None
        found, output = OnnxNode(node, self.name, self.constants, rank), node.output[0]
        if node.op_type == "Constant":
            self.constants[output] = _constant(found.attributes)
        elif node.op_type in _SAME_VALUE:
            source = self.constants if node.input[0] in self.constants else self.values
            source[output] = source[node.input[0]]  # type: ignore[assignment]
        elif node.op_type in _ARITHMETIC:
            self.values[output] = self._arithmetic(found)
        elif node.op_type in CONVERTERS and node.domain in ("", "ai.onnx"):
            made = CONVERTERS[node.op_type](found)
            values = [self._value(found, each) for each in (node.input if node.op_type == "Concat" else node.input[:1])]
            for step in made if isinstance(made, list) else [made]:
                values = [self._step(step, values)]
            self.values[output] = values[0]
        else:
            known = ", ".join(sorted({*CONVERTERS, *_ARITHMETIC, *_SAME_VALUE, "Constant"}))
            raise SetupError(
                f"{self.name} has the operator {node.op_type}, which is not supported; supported are {known}.",
                reason="unknown-operator",
                operator=node.op_type,
            )

    def _value(self, node: OnnxNode, name: str) -> fx.Node:
        if name in self.values:
            return self.values[name]
        raise node.refuse("on constants" if name in self.constants else f"on {name}, which no node before it gives")

    def _step(self, step: nn.Module | partial[Any], values: Sequence[fx.Node]) -> fx.Node:
        if isinstance(step, partial):
            return self.graph.call_function(step.func, tuple(values), step.keywords)
        name = f"step_{len(list(self.root.children()))}"
        self.root.add_module(name, step)
        return self.graph.call_module(name, tuple(values))

    def _arithmetic(self, node: OnnxNode) -> fx.Node:
        """Add, Sub, Mul or Div, of two values or of a value and a constant."""
        constant = [name in self.constants for name in node.inputs]
        if all(constant):
            raise node.refuse("on constants")
        if not any(constant):
            values = tuple(self._value(node, name) for name in node.inputs)
            return self.graph.call_function(_ARITHMETIC[node.kind], values)
        at = constant.index(True)
        c = node.tensor(at)
        one, zero = torch.ones(1).double(), torch.zeros(1).double()
        if node.kind == "Div" and at == 0:
            raise node.refuse("of a constant by a value")
        affine = {
            "Add": (one, c),
            "Sub": (one, -c) if at == 1 else (-one, c),
            "Mul": (c, zero),
            "Div": (1 / c, zero),
        }[node.kind]
        return self._step(Affine(*affine), [self._value(node, node.inputs[1 - at])])

    def _fold(self) -> None:
        """Folds each scale and shift into the layer before it, if nothing else reads that layer's output."""
        modules = dict(self.root.named_children())
        for node in list(self.graph.nodes):
            affine = modules.get(str(node.target)) if node.op == "call_module" else None
            if not isinstance(affine, Affine):
                continue
            before = node.args[0]
            layer = modules.get(str(before.target)) if before.op == "call_module" and len(before.users) == 1 else None
            if layer is not None and _folded(layer, affine):
                node.replace_all_uses_with(before)
                self.graph.erase_node(node)
                delattr(self.root, str(node.target))


def _folded(layer: nn.Module, affine: Affine) -> bool:
    """Folds a scale and shift into a layer in place; whether that is possible."""
    scale, shift = affine.scale, affine.shift
    if isinstance(layer, Affine):
        layer.scale, layer.shift = layer.scale * scale, layer.shift * scale + shift
        return True
    if not isinstance(layer, nn.Conv2d | nn.Linear) or layer.bias is None:
        return False
    channels = (1, len(layer.weight), 1, 1) if isinstance(layer, nn.Conv2d) else (1, len(layer.weight))
    try:
        scale, shift = (each.broadcast_to(channels).flatten() for each in (scale, shift))
    except RuntimeError:  # it runs along another axis
        return False
    layer.weight.data *= scale.view(-1, *(1,) * (layer.weight.dim() - 1))
    layer.bias.data = layer.bias.data * scale + shift
    return True


def _constant(attributes: dict[str, Any]) -> NDArray[Any]:
    """The value of a Constant node."""
    for name, value in attributes.items():
        if name == "value":
            return np.asarray(numpy_helper.to_array(value))
        if name in ("value_float", "value_floats"):
            return np.asarray(value, dtype=np.float32)
        if name in ("value_int", "value_ints"):
            return np.asarray(value, dtype=np.int64)
    raise SetupError("The model has a constant that is neither numbers nor a tensor.", reason="unknown-operator")
