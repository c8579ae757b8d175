"""Embeds aligned faces; the embedders that an edge may run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_service.protection.profiles.score import ScoreCalibration, ScoreWeights
from edge_service.vision.align import ARCFACE, DLIB_CHIP, Alignment
from edge_service.vision.decode import Pixels
from edge_service.vision.embedder_files import EmbedderDescription
from edge_service.vision.sessions import OrtSession
from shared.errors import SetupError
from shared.wire.common import Threshold

# Measured on two cores: 34 ms a face alone, 27 in batches of 16, 29 in batches of 32, which hold twice the memory.
MAX_BATCH: Final = 16


def faces_per_batch(*, mirrored: bool) -> int:
    """The most faces of one batch; a face that is embedded mirrored too takes two places."""
    return MAX_BATCH // 2 if mirrored else MAX_BATCH


@dataclass(frozen=True, slots=True)
class EmbedderSpec:
    """The properties of an embedder.

    Attributes:
        name: as in the model manifest, or that of one's own.
        dim: length of the embedding.
        description: of its input.
        threshold: tau where an operator names none, and its measured false match rate; None: not known.
        score: how subjects with several templates are compared, for profiles that do not say so.
        align_twice: whether a second alignment was measured to help it; needs ``ARCFACE``.
        mirror: whether the mean with the mirrored face was measured to keep the false match rate at the threshold.
    """

    name: str
    dim: int
    description: EmbedderDescription
    threshold: Threshold | None
    score: ScoreCalibration | None = None
    align_twice: bool = False
    mirror: bool = False

    @property
    def alignment(self) -> Alignment:
        """The alignment of its input."""
        return self.description.template

    @property
    def preprocessing(self) -> str:
        """The name of alignment template, size, channels and range; part of every contract."""
        return self.description.pinned

    @property
    def known_threshold(self) -> Threshold:
        """The threshold of an embedder that Patronus knows.

        Raises:
            SetupError: it is an operator's own.
        """
        if self.threshold is None:
            raise SetupError(f"The threshold of the embedder {self.name} is not known.")
        return self.threshold


# tau: the value published with SFace (L2 1.128). FMR there: all 87 million impostor pairs of LFW, docs/accuracy.md.
# score: calibrated by `patronus lab measure` on LFW, 50 people in the wild and UTKFace: the smallest exponent of the
# embeddings at cosine 0.363 and 0.384, and of templates of the profile `default` at 0.384.
SFACE: Final = EmbedderSpec(
    name="sface_2021dec",
    dim=128,
    description=EmbedderDescription(alignment=ARCFACE.name),
    threshold=Threshold(cosine=0.363, fmr=0.00201),
    score=ScoreCalibration(
        exponents=[0.69, 0.65, 0.64, 0.62, 0.62, 0.62, 0.58],
        weights=ScoreWeights(norm=12.4, power=2.0),
    ),
    align_twice=True,
    mirror=True,
)

# dlib's own rule is a distance below 0.6. The cosine loses nothing against it: LFW's 10-fold accuracy is 98.9 % by
# either, and at FMR 1e-3 it accepts 92.5 % of genuine pairs where the distance accepts 91.0 %.
# tau: where FMR is 1e-3. FMR there: all 87 million impostor pairs of LFW. Strangers' cosines are 0.835 in the mean.
# score: as SFace's, of embeddings and of templates of the profile `dlib`. Weights gain nothing.
DLIB: Final = EmbedderSpec(
    name="dlib_resnet29",
    dim=128,
    description=EmbedderDescription(alignment=DLIB_CHIP.name),
    threshold=Threshold(cosine=0.927, fmr=0.00104),
    score=ScoreCalibration(exponents=[0.37]),
)

EMBEDDERS: Final = {spec.name: spec for spec in (SFACE, DLIB)}


def spec_named(name: str) -> EmbedderSpec:
    """The embedder of a name.

    Raises:
        SetupError: there is none.
    """
    try:
        return EMBEDDERS[name]
    except KeyError:
        known = ", ".join(EMBEDDERS)
        raise SetupError(
            f"There is no embedder {name}; set PATRONUS_EDGE__EMBEDDER to one of: {known}.", reason="unknown-embedder"
        ) from None


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Raw embeddings of faces. They never leave the edge.

    Attributes:
        unit: (n, d) float32, unit rows.
        norms: (n,) float32, the lengths before normalization, which indicate the faces' quality.
    """

    unit: NDArray[np.float32] = field(repr=False)
    norms: NDArray[np.float32] = field(repr=False)


class Embedder:
    """Embeds aligned faces, many at once.

    Args:
        session: the network.
        spec: the properties of the network.
    """

    def __init__(self, session: OrtSession, spec: EmbedderSpec = SFACE) -> None:
        self._session = session
        self.spec = spec

    def embed(self, aligned: NDArray[np.uint8] | list[Pixels], *, mirrored: bool = False) -> Embeddings:
        """Embeds faces.

        Args:
            aligned: n faces of (side, side, 3) uint8 RGB, aligned for this embedder.
            mirrored: whether a raw embedding is the mean of those of the face and of its mirror image.

        Raises:
            ValueError: not such faces, or the network returned something that is not an embedding.
        """
        faces, side = np.asarray(aligned), self.spec.alignment.side
        if faces.ndim != 4 or faces.shape[1:] != (side, side, 3) or faces.dtype != np.uint8:
            raise ValueError(f"aligned faces are (n, {side}, {side}, 3) uint8")
        if not mirrored:
            vectors = self._vectors(faces)
        else:
            both = np.stack([faces, faces[:, :, ::-1]], axis=1).reshape(-1, side, side, 3)
            vectors = self._vectors(both).reshape(-1, 2, self.spec.dim).mean(axis=1)
        norms = _lengths(vectors)
        return Embeddings((vectors / norms[:, None]).astype(np.float32), norms.astype(np.float32))

    def _vectors(self, faces: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Raw embeddings, none of them zero."""
        raw = [self._infer(faces[start : start + MAX_BATCH]) for start in range(0, len(faces), MAX_BATCH)]
        vectors = np.concatenate(raw) if raw else np.empty((0, self.spec.dim), np.float32)
        if vectors.shape != (len(faces), self.spec.dim) or not np.isfinite(vectors).all():
            raise ValueError("the embedder returned something that is not an embedding")
        wide = vectors.astype(np.float64)
        _lengths(wide)
        return wide

    def _infer(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._session.rows(self.spec.description.prepared(faces))


def _lengths(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.linalg.norm(vectors, axis=1)
    if (lengths < np.finfo(np.float32).tiny).any():
        raise ValueError("the embedder returned a zero vector")
    return lengths
