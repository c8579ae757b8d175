"""False match rates by age, sex and group, from a labelled set of faces."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edge_service.protection.keys import PUBLIC_KEY
from edge_service.protection.profiles.files import load_profile
from edge_service.protection.protect import Protector
from lab.data.embedders import embed_images, open_encoder, unit
from lab.data.images import read_images
from lab.evaluation.demographic_figures import far_worse, measure_profile
from lab.evaluation.demographics import (
    BANDS,
    drawn,
    false_matches,
    first_of_each_photo,
    labels_of,
    rate_of,
    wilson,
)
from lab.export.model_card import with_demographics

TAU = 0.5


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def _names(count: int, age: int, sex: int = 0, group: int = 0) -> list[str]:
    return [f"{age}_{sex}_{group}_2017011017492{number:04d}.jpg.chip.jpg" for number in range(count)]


def test_labels_are_read_from_names_wherever_the_file_lies() -> None:
    names = ["utk/1_0_2_20161219140623097.jpg.chip.jpg", "116_1_4_20170112213500903.jpg", "26_1_1_2017011617452.png"]
    unknown = ["39_1_20170116174525125.jpg.chip.jpg", "Ann/Ann_0001.jpg", "26_2_1_2017.jpg", "26_1_7_2017.jpg", "x.jpg"]
    labels = labels_of(names + unknown)
    assert labels.known.tolist() == [0, 1, 2]
    assert [BANDS[band] for band in labels.band[:3]] == [(0, 2), (71, 200), (25, 45)]
    assert labels.sex[:3].tolist() == [0, 1, 1]
    assert labels.group[:3].tolist() == [2, 4, 1]


def test_of_each_band_so_many_are_drawn_and_always_the_same() -> None:
    labels = labels_of(_names(50, 1) + _names(50, 30) + ["unknown.jpg"] + _names(5, 80))
    rows = drawn(labels, 20)
    assert np.bincount(labels.band[rows]).tolist() == [20, 0, 0, 0, 0, 20, 0, 5]
    np.testing.assert_array_equal(rows, drawn(labels, 20))
    assert len(drawn(labels, None)) == 105


def test_copies_of_a_photo_are_left_out_and_other_photos_are_not() -> None:
    random = np.random.default_rng(2)
    photos = [np.kron(random.integers(0, 256, (14, 14, 3)), np.ones((8, 8, 1))).astype(np.uint8) for _ in range(5)]
    compressed = io.BytesIO()
    Image.fromarray(photos[0]).save(compressed, "JPEG", quality=30)
    brighter = (photos[1] * 0.8 + 20).astype(np.uint8)
    bordered = [np.pad(photo[12:-12, 12:-12], ((12, 12), (12, 12), (0, 0))) for photo in photos[3:5]]
    faces = [*photos, np.asarray(Image.open(compressed)), brighter, photos[2][:, ::-1], *bordered]
    found = first_of_each_photo(np.stack(faces))
    assert found.tolist()[:8] == [True] * 5 + [False] * 3
    assert found.tolist()[8:] == [True, True], "one black border does not make two photos one"


@pytest.mark.parametrize("both_sides", [True, False])
def test_a_rate_is_the_share_of_all_pairs_of_different_pictures(both_sides: bool) -> None:
    random = np.random.default_rng(3)
    probes = _unit(random.normal(size=(1100, 4)))  # more than a block
    gallery = probes if both_sides else _unit(probes + 0.2 * random.normal(size=probes.shape))
    scores = probes @ gallery.T
    different = ~np.eye(len(probes), dtype=bool)
    rate = rate_of(probes, TAU, None if both_sides else gallery)
    assert (rate.pictures, rate.pairs) == (1100, 1100 * 1099 // 2)
    assert rate.value == pytest.approx(np.mean(scores[different] >= TAU), rel=1e-5)
    assert rate.accepted == pytest.approx(rate.value * rate.pairs, abs=1)
    assert rate.threshold is not None
    assert np.mean(scores[different] >= rate.threshold) <= 1e-3 < np.mean(scores[different] >= rate.threshold - 1e-3)


def test_the_interval_holds_the_truth_as_often_as_it_says_and_pairs_are_not_independent() -> None:
    random = np.random.default_rng(4)
    everyone = _unit(random.normal(size=(4000, 6)))
    scores = everyone @ everyone.T
    truth = np.mean(scores[~np.eye(4000, dtype=bool)] >= TAU)
    held = narrow = 0
    for _ in range(60):
        some = everyone[random.choice(4000, 80, replace=False)]
        rate = rate_of(some, TAU)
        held += rate.low <= truth <= rate.high
        low, high = wilson(rate.accepted, rate.pairs)
        narrow += low <= truth <= high
        assert rate.low <= low <= high <= rate.high
    assert held >= 51
    assert narrow < held


def test_a_rate_without_a_false_match_has_an_upper_end_and_few_pairs_no_threshold() -> None:
    few = rate_of(np.eye(3, dtype=np.float32), TAU)
    assert (few.low, few.high) == (0.0, wilson(0, 3)[1])
    rate = rate_of(np.eye(20, dtype=np.float32), TAU)
    assert (rate.accepted, rate.value, rate.low, rate.threshold) == (0, 0.0, 0.0, None)
    assert 0 < rate.high < 4 / rate.pairs * 2


def test_the_table_tells_bands_sexes_and_groups_apart() -> None:
    random = np.random.default_rng(5)
    names = _names(30, 1, 0, 1) + _names(30, 1, 1, 2) + _names(30, 30, 0, 1) + _names(1, 80)
    spread = np.repeat([0.3, 0.6, 4.0, 1.0], [30, 30, 30, 1])[:, None]
    middle = np.repeat(random.normal(size=(4, 16)), [30, 30, 30, 1], axis=0)
    rows = false_matches(labels_of(names), _unit(middle + spread * random.normal(size=(91, 16))), TAU)
    by = {(row["ages"], row["sex"], row["group"]): row for row in rows}
    assert set(by) == {
        (ages, *rest)
        for ages, some in (("0 to 2", (("male", "Black"), ("female", "Asian"))), ("25 to 45", (("male", "Black"),)))
        for sex, group in some
        for rest in ((None, None), (sex, None), (None, group), (sex, group))
    }
    assert by["0 to 2", "male", "Black"]["value"] > 0.9 > by["0 to 2", "female", "Asian"]["value"]
    assert by["25 to 45", None, None]["value"] < 0.1
    assert by["0 to 2", None, None]["pairs"] == 60 * 59 // 2


@pytest.mark.slow(reason="protects and compares a whole labelled set")
def test_a_finished_profile_is_measured_on_a_labelled_set(
    models_folder: Path, patronus: Callable[..., Any], faces_tar: Callable[..., Path], tmp_path: Path
) -> None:
    card, out, kept = tmp_path / "CARD.md", tmp_path / "found.json", ("--cache", tmp_path / "cache")
    card.write_text("# A card\n")
    faces = faces_tar(tmp_path / "faces.tar", 110, each=1, labels=True)
    result = patronus("lab", "demographics", faces, "--out", out, "--card", card, *kept)
    assert result.status == 0, result.err
    assert "| ages, cosine 0.384 |" in result.out
    assert "| ages, cosine 0.384 |" in card.read_text()
    assert card.read_text().startswith("# A card\n\n## False matches by age, sex and group\n")
    found = json.loads(out.read_text())
    profile = load_profile("default-2")
    assert (found["profile"], found["profile_sha256"]) == ("default-2", profile.pin.sha256)
    assert (found["pictures"] + found["copies"], found["sides"], found["tau"]) == (110, "both", 0.384)

    images = read_images(faces, cache=tmp_path / "cache", fills=False)
    images = images.subset(first_of_each_photo(images.pixels))
    clean = unit(embed_images(images, open_encoder("sface_2021dec"), cache=tmp_path / "cache"))
    made = Protector(profile).templates(clean, PUBLIC_KEY, sealed=False).templates
    for kind, rows in (("clean", clean), ("protected", made)):
        assert found[kind] == false_matches(labels_of(images.names), rows, 0.384)

    few = patronus("lab", "demographics", faces_tar(tmp_path / "few.tar", 60), *kept)
    assert few.status == 1
    assert "has 0 pictures whose names hold age, sex and group, and 100 are needed" in few.sentence


RECORDED = Path("docs/demographics")
PROFILES = Path("edge_service/protection/profiles")


@pytest.mark.parametrize("profile", ["default-2", "default", "plugin", "dlib-2", "dlib"])
def test_a_shipped_card_tells_what_was_recorded_of_the_profile_that_is_shipped(profile: str) -> None:
    found = json.loads((RECORDED / f"{profile}.json").read_text())
    assert found["profile_sha256"] == load_profile(profile).pin.sha256
    card = (PROFILES / profile / "MODEL_CARD.md").read_text()
    assert with_demographics(card, found) == card
    assert "0 to 2" in far_worse(found)
    assert "**Not for children.**" in card
    assert "not for children" in Path("README.md").read_text()


@pytest.mark.slow(reason="real faces")
def test_on_real_faces_young_children_are_taken_for_each_other(models_folder: Path, tmp_path: Path) -> None:
    named = os.environ.get("PATRONUS_FACE_DATA")
    source = Path(named or ".") / "utkface112.tar"
    if named is None or not source.is_file():
        pytest.skip("PATRONUS_FACE_DATA does not name a folder with utkface112.tar")
    with tarfile.open(source) as tar:
        members = [member for member in tar if member.isfile()]
        names = np.array([member.name for member in members], dtype=object)
        for row in drawn(labels_of(names), 60):
            member = members[row]
            if labels_of([member.name]).band[0] in {0, 5}:
                (tmp_path / Path(member.name).name).write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]
    profile = load_profile("default")
    encoder = open_encoder("sface_2021dec")
    found = measure_profile(profile, encoder, 0.384, tmp_path, cache=tmp_path / "cache", most=None)
    rates = {row["ages"]: row["value"] for row in found["protected"] if row["sex"] is None and row["group"] is None}
    assert rates["0 to 2"] > 0.3
    assert rates["25 to 45"] < 0.02
