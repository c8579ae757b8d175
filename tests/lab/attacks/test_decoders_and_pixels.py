"""Decoders rebuild pictures that can be learned from; pictures are measured as scikit-image does it."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torch.nn import functional

from lab.data.images import FaceImages
from lab.data.pixels import embedded, resized, ssim, to_float
from lab.data.splits import TEST, Labelled
from lab.defence.decoders import DECODERS, InversionOptions, build, rebuilt, shrunk, train_decoder
from lab.defence.training import Checkpoint
from lab.evaluation.reconstruction import Cases, Judge, as_pictures

DIM = 16


def _templates(count: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(count, DIM, generator=random), dim=1)


def _decoder(family: str) -> nn.Module:
    torch.manual_seed(1)
    return build(family, DIM)


@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_gives_pictures_and_gradients_reach_every_template(family: str) -> None:
    templates = _templates(3).requires_grad_()
    made = _decoder(family)(templates)
    side = DECODERS[family][0]
    assert made.shape == (3, 3, side, side)
    assert made.dtype == torch.float32
    assert 0 <= made.min() < made.max() <= 1
    made[:2].mul(torch.rand(made[:2].shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    assert templates.grad is not None
    assert torch.isfinite(templates.grad).all()
    assert (templates.grad[:2].abs() > 0).all()


def test_a_face_in_evaluation_depends_on_its_own_template_alone() -> None:
    for family in DECODERS:
        decoder = _decoder(family).eval()
        with torch.no_grad():
            whole, alone = decoder(_templates(3)), decoder(_templates(3)[1:2])
        assert (whole[1:2] - alone).abs().max() < 1e-5
        assert (whole[0] - whole[1]).abs().max() > 1e-3


def test_no_two_families_are_one() -> None:
    kinds = {
        family: {type(part) for part in _decoder(family).modules() if not list(part.children())} for family in DECODERS
    }
    assert nn.ConvTranspose2d in kinds["transposed"]
    assert nn.Upsample in kinds["upsampling"]
    assert nn.Conv2d in kinds["attentive"]
    shapes = {
        family: sorted(tuple(weight.shape) for weight in _decoder(family).parameters() if weight.ndim == 4)
        for family in DECODERS
    }
    for one, other in combinations(DECODERS, 2):
        assert shapes[one] != shapes[other], (one, other)
    # The one that only tests shares no more with the two in the loop than what every decoder is built of.
    shared = kinds["attentive"] & (kinds["upsampling"] | kinds["transposed"])
    assert shared <= {nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.PixelShuffle}


def test_many_faces_are_rebuilt_as_one_by_one() -> None:
    decoder = _decoder("transposed")
    templates = _templates(70).numpy()
    found = rebuilt(decoder, templates)
    assert not decoder.training
    assert found.shape == (70, 3, 64, 64)
    assert np.abs(found[68:] - rebuilt(decoder, templates[68:])).max() < 1e-5


# Learning


class _Twin(nn.Module):
    """A differentiable embedder of (n, 3, 112, 112): the means of 4 x 4 tiles, through a matrix."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(3)
        self.onto = nn.Parameter(torch.randn(3 * 16, DIM, generator=random), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(x / 128 - 1, 4).flatten(1) @ self.onto


def _faces(count: int) -> NDArray[np.uint8]:
    tiles = np.random.default_rng(4).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return np.kron(tiles, np.ones((1, 28, 28, 1), np.uint8))


def _embedded(faces: NDArray[np.uint8]) -> NDArray[np.float32]:
    return embedded(_Twin(), torch.from_numpy(faces.transpose(0, 3, 1, 2) / np.float32(255))).numpy()


def test_an_attacker_learns_pixels_and_then_identity(tmp_path: Path) -> None:
    faces = _faces(16)
    clean = _embedded(faces)
    options = InversionOptions(epochs=6, batch=8, identity_steps=10, identity_batch=4)
    decoder, history = train_decoder("transposed", clean, faces, clean, _Twin(), options, Checkpoint(tmp_path))
    pixels = [seen for seen in history if "cosine" not in seen]
    identity = [seen for seen in history if "cosine" in seen]
    assert pixels[-1]["l1"] < pixels[0]["l1"]
    assert identity[-1]["cosine"] > identity[0]["cosine"]
    assert not decoder.training
    assert not any(parameter.requires_grad for parameter in decoder.parameters())


@pytest.mark.parametrize("steps", [1, 2, 19])
def test_any_number_of_steps_can_be_trained(steps: int, tmp_path: Path) -> None:
    faces, templates = _faces(2 * steps), _templates(2 * steps).numpy()
    options = InversionOptions(epochs=1, batch=2, identity_steps=0)
    kept = Checkpoint(tmp_path)
    _, history = train_decoder("transposed", templates, faces, _embedded(faces), _Twin(), options, kept)
    assert history[-1]["step"] == steps


# Pixels


def _pairs() -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    random = np.random.default_rng(0)
    noise, other = random.random((2, 3, 40, 40), np.float32)
    rows, columns = np.mgrid[:40, :40] / np.float32(39)
    smooth = np.stack([rows, columns, rows * columns]).astype(np.float32)
    flat = np.full_like(noise, 0.5)
    return {
        "noise": (noise, other),
        "smooth and noisy": (smooth, (smooth + 0.1 * noise).clip(0, 1)),
        "smooth": (smooth, smooth**2),
        "flat and noise": (flat, noise),
        "two greys": (flat, flat * 0.5),
        "black and white": (np.zeros_like(noise), np.ones_like(noise)),
    }


@pytest.mark.parametrize("name", _pairs())
def test_ssim_is_scikit_images(name: str) -> None:
    one, other = _pairs()[name]
    expected = structural_similarity(one, other, channel_axis=0, data_range=1.0, use_sample_covariance=False)
    default = structural_similarity(one, other, channel_axis=0, data_range=1.0)
    found = ssim(torch.from_numpy(one[None]), torch.from_numpy(other[None]))
    assert found.shape == (1,)
    assert found.item() == pytest.approx(expected, abs=1e-4)
    assert found.item() == pytest.approx(default, abs=0.01)


def test_ssim_is_one_for_the_same_picture_and_has_a_gradient_everywhere() -> None:
    pictures = torch.from_numpy(np.stack([one for one, _ in _pairs().values()]))
    assert ssim(pictures, pictures).numpy() == pytest.approx(1, abs=1e-5)
    moving = pictures.clone().requires_grad_()
    ssim(moving, pictures.flip(0)).sum().backward()
    assert moving.grad is not None
    assert torch.isfinite(moving.grad).all()
    assert (moving.grad.abs().amax(dim=(1, 2, 3)) > 0).all()


def test_bytes_become_floats_from_0_to_1() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, 16, 16)
    found = to_float(pixels)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found.numpy() == pixels.numpy().astype(np.float32) / 255).all()
    assert pixels[0, 0, 15, 15] == 255


