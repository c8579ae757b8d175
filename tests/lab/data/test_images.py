"""Where the lab's faces come from: a folder, a tar, or LFW; read once, and split by person."""

from __future__ import annotations

import io
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lab.data import images as module
from lab.data.images import FaceImages, read_folder, read_images, read_tar, split_people
from lab.data.lfw import read_lfw
from shared.errors import SetupError

PICTURES = Path(__file__).parents[2] / "pictures"


def _picture(seed: int, side: int = 112) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _folder(at: Path, *names: str, side: int = 112) -> Path:
    for seed, name in enumerate(names):
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_bytes(_picture(seed, side))
    return at


def _tar(at: Path, *names: str, **others: bytes) -> Path:
    with tarfile.open(at, "w") as tar:
        for seed, (name, data) in enumerate([*((name, None) for name in names), *others.items()]):
            content = _picture(seed) if data is None else data
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return at


def test_faces_of_ordinary_pictures_are_found_by_the_edge_and_folders_are_people(
    models_folder: Path, tmp_path: Path
) -> None:
    found = read_folder(PICTURES, cache=tmp_path)
    assert found.people.tolist() == ["biden", "collins", "obama", "obama", "obama"]
    assert found.names[0] == "biden/standing.jpg"
    assert found.pixels.shape == (5, 112, 112, 3)
    assert found.pixels.dtype == np.uint8
    assert found.skipped.counts == {"unreadable": 1}
    assert found.skipped.names == ["README.md"]


def test_pictures_without_a_face_or_with_several_are_counted_and_named(models_folder: Path, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "set", "nobody.png", side=300)
    sides = [Image.open(PICTURES / "obama/portrait.jpg").resize((450, 560)) for _ in range(2)]
    both = Image.new("RGB", (900, 560))
    both.paste(sides[0], (0, 0))
    both.paste(sides[1], (450, 0))
    both.save(folder / "two.png")
    with pytest.raises(SetupError, match=r"gives 0 faces where at least 3 are needed; .*two\.png") as told:
        read_folder(folder, cache=tmp_path / "cache", at_least=3)
    assert "1 no face" in told.value.detail
    assert "1 several faces" in told.value.detail


def test_in_a_flat_folder_nobody_is_known(tmp_path: Path) -> None:
    found = read_folder(_folder(tmp_path / "set", "a.png", "b.png"), cache=tmp_path / "cache")
    assert found.people.tolist() == [None, None]


def test_pictures_of_112_by_112_are_taken_as_they_are_and_the_rule_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = _folder(tmp_path / "set", "ann/1.png", "ann/2.png", "bob/deep/1.png", ".hidden/1.png")
    with caplog.at_level("INFO"):
        found = read_folder(folder, cache=tmp_path / "cache")
    assert found.names.tolist() == ["ann/1.png", "ann/2.png", "bob/deep/1.png"]
    assert found.people.tolist() == ["ann", "ann", "bob"]
    assert np.array_equal(found.pixels[0], np.asarray(Image.open(folder / "ann/1.png")))
    assert "the first 3 pictures are all 112 x 112, so faces are taken as aligned" in caplog.text


def test_in_an_aligned_set_other_sizes_are_skipped(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "set", "a.png")
    _folder(folder, "b.png", side=64)
    found = read_folder(folder, cache=tmp_path / "cache", aligned=True)
    assert found.names.tolist() == ["a.png"]
    assert found.skipped.counts == {"not_aligned": 1}


def test_the_first_ten_skipped_are_named(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "set", *(f"{at:02}.png" for at in range(12)), side=64)
    with pytest.raises(SetupError) as told:
        read_folder(folder, cache=tmp_path / "cache", aligned=True)
    assert "12 not aligned (00.png" in told.value.detail
    assert "09.png, ...)" in told.value.detail


def test_a_set_is_read_once_and_again_when_a_picture_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache = _folder(tmp_path / "set", "a.png", "b.png"), tmp_path / "cache"
    first = read_folder(folder, cache=cache, aligned=True)
    with monkeypatch.context() as patch:
        patch.setattr(module, "decode", None)
        again = read_folder(folder, cache=cache, aligned=True)
    assert np.array_equal(first.pixels, again.pixels)
    assert (first.digest, first.names.tolist()) == (again.digest, again.names.tolist())
    os.utime(folder / "a.png", ns=(1, 1))
    assert read_folder(folder, cache=cache, aligned=True).digest != first.digest


def test_faces_are_mapped_not_loaded(tmp_path: Path) -> None:
    found = read_folder(_folder(tmp_path / "set", "a.png"), cache=tmp_path / "cache")
    base = found.pixels
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    assert not found.pixels.flags.writeable


def test_a_damaged_entry_of_the_cache_is_made_anew(tmp_path: Path) -> None:
    folder, cache = _folder(tmp_path / "set", "a.png"), tmp_path / "cache"
    first = np.array(read_folder(folder, cache=cache).pixels)
    for entry in (cache / "images").iterdir():
        entry.write_bytes(entry.read_bytes()[:40])
    assert np.array_equal(read_folder(folder, cache=cache).pixels, first)


