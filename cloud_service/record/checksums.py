"""Checksums of what decides: of stored templates, and of the rows of galleries.

A template is stored as a blob: the (dim,) float32 values, little-endian, and 8 bytes of checksum, so that damaged bytes
are never taken for a template. The checksum covers the values and where they belong: the gallery, the version of its
key, and the subject's name. So a blob that lands under another name, key or gallery is as damaged as one with a flipped
bit (docs/decisions/0018).

With u the values' bit patterns as uint32, the checksum is the sum of ``K[i] * u[i]`` and ``K[dim] * c`` modulo 2**64,
where ``c`` is the CRC-32 of the owner and every ``K[i]`` is a fixed odd number. An odd factor is invertible modulo
2**64: any change of one value, one bit or all 32, is detected with certainty. NumPy checks a thousand rows in a tenth
of the time that a call of ``zlib.crc32`` or ``hashlib`` for each row takes.

A template's weight is covered in the same way: with w its bit pattern as uint64, another odd factor times the
difference of w and the pattern of 1 is added. So the checksum of a template whose weight is 1 is what it was before
there were weights.
"""

from __future__ import annotations

import hashlib
import json
import threading
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.contract import MAX_DIM
from shared.errors import RecordDamaged
from shared.logs import get_logger
from shared.wire.cloud import MAX_WEIGHT, MIN_WEIGHT

_log = get_logger(__name__)
# The most row ids in one line of the log; `patronus cloud check` lists all.
_LOGGED_IDS: Final = 50

# Every stored vector was within shared.envelope.UNIT_TOLERANCE (1e-4) of length 1, so its square within 2.1e-4 of 1.
# float32 sums of up to MAX_DIM squares add less than 3e-4.
_SQUARE_TOLERANCE: Final = 5e-4

_FACTORS: Final[NDArray[np.uint64]] = (
    np.frombuffer(hashlib.shake_256(b"patronus template checksum 1").digest(8 * (MAX_DIM + 1)), "<u8") | 1
).astype(np.uint64)

_WEIGHT_FACTOR: Final = np.uint64(
    int.from_bytes(hashlib.shake_256(b"patronus template weight 1").digest(8), "little") | 1
)
_ONE: Final = np.array([1.0]).view(np.uint64)[0]

# The owner where a name is damaged: what no CRC-32 is, so that the checksums of its templates do not fit.
_NOBODY: Final = 1 << 32
_HALF: Final = np.uint64(32)
_HIGH_FACTORS: Final[NDArray[np.uint64]] = _FACTORS[1::2] - (_FACTORS[:MAX_DIM:2] << _HALF)


def to_blobs(
    vectors: NDArray[np.float32],
    weights: NDArray[np.float64],
    subjects: Sequence[str],
    gallery_id: int,
    key_version: int,
) -> list[bytes]:
    """The stored form of templates.

    Args:
        vectors: (n, dim) float32, unit rows.
        weights: (n,) float64, which are stored beside them.
        subjects: the n names of the subjects to whom the rows belong.
        gallery_id: the gallery in which they are stored.
        key_version: the version of the gallery's key under which they are.

    Returns:
        n blobs of ``4 * dim + 8`` bytes.
    """
    rows = np.empty(len(vectors), _layout(vectors.shape[1]))
    rows["values"] = vectors
    rows["checksum"] = _checksums(rows["values"], weights, _owners(subjects, gallery_id, key_version))
    return [row.tobytes() for row in rows]


def weights_of(stored: Sequence[object]) -> NDArray[np.float64]:
    """The (n,) float64 weights of templates as the record holds them; NaN for what is no weight."""
    if all(type(one) is float for one in stored):
        return np.array(stored, np.float64)
    return np.array([float(one) if isinstance(one, int | float) else np.nan for one in stored], np.float64)