def test_pictures_shrink_by_area_each_for_itself() -> None:
    faces = np.random.default_rng(5).integers(0, 256, (300, 112, 112, 3), dtype=np.uint8)
    found = shrunk(faces, 56)
    assert found.shape == (300, 3, 56, 56)
    assert found.dtype == torch.uint8
    blocks = faces.reshape(300, 56, 2, 56, 2, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2)
    assert np.abs(found.numpy() - blocks).max() <= 0.5
    assert np.array_equal(shrunk(faces[:2], 112).numpy(), faces[:2].transpose(0, 3, 1, 2))


def test_pictures_of_another_side_keep_what_they_show() -> None:
    flat = torch.full((1, 3, 64, 64), 0.25)
    for side in (32, 64, 112):
        assert resized(flat, side).shape == (1, 3, side, side)
        assert resized(flat, side).numpy() == pytest.approx(0.25, abs=1e-6)
    half = torch.cat([torch.zeros(1, 3, 64, 32), torch.ones(1, 3, 64, 32)], dim=3)
    assert resized(half, 112)[0, :, 50].argmax(dim=1).min() > 54
    assert resized(half, 64) is half


def test_an_embedding_of_a_picture_is_of_length_one_and_sees_0_to_255() -> None:
    faces = _faces(3)
    found = _embedded(faces)
    raw = _Twin()(torch.from_numpy(faces.transpose(0, 3, 1, 2).astype(np.float32))).numpy()
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-6)
    assert found == pytest.approx(raw / np.linalg.norm(raw, axis=1, keepdims=True), abs=1e-5)


# What came of an attack


def _cases(faces: NDArray[np.uint8], other: NDArray[np.uint8]) -> Cases:
    """Each face attacked, of a person of its own, and the other picture of that person."""
    count = len(faces)
    pixels, people = np.concatenate([faces, other]), np.tile(np.arange(count), 2)
    names = np.array([str(at) for at in range(2 * count)], dtype=object)
    embedded, rows = _embedded(pixels), np.arange(2 * count)
    images = FaceImages(names, people.astype(str).astype(object), pixels, "")
    pairs = np.stack([rows[:count], rows[count:]], axis=1)
    labelled = Labelled(images, embedded, embedded, people, np.full(2 * count, TEST), pairs, None)
    judges = {"own": Judge(_embedded, 0.99, embedded)}
    return Cases(labelled=labelled, attacked=rows[:count], other=rows[count:], judges=judges)


def test_the_picture_itself_is_a_perfect_reconstruction() -> None:
    faces = _faces(8)
    perfect = faces.transpose(0, 3, 1, 2).astype(np.float32) / 255
    assert np.array_equal(as_pictures(perfect), faces)
    found = _cases(faces, faces[::-1]).judged(perfect)
    assert found.ssim.value == pytest.approx(1)
    assert found.mse.value == 0
    assert found.cosine["own"].value == pytest.approx(1)
    assert (found.type_1["own"].value, found.type_2["own"].value) == (1, 0)


def test_acceptance_counts_faces_and_its_interval_holds_the_share() -> None:
    faces = _faces(8)
    half = faces.transpose(0, 3, 1, 2).astype(np.float32) / 255
    half[4:] = half[:4].copy()
    found = _cases(faces, faces).judged(half)
    assert found.type_1["own"].value == 0.5
    assert 0 < found.type_1["own"].low < 0.5 < found.type_1["own"].high < 1
    assert found.ssim.value < 1
