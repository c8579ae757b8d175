"""The seal is a random rotation, keeps every score, and differs for every key."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_service.protection.keys import EpochKey, GalleryKey
from edge_service.protection.seal import haar_orthogonal, seal, seal_matrix

Matrices = NDArray[np.float64]
GOLDEN = [
    [0.347775803997, 0.455055537366, 0.818701520873, 0.041282778329],
    [-0.368340097619, 0.039694058352, 0.180349304884, -0.911166330834],
    [-0.751860761983, 0.572974352448, -0.015521308208, 0.325829518335],
    [0.421998764489, 0.680477208348, -0.544941315133, -0.248810720729],
]


def key_number(number: int) -> bytes:
    return hashlib.sha256(f"key {number}".encode()).digest()


def units(count: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


KEY = GalleryKey("door", bytes(range(32))).epoch("0123456789abcdef")


@pytest.mark.parametrize("dim", [2, 3, 128, 512])
def test_the_seal_is_orthogonal(dim: int) -> None:
    matrix = seal_matrix(KEY, dim).astype(np.float64)
    assert np.abs(matrix @ matrix.T - np.eye(dim)).max() <= 1e-6


@pytest.mark.parametrize("dim", [128, 512])
def test_every_score_is_kept(dim: int) -> None:
    rows = units(200, dim)
    sealed = seal(rows, KEY)
    assert (sealed.dtype, sealed.shape) == (np.float32, rows.shape)
    wide, turned = rows.astype(np.float64), sealed.astype(np.float64)
    assert np.abs(turned @ turned.T - wide @ wide.T).max() <= 1e-5
    assert np.abs(np.linalg.norm(turned, axis=1) - 1).max() <= 1e-6


def test_faces_alone_are_sealed_as_faces_together() -> None:
    rows = units(20, 128)
    alone = np.concatenate([seal(row[None], KEY) for row in rows])
    np.testing.assert_allclose(seal(rows, KEY), alone, atol=1e-6)


def test_the_same_key_gives_the_same_seal_in_every_process() -> None:
    program = (
        "import hashlib; from edge_service.protection.keys import GalleryKey; "
        "from edge_service.protection.seal import haar_orthogonal\n"
        "key = GalleryKey('door', bytes(range(32))).epoch('0123456789abcdef')\n"
        "print(haar_orthogonal(key.stream_key('seal 128'), 128).round(6).tobytes().hex()[:4096])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    here = haar_orthogonal(KEY.stream_key("seal 128"), 128).round(6).tobytes().hex()[:4096]
    assert ended.stdout.strip() == here
    assert seal_matrix(KEY, 128) is seal_matrix(EpochKey(KEY.gallery, KEY.epoch, KEY.secret), 128)


# A program that loaded NumPy before Patronus, as most do.
PROGRAM = """
import numpy as np
from concurrent.futures import ThreadPoolExecutor
from threadpoolctl import threadpool_info
from edge_service.protection.seal import haar_orthogonal
def threads():
    return [found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"]
def recorded(matrix):
    during.extend(threads())
    return decompose(matrix)
during, decompose, before = [], np.linalg.qr, threads()
np.linalg.qr = recorded
with ThreadPoolExecutor(4) as callers:
    drawn = list(callers.map(lambda _: haar_orthogonal(bytes(32), 200), range(8)))
assert all((found == drawn[0]).all() for found in drawn)
assert threads() == before
print(sorted(set(during)), before)
"""


def test_a_seal_is_drawn_by_one_thread_and_the_others_come_back() -> None:
    """Several threads wait for each other at each column, and took ten times as long."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    command = [sys.executable, "-c", PROGRAM]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout in {"[1] [2]\n", "[1] [1]\n"}, "the second on a machine of one core"


def test_an_upgrade_does_not_change_the_seal() -> None:
    """Golden values: a change here makes every stored template useless."""
    # To a tolerance: QR differs by rounding between processors.
    found = haar_orthogonal(bytes(range(32)), 4)
    np.testing.assert_allclose(found, GOLDEN, atol=1e-9)


def test_the_seal_cannot_be_changed_by_accident() -> None:
    with pytest.raises(ValueError, match="read-only"):
        seal_matrix(KEY, 128)[0, 0] = 1


def other_keys() -> list[EpochKey]:
    theirs = GalleryKey("roof", bytes(range(1, 33)))
    return [GalleryKey("door", bytes(range(32))).epoch("f" * 16), theirs.epoch("0123456789abcdef")]


@pytest.mark.parametrize("other", other_keys(), ids=["another epoch", "another gallery"])
def test_templates_under_another_key_are_like_those_of_strangers(other: EpochKey) -> None:
    rows = units(2000, 128)
    across = np.abs(np.einsum("nd,nd->n", seal(rows, KEY), seal(rows, other)))
    # |cos| of independent directions in 128 dimensions: mean sqrt(2 / (128 pi)), and 99.9 % under 0.29.
    assert abs(across.mean() - np.sqrt(2 / (128 * np.pi))) < 0.006
    assert np.quantile(across, 0.999) < 0.31


def made(dim: int, count: int) -> Matrices:
    return np.stack([haar_orthogonal(key_number(number), dim) for number in range(count)])


def without_the_sign_correction(dim: int, count: int) -> Matrices:
    """What plain QR of the same Gaussian matrices gives."""
    rng = np.random.default_rng(1)
    return np.stack([np.linalg.qr(rng.standard_normal((dim, dim)))[0] for _ in range(count)])


def with_the_sign_correction(dim: int, count: int) -> Matrices:
    """The reference: Mezzadri's recipe with numpy's own random numbers."""
    rng = np.random.default_rng(2)
    found = []
    for _ in range(count):
        q, r = np.linalg.qr(rng.standard_normal((dim, dim)))
        found.append(q * np.sign(np.diag(r)))
    return np.stack(found)


def distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Kolmogorov and Smirnov's statistic of two samples."""
    both = np.sort(np.concatenate([first, second]))
    shares = [np.searchsorted(np.sort(sample), both, side="right") / len(sample) for sample in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


def critical(first: int, second: int) -> float:
    """What the statistic exceeds once in 10,000 times when both samples come from one distribution."""
    return float(np.sqrt(-np.log(0.5e-4) / 2) * np.sqrt((first + second) / (first * second)))


def not_haar(found: Matrices) -> list[str]:
    """In what a sample of matrices differs from Haar's distribution, each at odds of about 1 to 10,000."""
    count, dim = found.shape[:2]
    sigma = 1 / np.sqrt(count)
    wrong = []
    if abs(np.sign(np.linalg.det(found)).mean()) > 4 * sigma:
        wrong.append("determinant")
    if (np.abs(found.mean(axis=0)) > 5 * sigma / np.sqrt(dim)).any():
        wrong.append("mean of entries")
    if (np.abs((found**2).mean(axis=0) - 1 / dim) > 6 * sigma * np.sqrt(2) / dim).any():
        wrong.append("variance of entries")
    reference = with_the_sign_correction(dim, count)
    for name, measured in (
        ("trace", lambda matrices: np.trace(matrices, axis1=1, axis2=2)),
        ("first entry", lambda matrices: matrices[:, 0, 0]),
        ("largest angle", lambda matrices: np.abs(np.angle(np.linalg.eigvals(matrices))).max(axis=1)),
        ("a middle angle", lambda matrices: np.sort(np.abs(np.angle(np.linalg.eigvals(matrices))))[:, dim // 2]),
    ):
        # Eigenvalues at exactly 1 and -1 come with the determinant; rounding must not order them.
        if distance(measured(found).round(9), measured(reference).round(9)) > critical(count, count):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize(("dim", "count"), [(4, 2000), (16, 300), (3, 1000)])
def test_seals_are_spread_evenly_over_all_rotations(dim: int, count: int) -> None:
    assert not_haar(made(dim, count)) == []


def test_the_test_of_evenness_can_fail() -> None:
    """Plain QR, the mistake that the sign correction mends, does not pass for Haar."""
    wrong = not_haar(without_the_sign_correction(4, 2000))
    assert "mean of entries" in wrong
    assert {"trace", "first entry"} & set(wrong)


def test_the_random_numbers_are_normal() -> None:
    from edge_service.protection.gaussians import gaussians

    values = gaussians(key_number(0), 200_001)
    assert values.shape == (200_001,)
    assert distance(values, np.random.default_rng(0).standard_normal(200_000)) < critical(200_001, 200_000)
    assert abs(np.corrcoef(values[:100_000], values[100_001:])[0, 1]) < 0.015
