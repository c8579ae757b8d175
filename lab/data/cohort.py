"""The fixed cohort of impostors against which every embedding's margin is measured, and no real person in it.

A profile is published, so it may not hold anyone's embedding: it could be turned into a face. The cohort is drawn from
a Gaussian with the mean and covariance of many people's embeddings.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def synthetic_cohort(unit: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Draws people who do not exist: (count, d) float32, unit rows.

    Args:
        unit: (n, d) float32, unit rows, of many people.
        count: how many to draw.
        seed: of the draws.
    """
    rows = unit.astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    root = vectors * np.sqrt(values.clip(min=0))
    drawn = rows.mean(axis=0) + np.random.default_rng(seed).standard_normal((count, rows.shape[1])) @ root.T
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), dtype=np.float32)


def covariance_root(unit: NDArray[np.float32]) -> NDArray[np.float32]:
    """The symmetric root of the covariance, scaled to mean 1: (d, d) float32.

    Directions shaped by it have the energy of real faces in every direction: what lies where no face does, an attacker
    would simply project away.
    """
    values, vectors = np.linalg.eigh(np.cov(unit.astype(np.float64).T))
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return np.asarray(root * len(root) / np.trace(root), dtype=np.float32)


def digest(rows: NDArray[np.float32]) -> str:
    """Hex SHA-256 of the little-endian float32 bytes."""
    return hashlib.sha256(np.ascontiguousarray(rows, dtype="<f4").tobytes()).hexdigest()
