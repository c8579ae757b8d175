"""What the record takes and gives: values, without the database."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.scores import CosineThreshold
from shared.wire.cloud import EnrolledTemplate, IndexKind
from shared.wire.common import Receipt


@dataclass(frozen=True, slots=True)
class PinnedGallery:
    """What every comparison in a gallery needs to know of it."""

    id: int
    name: str
    contract_digest: str
    dim: int
    threshold: CosineThreshold
    fmr: float
    verify_only: bool
    turn: int
    max_age_seconds: int | None
    index_kind: IndexKind | None


@dataclass(frozen=True, slots=True)
class NewRow:
    """A template to store: its id on the wire and its vector, (dim,) float32, a unit vector."""

    uid: str
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Added:
    """What an enrollment left: an answer for every template of it, and those that the index does not know yet.

    ``ids`` is (n,) int64 and ``vectors`` (n, dim) float32; a repeated enrollment has n = 0.
    """

    answers: list[EnrolledTemplate]
    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Removed:
    """What an erasure removed, what the log says of it, and the (n,) int64 ids that the index has to forget.

    Of a gallery there are no ids: its index is dropped.
    """

    subjects: int
    templates: int
    receipt: Receipt
    ids: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Stored:
    """Templates as they are in the record now: (n,) int64 ids in order, their subjects, (n, dim) float32 vectors.

    ``damaged`` is (k,) int64: ids of further templates whose bytes are not what was stored.
    """

    ids: NDArray[np.int64]
    subjects: list[str]
    vectors: NDArray[np.float32]
    damaged: NDArray[np.int64]
