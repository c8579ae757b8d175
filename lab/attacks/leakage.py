"""What templates tell without any face being rebuilt: attributes, and whether a person is enrolled."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Years at which a new band begins.
AGE_BANDS: Final = (13, 20, 30, 40, 60)
_UTKFACE: Final = re.compile(r"(?:.*/)?(\d{1,3})_([01])_([0-4])_\d+\.")


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Attributes of faces that have them.

    Attributes:
        rows: (m,) which faces.
        sex: (m,) 0 male, 1 female, as UTKFace says.
        age: (m,) which of the age bands.
    """

    rows: NDArray[np.int64]
    sex: NDArray[np.int64]
    age: NDArray[np.int64]


def utkface_labels(names: NDArray[np.object_]) -> Labels:
    """The labels that UTKFace carries in its names, ``AGE_SEX_RACE_STAMP.jpg``."""
    rows, sexes, ages = [], [], []
    for row, name in enumerate(names):
        found = _UTKFACE.match(name)
        if found:
            rows.append(row)
            ages.append(int(np.searchsorted(AGE_BANDS, int(found[1]), side="right")))
            sexes.append(int(found[2]))
    return Labels(*(np.array(values, dtype=np.int64) for values in (rows, sexes, ages)))


def auc(positive: Floats, negative: Floats) -> float:
    """Area under the ROC curve: how often a positive's score is over a negative's, ties half."""
    order = np.argsort(np.concatenate([positive, negative]), kind="stable")
    values = np.concatenate([positive, negative])[order]
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = np.empty(len(values))
    ranks[order] = (ends - (counts - 1) / 2)[index]
    n, m = len(positive), len(negative)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def auc_of_classes(probabilities: Floats, labels: NDArray[np.int64]) -> float:
    """The mean AUC of each class against the rest, of classes that occur: (n, classes) and (n,)."""
    found = []
    for one in range(probabilities.shape[1]):
        own = labels == one
        if own.any() and not own.all():
            found.append(auc(probabilities[own, one], probabilities[~own, one]))
    return float(np.mean(found))


def auc_interval(
    values: Floats, positive: NDArray[np.bool_], *, rounds: int = 200, seed: int = 0
) -> tuple[float, float]:
    """A 95 % interval of an AUC by bootstrap over faces."""
    random = np.random.default_rng(seed)
    one, other = values[positive], values[~positive]
    found = [
        auc(one[random.integers(0, len(one), len(one))], other[random.integers(0, len(other), len(other))])
        for _ in range(rounds)
    ]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)
