"""False match rates by age, sex and group, on a labelled set of faces whose people are not known.

Labels come from file names, as UTKFace has them: ``AGE_SEX_GROUP_STAMP.jpg``. Nobody knows which pictures show the same
person, so every pair of different pictures is presumed to be of two people. That makes each rate an upper bound: pairs
of one person that are still in the set count as false matches. Copies of one photo are removed first.

A pair belongs to a row of the table when both of its pictures do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from lab.data.alignment import filled
from lab.data.verification import ImpostorScores, Rows, histogram

# Years, both ends included.
BANDS: Final = ((0, 2), (3, 6), (7, 12), (13, 17), (18, 24), (25, 45), (46, 70), (71, 200))
SEXES: Final = ("male", "female")
# UTKFace's own words and order.
GROUPS: Final = ("White", "Black", "Asian", "Indian", "other")
# Pictures a band: 400,000 pairs, a relative error of some 5 % where the rate is 1e-3.
MOST_A_BAND: Final = 900
# The rate at which thresholds are told.
TARGET_FMR: Final = 1e-3
# Correlation of grey thumbnails of 16 x 16 pixels. In UTKFace, pairs above it are one photo, cropped or compressed
# twice; from 0.95 to 0.97 some are of different people. The embedder has no part in the rule, so it favors no score.
SAME_PHOTO: Final = 0.97

_NAME: Final = re.compile(r"^(\d{1,3})_([01])_([0-4])_\d+")
_THUMBNAIL: Final = 16
_BLOCK: Final = 1024
_ROUNDS: Final = 500
# Fewer pairs cannot tell where a rate of 1e-3 is.
_FEWEST_PAIRS: Final = 10_000
_NORMAL_95: Final = 1.959964


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """What file names say of faces; -1 where a name says nothing.

    Attributes:
        band: (n,) int64, position in ``BANDS``.
        sex: (n,) int64, position in ``SEXES``.
        group: (n,) int64, position in ``GROUPS``.
        age: (n,) int64, years.
    """

    band: NDArray[np.int64]
    sex: NDArray[np.int64]
    group: NDArray[np.int64]
    age: NDArray[np.int64]

    @property
    def known(self) -> NDArray[np.int64]:
        """The rows that have labels."""
        return np.flatnonzero(self.band >= 0)

    def subset(self, rows: NDArray[np.int64]) -> Labels:
        """The labels of some rows."""
        return Labels(self.band[rows], self.sex[rows], self.group[rows], self.age[rows])


@dataclass(frozen=True, slots=True)
class Rate:
    """How often pictures of a row of the table are accepted as each other.

    Attributes:
        pictures: in the row.
        pairs: of different pictures, each counted once.
        accepted: of these, at the threshold.
        value: accepted / pairs.
        low: lower end of the 95 % interval.
        high: upper end.
        threshold: the lowest cosine at which no more than 1e-3 of the pairs are accepted; None with too few pairs.
    """

    pictures: int
    pairs: int
    accepted: int
    value: float
    low: float
    high: float
    threshold: float | None


def labels_of(names: Sequence[str] | NDArray[np.object_]) -> Labels:
    """Reads labels from file names; folders before the name do not matter."""
    found = np.full((len(names), 4), -1, dtype=np.int64)
    for row, name in enumerate(names):
        match = _NAME.match(PurePosixPath(str(name)).name)
        if match:
            age, sex, group = map(int, match.groups())
            band = next((at for at, (low, high) in enumerate(BANDS) if low <= age <= high), -1)
            found[row] = (band, sex, group, age) if band >= 0 else -1
    return Labels(*found.T)


def drawn(labels: Labels, most: int | None, *, seed: int = 0) -> NDArray[np.int64]:
    """Rows to measure: of each band at most so many, at random, in their order; None: all that have labels."""
    rows = labels.known
    if most is None:
        return rows
    random = np.random.default_rng([seed, 7])
    kept = [random.permutation(rows[labels.band[rows] == band])[:most] for band in range(len(BANDS))]
    return np.sort(np.concatenate(kept))


def first_of_each_photo(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which faces are not another copy, perhaps mirrored, of a photo before them.

    Args:
        pixels: (n, 112, 112, 3) uint8 RGB.

    Returns:
        (n,) bool.
    """
    straight = _thumbnails(pixels)
    mirrored = straight.reshape(-1, _THUMBNAIL, _THUMBNAIL)[:, :, ::-1].reshape(len(straight), -1)
    first = np.ones(len(pixels), dtype=bool)
    for start in range(0, len(pixels), _BLOCK):
        block = straight[start : start + _BLOCK]
        earlier = slice(0, start + len(block))
        before = np.arange(earlier.stop)[None, :] < np.arange(start, earlier.stop)[:, None]
        for thumbnails in (straight, mirrored):
            copies = (block @ thumbnails[earlier].T >= SAME_PHOTO) & before
            first[start : earlier.stop] &= ~copies.any(axis=1)
    return first


