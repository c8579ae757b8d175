"""An index in Milvus agrees with a plain model, also where more is wanted than Milvus shows at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_service.entries.queries import Lacking
from cloud_service.index.milvus.client import CollectionLost, Milvus
from cloud_service.index.milvus.index import MilvusIndex
from tests.support.cloud_client import random_units
from tests.support.milvus_server import Milvus as Server

DIM = 32
VECTORS = random_units(1, 300, DIM)
PROBES = random_units(2, 3, DIM)
IDS = np.arange(1, 301, dtype=np.int64)


@pytest.fixture(scope="module")
def milvus(shared_milvus: Server) -> Iterator[Milvus]:
    connection = Milvus(shared_milvus.url, "", None, 10)
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def filled(milvus: Milvus) -> Iterator[str]:
    name = "test_index"
    milvus.create(name, DIM)
    milvus.put(name, IDS, VECTORS)
    milvus.load(name)
    yield name
    milvus.drop(name)


def _complete() -> Lacking:
    return Lacking(len(IDS), np.empty(0, np.int64))


def _index(milvus: Milvus, name: str, most: int = 16_384, approximate: bool = False) -> MilvusIndex:
    return MilvusIndex(milvus, name, DIM, approximate, lambda: None, _complete, most)


def _scores(probe: NDArray[np.float32]) -> NDArray[np.float64]:
    return VECTORS.astype(np.float64) @ probe.astype(np.float64)


@pytest.mark.slow(reason="Milvus")
@pytest.mark.parametrize("width", [1, 7, 300, 1000])
@pytest.mark.parametrize("floor", [0.05, 0.3])
def test_it_shows_the_best_and_tells_of_the_others(milvus: Milvus, filled: str, width: int, floor: float) -> None:
    hits = _index(milvus, filled).search(PROBES, width, floor)
    for row, probe in enumerate(PROBES):
        scores = _scores(probe)
        shown = hits.ids[row][hits.ids[row] >= 0]
        hidden = np.setdiff1d(IDS, shown)
        assert len(shown) <= width
        unseen = hits.unseen_at_most[row]
        assert (scores[hidden - 1] <= max(unseen, floor)).all()
        assert unseen == -1 or unseen <= scores[shown - 1].min() + 0.01, "no more is feared than need be"
        assert (unseen == -1) == ((scores >= floor - 0.01).sum() < width)


@pytest.mark.slow(reason="Milvus")
@pytest.mark.parametrize("most", [3, 40])
def test_more_than_milvus_shows_at_once_is_shown_all_the_same(milvus: Milvus, filled: str, most: int) -> None:
    index = _index(milvus, filled, most)
    assert index.search(PROBES, most, 0.1).ids.shape[1] <= most
    hits = index.search(PROBES, 4 * most, 0.2)
    for row, probe in enumerate(PROBES):
        shown = hits.ids[row][hits.ids[row] >= 0]
        assert len(set(shown.tolist())) == len(shown)
        reach = np.flatnonzero(_scores(probe) >= 0.2) + 1
        assert set(reach.tolist()) <= set(shown.tolist())
    assert (hits.unseen_at_most == -1).all()


@pytest.mark.slow(reason="Milvus")
def test_what_is_put_twice_is_there_once_and_what_is_removed_is_gone(milvus: Milvus) -> None:
    milvus.create("test_writes", DIM)
    milvus.load("test_writes")
    index = _index(milvus, "test_writes")
    assert index.search(PROBES, 5, 0.1).ids.shape == (3, 0)
    milvus.put("test_writes", IDS[:4], VECTORS[:4])
    milvus.put("test_writes", IDS[:4], VECTORS[:4])
    assert len(index) == 4
    assert index.search(VECTORS[2:3], 1, 0.9).ids.tolist() == [[3]]
    milvus.remove("test_writes", np.array([3, 9_999], dtype=np.int64))
    assert len(index) == 3
    assert index.search(VECTORS[2:3], 1, 0.9).ids.shape == (1, 0)
    assert sorted(milvus.ids("test_writes", 1, 4).tolist()) == [2, 4]
    milvus.drop("test_writes")
    milvus.drop("test_writes")
    lost: list[bool] = []
    with pytest.raises(CollectionLost):
        MilvusIndex(milvus, "test_writes", DIM, False, lambda: lost.append(True), _complete).search(PROBES, 5, 0.1)
    assert lost


@pytest.mark.slow(reason="Milvus")
def test_an_approximate_index_never_shows_a_wrong_one_and_finds_nearly_all(shared_milvus: Server) -> None:
    milvus = Milvus(shared_milvus.url, "", None, 10)
    milvus.create("test_hnsw", DIM, approximate=True)
    milvus.put("test_hnsw", IDS, VECTORS)
    milvus.load("test_hnsw")
    index = _index(milvus, "test_hnsw", approximate=True)
    found = 0
    for at in range(0, 300, 3):
        hits = index.search(VECTORS[at : at + 1], 1, 0.9)
        assert hits.ids.tolist() in ([[at + 1]], [[]])
        found += hits.ids.shape[1]
    assert found >= 98
    milvus.drop("test_hnsw")
    milvus.close()
