"""A blob is told from every other: a flipped bit, another length, and another owner are all damage."""

from __future__ import annotations

import itertools
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_service.record.checksums import from_blobs, to_blobs, weights_of
from tests.support.cloud_client import random_units

GALLERY: Final = 7
VERSION: Final = 2


def _sound(blobs: list[bytes], dim: int, subject: str = "anna", weight: float = 1.0, **other: Any) -> list[bool]:
    owner = {"gallery_id": GALLERY, "key_version": VERSION} | other
    _, sound = from_blobs(blobs, np.full(len(blobs), weight), [subject] * len(blobs), dim, **owner)
    return list(sound)


def _blob(vector: NDArray[np.float32], subject: str = "anna", weight: float = 1.0) -> bytes:
    [blob] = to_blobs(vector[np.newaxis], np.array([weight]), [subject], GALLERY, VERSION)
    return blob


@pytest.mark.parametrize("dim", [2, 5, 128])
def test_what_was_stored_is_read_as_it_was(dim: int) -> None:
    vectors = random_units(1, 6, dim)
    subjects = ["anna", "ben"] * 3
    weights = np.array([1.0, 0.1, 10.0, 1.0, 2.5, 1.0])
    blobs = to_blobs(vectors, weights, subjects, GALLERY, VERSION)
    assert [blob[: 4 * dim] for blob in blobs] == [row.tobytes() for row in vectors]
    assert {len(blob) for blob in blobs} == {4 * dim + 8}
    read, sound = from_blobs(blobs, weights, subjects, dim, GALLERY, VERSION)
    assert sound.all()
    np.testing.assert_array_equal(read, vectors)


@pytest.mark.parametrize("dim", [2, 5, 128])
def test_every_flipped_bit_is_damage(dim: int) -> None:
    blob = _blob(random_units(2, 1, dim)[0])
    flipped = []
    for at, bit in itertools.product(range(len(blob)), range(8)):
        changed = bytearray(blob)
        changed[at] ^= 1 << bit
        flipped.append(bytes(changed))
    assert not any(_sound(flipped, dim))


def test_two_flipped_signs_do_not_hide_each_other() -> None:
    vector = random_units(3, 1, 128)[0]
    blob = _blob(vector)
    pairs = []
    for one, other in itertools.combinations(range(128), 2):
        turned = vector.copy()
        turned[[one, other]] *= -1
        pairs.append(turned.tobytes() + blob[-8:])
    assert not any(_sound(pairs, 128))


def test_values_that_changed_places_are_damage() -> None:
    vector = random_units(3, 1, 128)[0]
    blob = _blob(vector)
    assert not any(_sound([np.roll(vector, shift).tobytes() + blob[-8:] for shift in range(1, 128)], 128))


def test_a_blob_of_another_owner_is_damage() -> None:
    blob = _blob(random_units(4, 1, 8)[0])
    assert _sound([blob], 8) == [True]
    assert _sound([blob], 8, "ben") == [False]
    assert _sound([blob], 8, gallery_id=GALLERY + 1) == [False]
    assert _sound([blob], 8, key_version=VERSION + 1) == [False]


def test_every_flipped_bit_of_a_weight_is_damage() -> None:
    for weight in (1.0, 0.1, 10.0, 3.75):
        blob = _blob(random_units(4, 1, 8)[0], weight=weight)
        assert _sound([blob], 8, weight=weight) == [True]
        for bit in range(64):
            flipped = (np.array([weight]).view(np.uint64) ^ np.uint64(1 << bit)).view(np.float64)[0]
            assert _sound([blob], 8, weight=float(flipped)) == [False]


@pytest.mark.parametrize("weight", [0.0, -1.0, 0.0999, 10.001, float("nan"), float("inf")])
def test_what_is_no_weight_is_damage_whatever_its_checksum_says(weight: float) -> None:
    assert _sound([_blob(random_units(4, 1, 8)[0], weight=weight)], 8, weight=weight) == [False]


def test_what_a_column_holds_that_is_no_number_is_no_weight() -> None:
    np.testing.assert_array_equal(weights_of([1.0, "1", 2, b"", None]), [1, np.nan, 2, np.nan, np.nan])


@pytest.mark.parametrize("wrong", [b"", b"x", bytes(40), bytes(80)])
def test_a_blob_of_any_length_leaves_the_others_sound(wrong: bytes) -> None:
    first, second, third = (_blob(vector) for vector in random_units(5, 3, 8))
    assert _sound([first, wrong, second, third], 8) == [True, False, True, True]
    assert _sound([first[:-4], second, third + first[-4:]], 8) == [False, True, False]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38, 2.0, 0.0])
def test_what_is_no_unit_vector_is_damage_whatever_its_checksum_says(value: float) -> None:
    vector = np.zeros(8, np.float32)
    vector[3] = value
    blob = _blob(vector)
    vectors, sound = from_blobs([blob], np.ones(1), ["anna"], 8, GALLERY, VERSION)
    assert not sound.any()
    assert not vectors.any()


def test_nothing_is_nothing() -> None:
    vectors, sound = from_blobs([], np.empty(0), [], 8, GALLERY, VERSION)
    assert (vectors.shape, sound.shape) == ((0, 8), (0,))
    assert to_blobs(np.empty((0, 8), np.float32), np.empty(0), [], GALLERY, VERSION) == []
