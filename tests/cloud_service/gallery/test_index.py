"""The index agrees with a plain model, whatever is added and removed, and while others write."""

from __future__ import annotations

import threading

import hypothesis.strategies as st
import numpy as np
import pytest
from cloud_client import random_units
from hypothesis import given, settings
from numpy.typing import NDArray

from cloud_service.gallery import index as index_module
from cloud_service.gallery.index import ExactIndex, VectorIndex
from cloud_service.gallery.segment import DEAD

DIM = 32
VECTORS = random_units(1, 400, DIM)
PROBES = random_units(2, 5, DIM)


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 40 rows, and blocks of 16, so that a few hundred templates fill several."""
    for name, value in {"_MOST": 40, "_LEAST": 4, "_BLOCK": 16, "_BLOCK_OF_ONE": 24, "_WORTH_SHARING": 100}.items():
        monkeypatch.setattr(index_module, name, value)


def model(held: NDArray[np.int64], probes: NDArray[np.float32], width: int, floor: float) -> list[list[int]]:
    """The best of each probe by a plain sort of scores in float64; ids are rows of VECTORS."""
    scores = probes.astype(np.float64) @ VECTORS[held].astype(np.float64).T
    order = np.argsort(-scores, axis=1)[:, :width]
    return [[int(held[at]) for at in row if score[at] >= floor] for row, score in zip(order, scores, strict=True)]


def found(index: VectorIndex, probes: NDArray[np.float32], width: int, floor: float) -> list[list[int]]:
    hits = index.search(probes, width, floor)
    rows = []
    for ids in hits.ids:
        short = np.flatnonzero(ids == DEAD)
        assert not len(short) or short[0] == (ids != DEAD).sum(), "what is there stands before what is not"
        rows.append([int(one) for one in ids if one != DEAD])
    return rows


def test_it_finds_what_a_plain_model_finds_after_additions_and_removals() -> None:
    index: VectorIndex = ExactIndex(DIM)
    ids = np.arange(300, dtype=np.int64)
    index.add(ids[:200], VECTORS[:200])
    index.remove(ids[50:150])
    index.add(ids[200:], VECTORS[200:300])
    index.remove(np.array([7_777], dtype=np.int64))  # never there
    held = np.r_[0:50, 150:300]
    assert len(index) == len(held)
    for width, floor in ((40, 1e-6), (3, 1e-6), (300, 0.2), (5, 0.9)):
        for probes in (PROBES, PROBES[:1]):
            assert found(index, probes, width, floor) == model(held, probes, width, floor)
    scores = -np.sort(-(PROBES.astype(np.float64) @ VECTORS[held].astype(np.float64).T), axis=1)
    unseen = index.search(PROBES, 40, 1e-6).unseen_at_most
    assert (unseen >= scores[:, 40]).all()
    assert (unseen <= scores[:, 39] + 1e-4).all()
    assert (index.search(PROBES, 300, 1e-6).unseen_at_most == -1).all(), "all that reaches it was shown"


@pytest.mark.usefixtures("small_segments")
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 90), st.integers(0, 2**32 - 1)), max_size=12))
def test_whatever_comes_and_goes_it_agrees_with_the_model(steps: list[tuple[bool, int, int]]) -> None:
    index, held, at = ExactIndex(DIM), np.empty(0, np.int64), 0
    for adds, count, seed in steps:
        if adds:
            new = np.arange(at, min(at + count, len(VECTORS)), dtype=np.int64)
            index.add(new, VECTORS[new])
            held, at = np.concatenate([held, new]), at + len(new)
        else:
            gone = np.random.default_rng(seed).permutation(held)[:count]
            index.remove(gone)
            held = np.setdiff1d(held, gone)
        assert len(index) == len(held)
        assert found(index, PROBES, 6, 0.1) == model(held, PROBES, 6, 0.1)
        assert found(index, PROBES[:1], 6, 1e-6) == model(held, PROBES[:1], 6, 1e-6)


def test_it_returns_no_more_than_it_holds_and_nothing_under_the_floor() -> None:
    index = ExactIndex(DIM)
    assert index.search(PROBES[:2], 5, 0.1).ids.shape == (2, 0)
    index.add(np.array([4, 9], dtype=np.int64), np.stack([PROBES[0], -PROBES[0]]))
    hits = index.search(PROBES[:1], 5, 0.1)
    assert hits.ids.tolist() == [[4]]


@pytest.mark.usefixtures("small_segments")
def test_many_equal_scores_are_as_many_as_asked_for() -> None:
    index = ExactIndex(DIM)
    index.add(np.arange(200, dtype=np.int64), np.repeat(PROBES[:1], 200, axis=0))
    hits = index.search(PROBES[:2], 32, 0.5)
    assert len(set(hits.ids[0].tolist()) - {DEAD}) == 32
    assert set(hits.ids[1].tolist()) == {DEAD}


@pytest.mark.usefixtures("small_segments")
def test_the_bytes_of_what_was_removed_are_gone_and_its_room_comes_back() -> None:
    index = ExactIndex(DIM)
    index.add(np.arange(300, dtype=np.int64), VECTORS[:300])
    kept = index._segments  # as a search that runs has them
    gone = np.arange(0, 300, 7, dtype=np.int64)
    index.remove(gone)
    memory = b"".join(segment.vectors.tobytes() for segment in {*kept, *index._segments})
    assert not [one for one in gone if VECTORS[one].tobytes() in memory]
    assert VECTORS[1].tobytes() in memory
    index.remove(np.arange(20, 300, dtype=np.int64))
    assert sum(segment.capacity for segment in index._segments) <= 40
    index.remove(np.arange(20, dtype=np.int64))
    assert index._segments == ()


@pytest.mark.usefixtures("small_segments")
def test_searches_go_on_while_others_write_and_find_what_stays() -> None:
    index, over, wrong = ExactIndex(DIM), threading.Event(), []
    stays = np.arange(60, dtype=np.int64)
    index.add(stays, VECTORS[stays])

    def look(probe: int) -> None:
        while not over.is_set():
            hits = index.search(VECTORS[probe : probe + 1], 1, 0.99)
            if hits.ids.tolist() != [[probe]]:
                wrong.append(hits)

    watchers = [threading.Thread(target=look, args=(probe,)) for probe in (0, 41, 59)]
    for watcher in watchers:
        watcher.start()
    comes = np.arange(60, 400, dtype=np.int64)
    for _ in range(30):
        for part in np.split(comes, 17):
            index.add(part, VECTORS[part])
        for part in np.split(comes[::-1], 17):
            index.remove(part)
    over.set()
    for watcher in watchers:
        watcher.join()
    assert not wrong
    assert len(index) == 60
