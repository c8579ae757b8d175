"""A differentiable torch copy of an ONNX embedder: the same embeddings, with gradients down to the pixels.

Weights are frozen: gradients flow to the input alone. A copy is checked against ONNX Runtime when it is loaded, on
noise and on real faces, and refused if it differs.
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
from lab.data.onnx_to_torch import read_onnx
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
    beside the file asks for is done inside (``onnx_files``). It is in evaluation mode, and none of its parameters
    wants a gradient. It is fastest in pieces of 8 images, each with its own way back.

    Args:
        path: the .onnx file, with one input and one output.
        faces: (n, 112, 112, 3) uint8 RGB to compare on, besides noise; None: the public-domain faces of a checkout's
            ``tests/pictures``, where there is one and the face detector is ready.
        cache: where those faces are kept, once found and aligned.

    Raises:
        SetupError: the file is missing, has an operator that is not supported, or the copy differs from it.
    """
    file = OnnxFile.open(path)
    torch_embedder = TorchEmbedder(read_onnx(file.data, path.name), file.preprocessing)
    noise = np.random.default_rng(0).integers(0, 256, (_NOISES, SIDE, SIDE, 3), dtype=np.uint8)
    for_check = _public_faces(cache) if faces is None else faces
    check_parity(torch_embedder, file, np.concatenate([noise, for_check]))
    return torch_embedder


class TorchEmbedder(nn.Module):
    """Prepares faces as an embedder's file asks for, and embeds them.

    Args:
        network: from ``read_onnx``.
        preprocessing: of its input; by default the network takes RGB 0 to 255.
    """

    mean: Tensor
    scale: Tensor
    grid: Tensor | None

    def __init__(self, network: nn.Module, preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        wanted = preprocessing or Preprocessing()
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


def check_parity(torch_embedder: TorchEmbedder, file: OnnxFile, faces: NDArray[np.uint8]) -> float:
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
        x = torch.from_numpy(prepare(faces, Preprocessing()))
        found = _unit(torch_embedder(x).numpy())
        blob = np.ascontiguousarray(torch_embedder.prepared(x).numpy())
    expected = _unit(session.run({session.input_names[0]: blob})[0])
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


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True))