def from_blobs(
    blobs: Sequence[bytes],
    weights: NDArray[np.float64],
    subjects: Sequence[str],
    dim: int,
    gallery_id: int,
    key_version: int,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Reads and checks the stored form of templates.

    Every template that the service reads comes through here.

    Args:
        blobs: n blobs, as the record holds them. What is no blob is a damaged row, and so is one of a damaged name.
        weights: (n,) float64, as ``weights_of`` reads them.
        subjects: the n names of the subjects to whom the rows belong.
        dim: the length of a template.
        gallery_id: the gallery in which they are stored.
        key_version: the version of the gallery's key under which they are.

    Returns:
        (n, dim) float32 vectors, and (n,) bool: which of them are what was stored. A damaged row is all zeros.
    """
    return _read(blobs, weights, _owners(subjects, gallery_id, key_version), dim)


def from_grouped_blobs(
    blobs: Sequence[bytes],
    weights: NDArray[np.float64],
    counts: Mapping[str, int],
    dim: int,
    gallery_id: int,
    key_version: int,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """As ``from_blobs``, for blobs subject after subject, of which each has so many."""
    owners = _owners(counts.keys(), gallery_id, key_version)
    if len(counts) > 1:
        owners = owners.repeat(list(counts.values()))
    return _read(blobs, weights, owners, dim)


def _read(
    blobs: Sequence[bytes], weights: NDArray[np.float64], owners: NDArray[np.uint64], dim: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    layout = _layout(dim)
    try:
        joined = b"".join(blobs)
    except TypeError:  # SQLite gives out whatever was stored in a column: text, numbers
        joined = None
    if joined is not None and len(joined) == layout.itemsize * len(blobs):
        rows = np.frombuffer(joined, layout)
        sound = _sound(rows, weights, owners)
        if sound.all():
            return rows["values"], sound
    # Row by row: a blob of another length has shifted all that follow it.
    missing = bytes(layout.itemsize)
    whole = (blob if isinstance(blob, bytes) and len(blob) == len(missing) else missing for blob in blobs)
    rows = np.frombuffer(b"".join(whole), layout)
    sound = _sound(rows, weights, owners)
    return np.where(sound[:, np.newaxis], rows["values"], np.float32(0)), sound


@cache
def _layout(dim: int) -> np.dtype[np.void]:
    return np.dtype([("values", "<f4", (dim,)), ("checksum", "<u8")])


def _sound(rows: NDArray[np.void], weights: NDArray[np.float64], owners: NDArray[np.uint64]) -> NDArray[np.bool_]:
    values = rows["values"]
    # A second line: what was no unit vector when its checksum was made must not decide anything either.
    squares = np.einsum("ij,ij->i", values, values)  # infinite or NaN where a value is too large or not finite
    sound: NDArray[np.bool_] = np.abs(squares - 1) <= _SQUARE_TOLERANCE
    sound &= (weights >= MIN_WEIGHT) & (weights <= MAX_WEIGHT)
    sound &= rows["checksum"] == _checksums(values, weights, owners)
    return sound


def _checksums(
    values: NDArray[np.float32], weights: NDArray[np.float64], owners: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """The (n,) uint64 checksums of (n, dim) float32 rows.

    Overflow is intended: the arithmetic is modulo 2**64.
    """
    dim = values.shape[1]
    if dim % 2:
        values = np.pad(values, ((0, 0), (0, 1)))  # a zero adds nothing to the sum
    # Two values at a time, which takes two thirds of the time: with w = low + 2**32 * high, and factors a and b,
    # a * low + b * high = a * w + (b - 2**32 * a) * high.
    pairs = values.view("<u8")
    sums: NDArray[np.uint64] = np.einsum("ij,j->i", pairs, _FACTORS[:dim:2])
    sums += np.einsum("ij,j->i", pairs >> _HALF, _HIGH_FACTORS[: pairs.shape[1]])
    sums += owners * _FACTORS[dim]
    sums += (weights.view(np.uint64) - _ONE) * _WEIGHT_FACTOR
    return sums


def _owners(subjects: Collection[str], gallery_id: int, key_version: int) -> NDArray[np.uint64]:
    """Where each row belongs, as (n,) uint64; (1,) where all belong to one subject."""
    start = zlib.crc32(b"%d/%d/" % (gallery_id, key_version))
    crcs = {name: _crc32(name, start) for name in set(subjects)}
    if len(crcs) == 1:
        return np.array([*crcs.values()], np.uint64)
    return np.fromiter(map(crcs.__getitem__, subjects), np.uint64, len(subjects))


def _crc32(name: object, start: int) -> int:
    # SQLite gives out whatever was stored in a column: a name may be a blob or a number, or no UTF-8.
    if isinstance(name, str):
        with suppress(UnicodeEncodeError):
            return zlib.crc32(name.encode(), start)
    return _NOBODY


def gallery_checksum(row: Any) -> str:
    """SHA-256 of the values of a gallery's row that decide, as 64 hexadecimal digits.

    They are those that are named below. The contract is bound by its digest. Not covered is what changes without a
    decision: the numbers of templates, subjects and entries, the kind of index, a change of key that is under way, and
    when it was made. How subjects are compared, and that names are sealed, is covered where it is stored, so that older
    checksums stay valid.

    Args:
        row: has them as attributes.

    Raises:
        TypeError: one is of a type that SQLite may hand out and JSON does not know.
        ValueError: a number is none.
    """
    rates = float(row.threshold_cosine), float(row.threshold_fmr)
    values = [row.id, row.name, row.contract_digest, row.dim, row.key_version, *rates, row.max_age_seconds]
    if row.score is not None or row.score_version:
        values += [row.score_version, json.dumps(row.score, sort_keys=True, allow_nan=False)]
    if row.sealed_names:
        values.append("sealed names")
    return hashlib.sha256(json.dumps(values, allow_nan=False).encode("ascii")).hexdigest()


class KnownDamage:
    """The ids of templates that were found damaged. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: dict[int, set[int]] = {}

    def __len__(self) -> int:
        return sum(len(ids) for ids in list(self._ids.values()))

    def found(self, gallery_id: int, ids: Iterable[int]) -> None:
        """Remembers damaged templates, and logs the row ids of new ones."""
        with self._lock:
            known = self._ids.setdefault(gallery_id, set())
            new = sorted(set(ids) - known)
            known.update(new)
        if new:
            listed = " ".join(map(str, new[:_LOGGED_IDS])) + (" ..." if len(new) > _LOGGED_IDS else "")
            _log.error("templates_damaged", gallery=gallery_id, templates=len(new), rows=listed)

    def gone(self, gallery_id: int, ids: Iterable[int]) -> None:
        """Forgets templates that were erased, or that are sound again."""
        with self._lock:
            left = self._ids.get(gallery_id, set()) - set(ids)
            if left:
                self._ids[gallery_id] = left
            else:
                self._ids.pop(gallery_id, None)

    def of(self, gallery_id: int) -> NDArray[np.int64]:
        """The (n,) int64 ids of a gallery, in order."""
        with self._lock:
            return np.array(sorted(self._ids.get(gallery_id, ())), dtype=np.int64)

    def some(self, at_most: int) -> dict[int, list[int]]:
        """Some ids, by gallery."""
        found: dict[int, list[int]] = {}
        with self._lock:
            for gallery_id, ids in sorted(self._ids.items()):
                found[gallery_id] = sorted(ids)[:at_most]
                at_most -= len(found[gallery_id])
                if at_most <= 0:
                    break
        return found


def of_subject() -> RecordDamaged:
    """What is answered where a subject's template is damaged."""
    return RecordDamaged(
        "A stored template of this subject is damaged and is not compared. The operator must erase the subject and "
        "enroll it again, or restore a backup.",
        reason="template_damaged",
    )
