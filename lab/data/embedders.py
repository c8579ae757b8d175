"""Embedders for the lab: those that the edge serves, by name, or an ONNX file of one's own.

All run in the edge's runtime. What is kept of a set of images are raw embeddings, under a digest of the embedder, its
preprocessing and the images.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_service.models.store import locate
from edge_service.settings import InferenceSettings
from edge_service.vision.align import ARCFACE, Alignment, align
from edge_service.vision.embed import EMBEDDERS, Embedder, EmbedderSpec
from edge_service.vision.embedder_files import EmbedderDescription, EmbedderFile
from edge_service.vision.sessions import RUNTIME_ERRORS, OrtSession
from lab.data.image_store import DEFAULT, digest_of, load_rows, written_whole
from lab.data.images import FaceImages
from lab.progress import progress
from shared.errors import SetupError

_FORMAT: Final = 1
# As the edge's own: larger batches take as long a face and hold more memory.
_BATCH: Final = 16


# Faces whose embeddings are kept together: some seconds' work. Whole batches, so that parts change no embedding.
_PART: Final = 16 * _BATCH

# Faces to raw embeddings: (n, 112, 112, 3) uint8 RGB to (n, d) float32.
Network = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class Encoder:
    """An embedder that is ready to run.

    Attributes:
        name: as the edge calls it, or the stem of its file.
        path: its file; ``lab.data.torch_embedder.load_torch_embedder`` makes a differentiable copy of it.
        sha256: of the file, in hex.
        preprocessing: in words; a part of every cached embedding's key.
        network: what runs it.
        dim: the length of its embeddings; None: not said, so whatever it gives.
        tau: the cosine threshold that the edge serves it with; None for one's own, whose tau is to be calibrated.
    """

    name: str
    path: Path
    sha256: str
    preprocessing: str
    network: Network
    dim: int | None
    tau: float | None

    def embed(self, pixels: NDArray[np.uint8], names: NDArray[np.object_] | None = None) -> NDArray[np.float32]:
        """Embeds faces, in batches.

        Args:
            pixels: (n, 112, 112, 3) uint8 RGB, n at least 1.
            names: of the faces, for errors.

        Returns:
            (n, d) float32, raw: not of unit length.

        Raises:
            SetupError: what the embedder gives has another dimension than was said, is not finite, or is zero.
        """
        return np.concatenate([self._batch(pixels, names, at) for at in range(0, len(pixels), _BATCH)])

    def _batch(self, pixels: NDArray[np.uint8], names: NDArray[np.object_] | None, at: int) -> NDArray[np.float32]:
        rows = self.network(np.asarray(pixels[at : at + _BATCH]))
        count = min(_BATCH, len(pixels) - at)
        if rows.ndim != 2 or len(rows) != count:
            raise SetupError(
                f"The embedder {self.name} gives an array of {rows.shape} for {count} faces where one row a face is "
                "expected; export it with the embedding as its output, and with a free batch.",
                reason="output-differs",
            )
        if self.dim is not None and rows.shape[1] != self.dim:
            raise SetupError(
                f"The embedder {self.name} gives embeddings of length {rows.shape[1]} where {self.dim} is said; "
                "correct the dim in the JSON beside it, or name the right file.",
                reason="dimension-differs",
            )
        lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
        for bad, what in ((~np.isfinite(lengths), "numbers that are not finite"), (lengths == 0, "a zero vector")):
            if bad.any():
                row = at + int(np.argmax(bad))
                raise SetupError(
                    f"The embedder {self.name} gives {what} for {names[row] if names is not None else f'face {row}'}; "
                    "check the mean and the scale of its input.",
                    reason="not-an-embedding",
                )
        return np.ascontiguousarray(rows, dtype=np.float32)


def open_encoder(name_or_path: str | Path) -> Encoder:
    """The embedder of a name that the edge serves, or of an ``.onnx`` file.

    ``edge_service.vision.embedder_files`` describes the JSON beside the file.

    Args:
        name_or_path: which one.

    Raises:
        SetupError: neither a known name nor a file, or a file that cannot be used.
    """
    spec = EMBEDDERS.get(str(name_or_path))
    if spec is not None:
        return _built_in(spec)
    path = Path(name_or_path)
    if path.suffix != ".onnx":
        known = ", ".join(EMBEDDERS)
        raise SetupError(f"{name_or_path} is no embedder; name one of {known}, or an .onnx file.")
    file = open_file(path)
    session, wanted = file.session(), file.description

    def network(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        blob = wanted.prepared(aligned_to(pixels, wanted.template))
        try:
            return session.rows(blob)
        except RUNTIME_ERRORS as problem:
            raise SetupError(
                f"{path.name} does not take an input of {blob.shape}; name its side in the JSON beside it, "
                "and export it with a free batch.",
                reason="input-differs",
            ) from problem

    return Encoder(path.stem, path, file.sha256, str(wanted), network, wanted.dim, None)


def open_file(path: Path) -> EmbedderFile:
    """An .onnx file and its description.

    Where there is no JSON, RGB 0 to 255, aligned as the edge does it for an embedder of this name, if it has one.

    Raises:
        SetupError: there is no such file, or the JSON is not valid.
    """
    served = EMBEDDERS.get(path.stem)
    plain = EmbedderDescription() if served is None else served.description.model_copy(update={"dim": served.dim})
    return EmbedderFile.open(path, otherwise=plain)


def aligned_to(pixels: NDArray[np.uint8], template: Alignment) -> NDArray[np.uint8]:
    """Faces moved from the ArcFace template onto another, by the edge's own code; black where that reaches over them.

    Args:
        pixels: (n, 112, 112, 3) uint8 RGB.
        template: where the landmarks belong.

    Returns:
        (n, side, side, 3) uint8 RGB.
    """
    if template is ARCFACE:
        return pixels
    landmarks = ARCFACE.points.astype(np.float32)
    return np.stack([align(face, landmarks, template) for face in pixels])


def embed_images(images: FaceImages, encoder: Encoder, *, cache: Path = DEFAULT) -> NDArray[np.float32]:
    """Raw embeddings of a set, from the cache where they are: (n, d) float32.

    They are kept in parts while they are made, so that an interrupted run continues.

    Raises:
        SetupError: the embedder fails on a face, or the cache cannot be written.
    """
    key = digest_of("embeddings", _FORMAT, encoder.sha256, encoder.preprocessing, images.digest)
    path = cache / "embeddings" / f"{encoder.name}-{key[:32]}.npy"
    kept = _kept(path, len(images))
    if kept is not None:
        return kept
    parts = path.with_suffix(".parts")
    starts = range(0, len(images), _PART)
    shown = progress(starts, f"embedding with {encoder.name}", len(starts), weight=min(_PART, len(images)))
    made = np.concatenate([_part(images, encoder, at, parts / f"{at}.npy") for at in shown])
    with written_whole(path) as file:
        np.save(file, made)
    shutil.rmtree(parts, ignore_errors=True)
    return made


def _part(images: FaceImages, encoder: Encoder, at: int, path: Path) -> NDArray[np.float32]:
    chosen = slice(at, at + _PART)
    kept = _kept(path, len(images.names[chosen]))
    if kept is not None:
        return kept
    made = encoder.embed(images.pixels[chosen], images.names[chosen])
    with written_whole(path) as file:
        np.save(file, made)
    return made


def _kept(path: Path, count: int) -> NDArray[np.float32] | None:
    rows = load_rows(path)
    good = rows is not None and rows.dtype == np.float32 and rows.ndim == 2 and len(rows) == count
    return rows if good else None


def unit(raw: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unit rows of raw embeddings: (n, d) float32."""
    wide = raw.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), dtype=np.float32)


def _built_in(spec: EmbedderSpec) -> Encoder:
    model = locate("face-embedder", name=spec.name)
    embedder = Embedder(OrtSession(model, InferenceSettings()), spec)

    def network(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = embedder.embed(aligned_to(pixels, spec.alignment))
        return found.unit * found.norms[:, None]

    said = str(spec.description)
    return Encoder(spec.name, model.path, model.sha256, said, network, spec.dim, spec.known_threshold.cosine)