def test_runs_at_the_same_time_do_each_other_no_harm(tmp_path: Path) -> None:
    folder, cache = _folder(tmp_path / "set", *(f"{at}.png" for at in range(20))), tmp_path / "cache"
    together = Barrier(4)

    def run(_: int) -> FaceImages:
        together.wait()
        return read_folder(folder, cache=cache, aligned=True)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, range(4)))
    assert all(np.array_equal(each.pixels, found[0].pixels) for each in found)
    assert len(list((cache / "images").iterdir())) == 2


def test_in_a_tar_the_folder_that_all_share_says_nothing(tmp_path: Path) -> None:
    known = read_tar(_tar(tmp_path / "a.tar", "lfw/Ann/Ann_0001.png", "lfw/Bob/Bob_0001.png"), cache=tmp_path)
    assert known.people.tolist() == ["Ann", "Bob"]
    assert known.names.tolist() == ["Ann/Ann_0001.png", "Bob/Bob_0001.png"]
    unknown = read_tar(_tar(tmp_path / "b.tar", "utk/1.png", "utk/2.png"), cache=tmp_path)
    assert unknown.people.tolist() == [None, None]
    assert unknown.names.tolist() == ["1.png", "2.png"]


def test_damaged_and_oversized_members_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.PictureLimits.model_fields["max_bytes"], "default", 50_000)
    path = _tar(tmp_path / "a.tar", "s/a.png", **{"s/b.png": b"\x89PNG broken", "s/c.png": bytes(20_000_000)})
    found = read_tar(path, cache=tmp_path)
    assert found.names.tolist() == ["a.png"]
    assert found.skipped.counts == {"unreadable": 2}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_tar_with_anything_but_files_and_folders_is_refused(kind: bytes, tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", "s/a.png")
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("s/odd")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(SetupError, match="s/odd, which is neither file nor folder"):
        read_tar(path, cache=tmp_path)


def test_what_is_no_source_is_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="is missing"):
        read_images(tmp_path / "none", cache=tmp_path)
    (tmp_path / "text.tar").write_text("no tar")
    with pytest.raises(SetupError, match="not a tar"):
        read_images(tmp_path / "text.tar", cache=tmp_path)
    with pytest.raises(SetupError, match="gives 0 faces where at least 1 "):
        read_folder(tmp_path, cache=tmp_path / "cache", aligned=True)


def test_lfw_comes_with_its_pairs(tmp_path: Path) -> None:
    _tar(tmp_path / "lfw112.tar", "lfw112/Ann/Ann_0001.png", "lfw112/Ann/Ann_0002.png", "lfw112/Bob/Bob_0001.png")
    (tmp_path / "lfw_pairs.txt").write_text("1\t1\nAnn\t1\t2\nAnn\t1\tBob\t1\n")
    found, pairs = read_lfw(tmp_path, cache=tmp_path)
    assert found.names.tolist() == ["Ann/Ann_0001", "Ann/Ann_0002", "Bob/Bob_0001"]
    assert [(pair.first, pair.second, pair.genuine) for pair in pairs] == [
        ("Ann/Ann_0001", "Ann/Ann_0002", True),
        ("Ann/Ann_0001", "Bob/Bob_0001", False),
    ]
    (tmp_path / "lfw_pairs.txt").write_text("1\t1\nAnn\t1\t3\nAnn\t1\tBob\t1\n")
    with pytest.raises(SetupError, match="1 images that are not in"):
        read_lfw(tmp_path, cache=tmp_path)


@given(st.lists(st.text(min_size=1), min_size=1), st.lists(st.text(min_size=1)), st.integers(0, 9))
def test_nobody_changes_sides_when_others_are_added(people: list[str], others: list[str], seed: int) -> None:
    before = split_people(people, [0.6, 0.3, 0.1], seed)
    after = split_people([*people, *others], [0.6, 0.3, 0.1], seed)
    assert after[: len(people)].tolist() == before.tolist()
    assert len({(person, part) for person, part in zip(people, before, strict=True)}) == len(set(people))


def test_parts_have_the_sizes_that_were_asked_for_and_another_seed_parts_otherwise() -> None:
    people = [f"person {at}" for at in range(5000)]
    part = split_people(people, [0.7, 0.2, 0.1], 1)
    assert np.bincount(part) / 5000 == pytest.approx([0.7, 0.2, 0.1], abs=0.02)
    assert np.mean(part != split_people(people, [0.7, 0.2, 0.1], 2)) > 0.3


def test_parts_of_a_set_share_nobody_and_lose_nobody() -> None:
    people = np.array([f"p{at % 30}" for at in range(100)], dtype=object)
    names = np.array([f"{at}" for at in range(100)], dtype=object)
    whole = FaceImages(names, people, np.zeros((100, 112, 112, 3), np.uint8), "a" * 64)
    part = split_people(people, [0.5, 0.5], 0)
    first, second = whole.subset(part == 0), whole.subset(part == 1)
    assert not set(first.people) & set(second.people)
    assert sorted([*first.names, *second.names]) == sorted(names)
    assert len({whole.digest, first.digest, second.digest}) == 3
