"""Inversion by gradients, a profile as its attackers meet it, and who looks at rebuilt faces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edge_service.protection.profiles.files import load_profile
from lab.attacks.rebuilding import by_latent, by_pixels
from lab.attacks.target import Target
from lab.data.images import read_folder
from lab.data.pixels import embedded
from lab.data.torch_embedder import load_torch_embedder
from lab.defence.decoders import build
from lab.evaluation.perceptual import FacePerception

DIM = 16
PICTURES = Path(__file__).parents[2] / "pictures"
Rows = NDArray[np.float32]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory, write_embedder: Callable[..., Path]) -> nn.Module:
    home = tmp_path_factory.mktemp("embedder")
    return load_torch_embedder(
        write_embedder(home / "mine.onnx"), faces=np.empty((0, 112, 112, 3), np.uint8), cache=home
    )


@pytest.fixture(scope="module")
def targets(embedder: nn.Module) -> Rows:
    """Embeddings of pictures of broad tiles, more than are descended at once."""
    pictures = torch.rand((10, 3, 7, 7), generator=torch.Generator().manual_seed(0))
    large = nn.functional.interpolate(pictures, scale_factor=16)
    return np.asarray(embedded(embedder, large).detach().numpy())


def _unit(count: int, dim: int) -> Rows:
    rows = np.random.default_rng(0).standard_normal((count, dim))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def _reached(faces: NDArray[np.float32], embedder: nn.Module, targets: Rows) -> float:
    with torch.no_grad():
        return float((embedded(embedder, torch.from_numpy(faces)) * torch.from_numpy(targets)).sum(dim=1).mean())


AVERAGE = np.full((3, 112, 112), 0.5, dtype=np.float32)


def test_pixels_are_found_whose_embedding_is_the_one_wanted(embedder: nn.Module, targets: Rows) -> None:
    faces = by_pixels(targets, embedder, AVERAGE, steps=60, restarts=1, smooth=0.1)
    assert faces.shape == (10, 3, 64, 64)
    assert faces.min() >= 0
    assert faces.max() <= 1
    assert _reached(by_pixels(targets, embedder, AVERAGE, steps=0, restarts=1), embedder, targets) < 0.6
    assert _reached(faces, embedder, targets) > 0.9


@pytest.mark.slow(reason="inversion by gradients once more")
def test_more_starts_are_never_worse(embedder: nn.Module, targets: Rows) -> None:
    one, more = (by_pixels(targets, embedder, AVERAGE, steps=5, restarts=n) for n in (1, 3))
    assert _reached(more, embedder, targets) >= _reached(one, embedder, targets)


@pytest.mark.slow(reason="inversion by gradients once more")
def test_what_a_decoder_is_given_is_found_too(embedder: nn.Module, targets: Rows) -> None:
    torch.manual_seed(0)
    decoder = build("upsampling", DIM).eval().requires_grad_(False)
    before, after = (by_latent(targets, embedder, decoder, steps=n, restarts=1) for n in (0, 40))
    assert _reached(after, embedder, targets) > _reached(before, embedder, targets) + 0.05


@pytest.mark.parametrize("name", ["default", "seal"])
def test_who_has_the_key_undoes_the_seal_and_nobody_else(name: str) -> None:
    target, unit = Target(load_profile(name)), _unit(50, 128)
    wire = target.templates(unit)
    assert target.seals
    assert np.abs(np.sum(wire * target.templates(unit, 1), axis=1)).mean() < 0.15
    assert np.abs(np.sum(wire * target.templates(unit, 0, 1), axis=1)).mean() < 0.15
    right, wrong = target.opened(wire), target.opened(wire, 1)
    assert np.sum(right * target.plain(unit, 5), axis=1).mean() > 0.95
    assert np.abs(np.sum(wrong * target.plain(unit, 5), axis=1)).mean() < 0.15


def test_a_profile_without_a_seal_is_open() -> None:
    target, unit = Target(load_profile("plugin")), _unit(20, 128)
    wire = target.templates(unit)
    assert not target.seals
    assert target.opened(wire) is wire
    assert (target.plain(unit) == wire).all()


def test_the_eye_finds_faces_and_tells_pictures_apart(tmp_path: Path) -> None:
    from edge_service.models.store import locate

    faces = read_folder(PICTURES, cache=tmp_path, aligned=False).pixels
    eye = FacePerception(load_torch_embedder(locate("face-embedder").path, cache=tmp_path))
    noise = np.random.default_rng(0).integers(0, 256, faces.shape, dtype=np.uint8)
    assert eye.faces(faces).all()
    assert not eye.faces(noise).any()
    np.testing.assert_allclose(eye.distance(faces, faces), 0, atol=1e-5)
    darker = (faces * 0.9).astype(np.uint8)
    near, far, farther = (eye.distance(faces, other).mean() for other in (darker, np.roll(faces, 1, axis=0), noise))
    assert near < far < farther
