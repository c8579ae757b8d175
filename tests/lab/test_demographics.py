"""False match rates by age, sex and group, from a labelled set of faces."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lab.demographics import (
    BANDS,
    drawn,
    false_matches,
    first_of_each_photo,
    labels_of,
    rate_of,
    wilson,
)

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
