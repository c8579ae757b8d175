"""Who may be used for what: LFW by its folds, others by their names, and fewer faces where fewer are wanted."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab.data.embedders import Encoder, open_encoder
from lab.data.splits import CALIBRATE, FIT, TEST, gather

FOLDS, EACH = 10, 32
PEOPLE = FOLDS * EACH


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, write_embedder: Callable[..., Path]) -> Encoder:
    return open_encoder(write_embedder(tmp_path_factory.mktemp("embedder") / "mine.onnx"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, faces_tar: Callable[..., Path]) -> Path:
    return faces_tar(tmp_path_factory.mktemp("images") / "others.tar", 550, seed=1)


@pytest.fixture(scope="module")
def lfw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures of each person, of whom the pairs name two; and somebody in no pair."""
    folder = tmp_path_factory.mktemp("lfw")
    random = np.random.default_rng(0)
    with tarfile.open(folder / "lfw112.tar", "w") as tar:
        for person in range(PEOPLE + 1):
            tiles = random.integers(0, 256, (7, 7, 3), dtype=np.uint8)
            for number in (1, 2, 3):
                file = io.BytesIO()
                noise = random.integers(0, 20, (112, 112, 3))
                pixels = (np.kron(tiles, np.ones((16, 16, 1))) + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(file, "JPEG")
                member = tarfile.TarInfo(f"lfw112/P{person:03d}/P{person:03d}_{number:04d}.jpg")
                member.size = len(file.getvalue())
                tar.addfile(member, io.BytesIO(file.getvalue()))
    lines = [f"{FOLDS}\t{EACH}"]
    for fold in range(FOLDS):
        own = [f"P{fold * EACH + at:03d}" for at in range(EACH)]
        lines += [f"{name}\t1\t2" for name in own]
        lines += [f"{name}\t1\t{other}\t1" for name, other in zip(own, own[1:] + own[:1], strict=True)]
    (folder / "lfw_pairs.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.slow(reason="embeds a set in the form of LFW")
@pytest.mark.parametrize("paired", [False, True])
def test_lfw_is_split_by_its_folds(lfw: Path, images: Path, encoder: Encoder, tmp_path: Path, paired: bool) -> None:
    found = gather(images, lfw, encoder, tmp_path, paired=paired).labelled
    assert len(found.images) == (2 * PEOPLE if paired else 3 * (PEOPLE + 1))
    people = {part: len(np.unique(found.people[found.rows(part)])) for part in (FIT, CALIBRATE, TEST)}
    assert people == {FIT: 2 * EACH + (not paired), CALIBRATE: 2 * EACH, TEST: 6 * EACH}
    assert len(found.pairs) == PEOPLE
    assert (found.people[found.pairs[:, 0]] == found.people[found.pairs[:, 1]]).all()
    assert (found.protocol is None) == paired
    names = found.images.names[found.pairs]
    assert {(one[-4:], other[-4:]) for one, other in names} == {("0001", "0002")}
    np.testing.assert_allclose(np.linalg.norm(found.unit, axis=1), 1, atol=1e-6)


@pytest.mark.slow(reason="splits many faces, several times")
def test_attackers_get_no_more_pictures_than_is_said_the_same_each_time(
    lfw: Path, images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    whole = gather(images, lfw, encoder, tmp_path)
    few, again, other = (
        gather(images, lfw, encoder, tmp_path, pictures=100, seed=seed).pictures.names.tolist() for seed in (0, 0, 1)
    )
    assert len(whole.pictures) == len(whole.learned) == 1100
    assert len(few) == 100
    assert few == again != other
    assert set(few) <= set(whole.pictures.names)
