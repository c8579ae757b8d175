"""Synthetic embeddings of people: a direction for each person, and noise for each picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lab.evaluation.subjects.scores import Population

DIM = 16


def unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    """Unit rows: (n, d) float32."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def people(
    count: int = 60, each: int = 24, noise: float = 0.2, seed: int = 0, name: str = "people", *, poor: float = 0.0
) -> Population:
    """So many people with so many pictures each.

    Args:
        count: people.
        each: pictures of each.
        noise: of a picture, a coordinate.
        seed: of the draw.
        name: of the population.
        poor: share of pictures with three times the noise, whose raw embeddings are half as long.
    """
    random = np.random.default_rng([seed, 9])
    whose = np.repeat(np.arange(count), each)
    bad = random.random(len(whose)) < poor
    scale = np.where(bad, 3 * noise, noise)[:, None]
    rows = unit(random.normal(size=(count, DIM)))[whose] + scale * random.normal(size=(len(whose), DIM))
    probes = unit(rows)
    return Population(name, probes, probes, whose, np.where(bad, 6.0, 12.0))


def strangers(count: int = 400, seed: int = 1) -> NDArray[np.float32]:
    """Pictures of as many other people."""
    return unit(np.random.default_rng([seed, 8]).normal(size=(count, DIM)))
