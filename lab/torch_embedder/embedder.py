"""A twin in torch of an embedder's ONNX graph: the same embeddings, and gradients down to the pixels.

Weights are frozen: gradients flow to the input alone. A twin is checked against ONNX Runtime when it is loaded, on
noise and on real faces, and refused where it differs.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edge_service.models.manifest import CHECKOUT
from edge_service.vision.align import ARCFACE, SIDE, Alignment, similarity_transform
from lab.data.image_store import DEFAULT
from lab.data.images import read_folder
from lab.data.onnx_files import OnnxFile, Preprocessing, prepare
from lab.torch_embedder.graph import read_graph
from lab.torch_embedder.parts import Graph
from shared.errors import SetupError

# Largest difference of any coordinate of unit embeddings between a twin and ONNX Runtime. Both compute in float32, in
# another order of sums; SFace differs by some 1e-6.
TOLERANCE: Final = 1e-4

_NOISES: Final = 4
_PICTURES: Final = CHECKOUT / "tests" / "pictures"

_log = logging.getLogger(__name__)


def load_twin(path: Path, *, faces: NDArray[np.uint8] | None = None, cache: Path = DEFAULT) -> nn.Module:
    """The twin of an ONNX embedder, checked against ONNX Runtime.

    The module takes (n, 3, 112, 112) float32, RGB 0 to 255, and returns (n, d) float32 raw embeddings; what the JSON
    beside the file asks for is done inside (``onnx_files``). It is in evaluation mode, and none of its parameters
    wants a gradient. It is fastest in pieces of 8 images, each with its own way back.

    Args:
        path: the .onnx file, with one input and one output.
        faces: (n, 112, 112, 3) uint8 RGB to compare on, besides noise; None: the public-domain faces of a checkout's
            ``tests/pictures``, where there is one and the face detector is ready.
        cache: where those faces are kept, once found and aligned.

    Raises:
        SetupError: the file is missing, has an operator that is not supported, or its twin differs from it.
    """
    file = OnnxFile.open(path)
    twin = Twin(read_graph(file.data, path.name), file.preprocessing)
    noise = np.random.default_rng(0).integers(0, 256, (_NOISES, SIDE, SIDE, 3), dtype=np.uint8)
    for_check = _public_faces(cache) if faces is None else faces
    check_twin(twin, file, np.concatenate([noise, for_check]))
    return twin


class Twin(nn.Module):
    """The steps of a graph, run in order; a value is let go once nothing more reads it.

    Args:
        graph: from ``read_graph``.
        preprocessing: of its input; by default the graph takes RGB 0 to 255.
    """

    mean: Tensor
    scale: Tensor
    grid: Tensor | None

    def __init__(self, graph: Graph, preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        wanted = preprocessing or Preprocessing()
        self._side, self._turned = wanted.pixels, wanted.channels == "BGR"
        self._shifted = bool(np.any(wanted.mean)) or bool(np.any(np.asarray(wanted.scale) != 1))
        self.register_buffer("mean", torch.tensor(wanted.mean).reshape(-1, 1, 1))
        self.register_buffer("scale", torch.tensor(wanted.scale).reshape(-1, 1, 1))
        self.register_buffer("grid", None if wanted.template is ARCFACE else _grid(wanted.template))
        self.operations = nn.ModuleList(step.op.module() for step in graph.steps)
        self._input, self._output = graph.input, graph.output
        self._plan = [(tuple(step.inputs), step.output) for step in graph.steps]
        last = {name: at for at, (inputs, _) in enumerate(self._plan) for name in inputs}
        self._done: list[list[str]] = [[] for _ in self._plan]
        for name, at in last.items():
            if name != self._output:
                self._done[at].append(name)
        self.requires_grad_(False)
        self.eval()
        # With channels last a step takes half the time or less, forward and back, above all where channels are apart.
        for operation in self.operations.modules():
            if isinstance(operation, nn.Conv2d):
                operation.weight.data = operation.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Embeds faces.

        Args:
            x: (n, 3, 112, 112) float32, RGB 0 to 255.

        Returns:
            (n, d) float32, raw.
        """
        values = {self._input: self.prepared(x).contiguous(memory_format=torch.channels_last)}
        for operation, (inputs, output), done in zip(self.operations, self._plan, self._done, strict=True):
            values[output] = operation(*(values[name] for name in inputs))
            for name in done:
                del values[name]
        return values[self._output]

    def prepared(self, x: Tensor) -> Tensor:
        """What the graph takes of faces (n, 3, 112, 112) float32, RGB 0 to 255: (n, 3, side, side) float32."""
        if self.grid is not None:
            grid = self.grid.expand(len(x), -1, -1, -1)
            x = functional.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        if x.shape[-1] != self._side:
            x = functional.interpolate(x, size=(self._side, self._side), mode="bilinear", align_corners=False)
        x = x.flip(1) if self._turned else x
        return (x - self.mean) * self.scale if self._shifted else x


def check_twin(twin: Twin, file: OnnxFile, faces: NDArray[np.uint8]) -> float:
    """Compares a twin with ONNX Runtime, on the same prepared pixels.

    Args:
        twin: of the file.
        file: the embedder.
        faces: (n, 112, 112, 3) uint8 RGB.

    Returns:
        The largest difference of any coordinate of unit embeddings.

    Raises:
        SetupError: it is over 1e-4, or not a number.
    """
    session = file.session()
    with torch.no_grad():
        x = torch.from_numpy(prepare(faces, Preprocessing()))
        found = _unit(twin(x).numpy())
        blob = np.ascontiguousarray(twin.prepared(x).numpy())
    expected = _unit(session.run({session.input_names[0]: blob})[0])
    difference = float(np.abs(found - expected).max()) if found.shape == expected.shape else np.inf
    if not difference <= TOLERANCE:
        raise SetupError(
            f"The twin of {file.path.name} gives other embeddings than ONNX Runtime does (by {difference:.1e}); "
            "it cannot stand in for the embedder.",
            reason="twin-differs",
        )
    return difference


def _public_faces(cache: Path) -> NDArray[np.uint8]:
    """(n, 112, 112, 3) uint8 RGB; none outside a checkout, or before the face detector is fetched."""
    try:
        return read_folder(_PICTURES, cache=cache, aligned=False).pixels
    except SetupError:
        _log.info("no public-domain faces at hand; the twin is compared on noise alone")
        return np.empty((0, SIDE, SIDE, 3), np.uint8)


def _grid(template: Alignment) -> Tensor:
    """Where each pixel of a template comes from in the ArcFace one: (1, side, side, 2) float32, -1 to 1."""
    onto = np.vstack([similarity_transform(ARCFACE.points.astype(np.float32), template.points), [0, 0, 1]])
    rows, columns = np.mgrid[: template.side, : template.side]
    places = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ np.linalg.inv(onto)[:2].T
    return torch.from_numpy((places * 2 / (ARCFACE.side - 1) - 1).astype(np.float32)[None])


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True))
