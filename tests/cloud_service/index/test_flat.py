"""The index agrees with a plain model, whatever is added and removed, and while others write."""

from __future__ import annotations

import threading

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from cloud_service.index import flat as index_module
from cloud_service.index import scan as scan_module
from cloud_service.index.flat import SegmentedIndex, VectorIndex
from cloud_service.index.segment import DEAD, ZERO, Segment
from cloud_service.index.sketch import Sketch
from tests.support.cloud_client import random_units, unit

DIM = 32
VECTORS = random_units(1, 400, DIM)
PROBES = random_units(2, 12, DIM)
FEW = PROBES[:3]  # FAISS's scan; all of them: matrix products


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 40 rows, and blocks of 16, so that a few hundred templates fill several."""
    for name, value in {"_MOST": 40, "_LEAST": 4, "_WORTH_SHARING": 100}.items():
        monkeypatch.setattr(index_module, name, value)
    monkeypatch.setattr(scan_module, "_BLOCK", 16)


def exact(probes: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    return probes.astype(np.float64) @ vectors.astype(np.float64).T


def assert_nothing_is_hidden(
    index: VectorIndex,
    held: NDArray[np.int64],
    probes: NDArray[np.float32],
    width: int,
    floor: float,
    vectors: NDArray[np.float32] = VECTORS,
) -> None:
    """The promise of an exact index, checked with scores in float64; ids are rows of ``vectors``."""
    hits = index.search(probes, width, floor)
    assert hits.ids.shape[0] == len(probes)
    assert hits.ids.shape[1] <= width
    for ids, unseen, scores in zip(hits.ids, hits.unseen_at_most, exact(probes, vectors[held]), strict=True):
        shown = ids[ids != DEAD]
        assert (ids[: len(shown)] != DEAD).all(), "what is there stands before what is not"
        assert len(set(shown.tolist())) == len(shown)
        assert np.isin(shown, held).all()
        hidden = scores[~np.isin(held, shown)]
        assert hidden.max(initial=-1.0) <= max(unseen, np.nextafter(floor, -1.0))
        # And it is not vacuous: what is not shown is not said to be much better than what is.
        of_shown = scores[np.isin(held, shown)]
        assert unseen <= (of_shown.min() if len(shown) == width else floor) + 0.1
        assert (of_shown >= floor - 0.1).all()


def test_it_shows_what_a_plain_model_finds_after_additions_and_removals() -> None:
    index: VectorIndex = SegmentedIndex(DIM)
    ids = np.arange(300, dtype=np.int64)
    index.add(ids[:200], VECTORS[:200])
    index.remove(ids[50:150])
    index.add(ids[200:], VECTORS[200:300])
    index.remove(np.array([7_777], dtype=np.int64))  # never there
    held = np.r_[0:50, 150:300]
    assert len(index) == len(held)
    for width, floor in ((40, 1e-6), (3, 1e-6), (300, 0.2), (5, 0.9)):
        for probes in (PROBES, FEW, PROBES[:1]):
            assert_nothing_is_hidden(index, held, probes, width, floor)


@pytest.mark.usefixtures("small_segments")
@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 90), st.integers(0, 2**32 - 1)), max_size=12))
def test_whatever_comes_and_goes_it_agrees_with_the_model(steps: list[tuple[bool, int, int]]) -> None:
    index, held, at = SegmentedIndex(DIM), np.empty(0, np.int64), 0
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
        assert_nothing_is_hidden(index, held, PROBES, 6, 0.1)
        assert_nothing_is_hidden(index, held, FEW, 6, 1e-6)


@pytest.mark.parametrize("dim", [1, 7, 16, 33, 128, 512, 1024])
def test_templates_of_any_length_and_shape_are_told_apart(dim: int) -> None:
    """Random ones, and such as no random one is: all of it in one value, or in two."""
    random = random_units(dim, 200, dim)
    spikes = np.eye(dim, dtype=np.float32)[:60]
    pairs = unit(np.eye(dim)[:60] - 0.9 * np.eye(dim)[1:61].sum(axis=0)) if dim > 1 else spikes
    vectors = np.concatenate([random, spikes, -spikes, pairs])
    index, held = SegmentedIndex(dim), np.arange(len(vectors), dtype=np.int64)
    index.add(held, vectors)
    near = unit(vectors[::17] + 0.1 * random_units(3, len(vectors[::17]), dim))
    for probes in (near, near[:2]):
        assert_nothing_is_hidden(index, held, probes, 10, 0.3, vectors)
        found = index.search(probes, 10, 0.3).ids[:, 0]
        best = exact(probes, vectors)
        assert (best[np.arange(len(probes)), found] >= best.max(axis=1) - 0.1).all()


def test_what_is_lost_of_a_template_is_known() -> None:
    segment = Segment(DIM, 450, 0.7)
    segment.append(np.arange(400, dtype=np.int64), VECTORS)
    kept = (segment.codes[:400].astype(np.float64) - ZERO) / segment.scale
    assert np.linalg.norm(VECTORS - kept, axis=1).max() == pytest.approx(segment.lost, rel=1e-5)
    for probes in (PROBES, FEW):
        scores, rows = segment.scan(probes, 100)
        assert np.abs(scores - np.take_along_axis(exact(probes, VECTORS), rows, 1)).max() <= segment.error < 0.03


def test_it_returns_no_more_than_it_holds_and_nothing_far_under_the_floor() -> None:
    index = SegmentedIndex(DIM)
    assert index.search(PROBES[:2], 5, 0.1).ids.shape == (2, 0)
    index.add(np.array([4, 9], dtype=np.int64), np.stack([PROBES[0], -PROBES[0]]))
    hits = index.search(PROBES[:1], 5, 0.1)
    assert hits.ids.tolist() == [[4]]
    assert hits.unseen_at_most.tolist() == [-2.0]


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("probes", [PROBES[:2], PROBES])
def test_many_equal_scores_are_as_many_as_asked_for(probes: NDArray[np.float32]) -> None:
    index = SegmentedIndex(DIM)
    index.add(np.arange(200, dtype=np.int64), np.repeat(PROBES[:1], 200, axis=0))
    hits = index.search(probes, 32, 0.5)
    assert len(set(hits.ids[0].tolist()) - {DEAD}) == 32
    assert hits.unseen_at_most[0] >= 1.0 - 1e-6, "there are others like them"
    assert set(hits.ids[1].tolist()) == {DEAD}


@pytest.mark.usefixtures("small_segments")
def test_the_bytes_of_what_was_removed_are_gone_and_its_room_comes_back() -> None:
    index = SegmentedIndex(DIM)
    index.add(np.arange(300, dtype=np.int64), VECTORS[:300])
    for segment in index.unsketched():
        index.sketch(segment, Sketch(segment))
    assert index.sketched == 7
    kept = list(index.segments())  # as a search that runs has them
    codes = {int(one): row.tobytes() for segment in kept for one, row in zip(*segment.alive(), strict=True)}
    sketched = {
        int(one): (sketch, row)
        for segment, sketch in index._sketches.items()
        for row, one in enumerate(segment.ids[: segment.used])
    }
    rough = {one: sketch._packer.unpack_1(sketch.blocks, row) for one, (sketch, row) in sketched.items()}
    gone = np.arange(0, 300, 7, dtype=np.int64)
    index.remove(gone)
    memory = b"".join(segment.codes.tobytes() for segment in {*kept, *index.segments()})
    assert not [one for one in gone if codes[one] in memory]
    assert codes[1] in memory
    for one, (sketch, row) in sketched.items():
        left = sketch._packer.unpack_1(sketch.blocks, row)
        assert not left.any() if one in gone else (left == rough[one]).all()
    assert all(rough[one].any() for one in gone if one in rough)
    index.remove(np.arange(20, 300, dtype=np.int64))
    assert sum(segment.capacity for segment in index.segments()) <= 40
    index.remove(np.arange(20, dtype=np.int64))
    assert list(index.segments()) == []


def test_any_row_of_a_large_segment_is_forgotten_by_its_sketch() -> None:
    """FAISS's packer takes a block of rows at a time, and a segment of the usual size has many."""
    segment = Segment(DIM, 40_000, 1.0)
    rows = random_units(5, 40_000, DIM)
    segment.append(np.arange(40_000), rows)
    sketch = Sketch(segment)
    gone = np.array([0, 31, 32, 20_000, 39_999])
    wide = np.zeros((len(gone), segment.codes.shape[1]), np.float32)
    wide[:, :DIM] = rows[gone]
    assert (sketch.propose(wide, 40)[1] == gone[:, np.newaxis]).any(axis=1).all()
    kept = np.setdiff1d(np.arange(64), gone)
    before = [sketch._packer.unpack_1(sketch.blocks, int(row)).copy() for row in kept]
    sketch.forget(gone)
    for row in gone:
        block, place = divmod(int(row), sketch._packer.nvec)
        assert not sketch._packer.unpack_1(sketch.blocks[block : block + 1], place).any()
    for row, code in zip(kept, before, strict=True):
        assert (sketch._packer.unpack_1(sketch.blocks, int(row)) == code).all()


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("probes", [VECTORS[:2], VECTORS[:300]])
def test_sketches_propose_what_is_near_and_nothing_that_was_removed(probes: NDArray[np.float32]) -> None:
    index = SegmentedIndex(DIM)
    index.add(np.arange(300, dtype=np.int64), VECTORS[:300])
    made = [(segment, Sketch(segment)) for segment in index.unsketched()]
    index.remove(np.arange(100, 120, dtype=np.int64))
    for segment, sketch in made:
        index.sketch(segment, sketch)
    index.remove(np.arange(120, 130, dtype=np.int64))
    index.add(np.arange(300, 310, dtype=np.int64), VECTORS[300:310])
    found = index.search(probes, 5, 0.9).ids
    stays = [one for one in range(len(probes)) if not 100 <= one < 130]
    assert [found[one, 0] for one in stays] == stays
    assert not np.isin(found, np.arange(100, 130)).any()
    assert index.search(VECTORS[305:306], 5, 0.9).ids.tolist() == [[305]], "what is not sketched yet is found"
    index.unsketch()
    assert_nothing_is_hidden(index, np.r_[0:100, 130:310], probes, 6, 0.1)


@pytest.mark.usefixtures("small_segments")
def test_searches_go_on_while_others_write_and_find_what_stays() -> None:
    index, over, wrong = SegmentedIndex(DIM), threading.Event(), []
    stays = np.arange(60, dtype=np.int64)
    index.add(stays, VECTORS[stays])

    def look(probe: int) -> None:
        while not over.is_set():
            hits = index.search(VECTORS[probe : probe + 1], 1, 0.99)
            if hits.ids[:, :1].tolist() != [[probe]]:
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