def _thumbnails(pixels: NDArray[np.uint8]) -> Rows:
    """(n, 256) float32 unit rows of mean 0; black borders are filled, or pictures with one border would be alike."""
    found = np.empty((len(pixels), _THUMBNAIL**2), dtype=np.float32)
    for row, face in enumerate(pixels):
        grey = cv2.cvtColor(filled(np.asarray(face)), cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
        small -= small.mean()
        found[row] = small / max(float(np.linalg.norm(small)), 1e-6)
    return found


def false_matches(labels: Labels, probes: Rows, tau: float, gallery: Rows | None = None) -> list[dict[str, Any]]:
    """One row for each band alone, with each sex, each group, and both; ready for JSON.

    Args:
        labels: of the faces; all known.
        probes: (n, d) float32, unit rows.
        tau: cosine at which a pair is accepted.
        gallery: (n, d) float32, the same faces as the gallery holds them, where it differs from the probes; a pair is
            then scored both ways, and each way counts half.
    """
    found: list[dict[str, Any]] = []
    for band in range(len(BANDS)):
        of_band = labels.band == band
        for sex in (None, *range(len(SEXES))):
            for group in (None, *range(len(GROUPS))):
                inside = of_band.copy()
                if sex is not None:
                    inside &= labels.sex == sex
                if group is not None:
                    inside &= labels.group == group
                rows = np.flatnonzero(inside)
                if len(rows) < 2:  # no pair
                    continue
                other = None if gallery is None else np.ascontiguousarray(gallery[rows])
                rate = rate_of(np.ascontiguousarray(probes[rows]), tau, other)
                found.append(
                    {
                        "ages": band_name(band),
                        "sex": None if sex is None else SEXES[sex],
                        "group": None if group is None else GROUPS[group],
                        **asdict(rate),
                    }
                )
    return found


def band_name(band: int) -> str:
    """A band in words: ``25 to 45``, ``over 70``."""
    low, high = BANDS[band]
    return f"over {low - 1}" if band == len(BANDS) - 1 else f"{low} to {high}"


def rate_of(probes: Rows, tau: float, gallery: Rows | None = None) -> Rate:
    """The rate at which different pictures are accepted as each other.

    The interval is a bootstrap over pictures, since pairs that share a picture are not independent. It is never
    narrower than Wilson's over the pairs, which also covers a count of zero.

    Args:
        probes: (n, d) float32, unit rows; n at least 2.
        tau: cosine.
        gallery: (n, d) float32, where it differs from the probes.
    """
    count = len(probes)
    weights = _weights(count)
    accepted_drawn = np.zeros(_ROUNDS)
    counts = histogram(np.empty(0, np.float32))
    accepted = 0
    held = probes if gallery is None else gallery
    for start in range(0, count, _BLOCK):
        rows = slice(start, min(start + _BLOCK, count))
        scores = probes[rows] @ held.T
        different = np.arange(count)[None, :] != np.arange(count)[rows, None]
        hits = (scores >= tau) & different
        accepted += int(hits.sum())
        accepted_drawn += np.sum(weights[:, rows] * (weights @ hits.T.astype(np.float32)), axis=1, dtype=np.float64)
        counts += histogram(scores[different])
    # Both orders of each pair were counted. Two draws of one picture are no pair.
    ordered = count * (count - 1)
    pairs_drawn = count**2 - np.sum(weights.astype(np.float64) ** 2, axis=1)
    some = pairs_drawn > 0  # of three pictures, one may be drawn thrice
    low, high = np.percentile(accepted_drawn[some] / pairs_drawn[some], [2.5, 97.5])
    pairs, half = ordered // 2, accepted / 2
    wilson_low, wilson_high = wilson(half, pairs)
    enough = pairs >= _FEWEST_PAIRS
    return Rate(
        pictures=count,
        pairs=pairs,
        accepted=round(half),
        value=accepted / ordered,
        low=min(float(low), wilson_low),
        high=max(float(high), wilson_high),
        threshold=ImpostorScores(counts).threshold_at(TARGET_FMR) if enough else None,
    )


def _weights(count: int) -> Rows:
    """How often each picture is drawn in each round: (rounds, n) float32."""
    random = np.random.default_rng(count)
    return random.multinomial(count, np.full(count, 1 / count), size=_ROUNDS).astype(np.float32)


def wilson(accepted: float, pairs: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson, 1927)."""
    share, squared = accepted / pairs, _NORMAL_95**2
    middle = (share + squared / (2 * pairs)) / (1 + squared / pairs)
    half = _NORMAL_95 / (1 + squared / pairs) * np.sqrt(share * (1 - share) / pairs + squared / (4 * pairs**2))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))
