"""The erase step: which directions of an embedding tell more of the picture than of the person.

With S_w the scatter within people and S_b the scatter between them, the directions to give up are those of the largest
ratio v^T S_w v / v^T S_b v: the generalised eigenvectors of (S_w, S_b), as in Fisher's discriminant analysis, read from
the other end. Their span is removed by an orthogonal projection: what it held is gone, whoever trains on the rest.
What is kept is shrunk as a Wiener filter does, by S_b (S_b + w S_w)^-1, which brings two pictures of one person closer
together, and so earns budget for the perturbation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from lab.data.matching import TooFewPeople
from lab.data.verification import Floats

# A person on many pictures tells no more about people than one on a few.
MOST_OF_ONE: Final = 20
_RIDGE: Final = 1e-4


@dataclass(frozen=True, slots=True)
class Scatter:
    """Covariances (d, d) float64 of unit embeddings: within people, and of people's means.

    Attributes:
        within: mean over people with two pictures or more of the unbiased covariance of their pictures.
        between: covariance of people's means.
        people: how many had two pictures or more.
    """

    within: Floats
    between: Floats
    people: int


def scatter(unit: NDArray[np.float32], people: NDArray[np.int64], at_least: int | None = None) -> Scatter:
    """Scatter of labelled embeddings.

    Args:
        unit: (n, d) float32, unit rows.
        people: (n,) who is on each.
        at_least: how many people with two pictures are needed; None: as many as dimensions, for with fewer the smallest
            directions would be guesses.

    Raises:
        TooFewPeople: there are fewer.
    """
    rows = unit.astype(np.float64)
    dim = rows.shape[1]
    within, means, several = np.zeros((dim, dim)), [], 0
    order = np.argsort(people, kind="stable")
    for chosen in np.split(order, np.flatnonzero(np.diff(people[order])) + 1):
        own = rows[chosen[:MOST_OF_ONE]]
        means.append(own.mean(axis=0))
        if len(own) > 1:
            away = own - own.mean(axis=0)
            within += away.T @ away / (len(own) - 1)
            several += 1
    needed = dim if at_least is None else at_least
    if several < needed:
        raise TooFewPeople(
            f"The erase step needs {needed} people with two pictures or more; there are {several}.", needed=needed
        )
    return Scatter(within / several, np.cov(np.array(means).T, bias=True), several)


def mixed(found: Sequence[Scatter]) -> Scatter:
    """One scatter of several sources.

    How people differ is taken from the first, which has most of them. How pictures of one person differ is the mean
    over all, each brought to the trace of the first: pictures of one source differ in fewer ways than those of several.
    """
    first = found[0]
    size = np.trace(first.within)
    within = np.mean([each.within * (size / np.trace(each.within)) for each in found], axis=0)
    return Scatter(np.asarray(within), first.between, first.people)


def erase_basis(found: Scatter, directions: int) -> Floats:
    """The directions to give up: (d, directions) float64, orthonormal columns; the worst first, in this sense:

    the first j columns span the j generalised eigenvectors of the largest ratio of within to between.
    """
    _, vectors = eigh(found.within, _ridged(found.between))
    basis, _ = np.linalg.qr(vectors[:, ::-1][:, :directions])
    return np.asarray(basis)


def erase_matrix(found: Scatter, directions: int, wiener: float) -> Floats:
    """The erase step as one matrix E: (d, d) float64, of rank d - directions; e = normalise(E x).

    Args:
        found: the scatter.
        directions: how many to remove.
        wiener: w, how much of the within scatter the rest is shrunk against; 0 for none.
    """
    dim = len(found.within)
    basis = erase_basis(found, directions)
    between = _ridged(found.between)
    filtered = between @ np.linalg.inv(between + wiener * found.within) if wiener else np.eye(dim)
    return np.asarray((np.eye(dim) - basis @ basis.T) @ filtered)


def erased(unit: NDArray[np.float32], matrix: Floats) -> NDArray[np.float32]:
    """(n, d) float32 to (n, d) float32, unit rows, through an erase matrix."""
    rows = unit.astype(np.float64) @ matrix.T
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def _ridged(matrix: Floats) -> Floats:
    """With a little of every direction: some embedders hardly use some, and 0 / 0 would blow up their rounding."""
    return np.asarray(matrix + _RIDGE * np.trace(matrix) / len(matrix) * np.eye(len(matrix)))
