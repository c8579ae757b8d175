"""Record and index agree, also when the index fails, lags behind, or is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import event

from cloud_service.entries import queries as entries_module
from cloud_service.index import faiss_indexes as indexes_module
from cloud_service.index.flat import SegmentedIndex
from cloud_service.settings import Settings
from cloud_service.store import Store
from cloud_service.subjects.enrollment import Enrollment
from shared.errors import NotFound
from tests.support.cloud_client import Cloud, assert_problem, random_units

pytestmark = pytest.mark.both_engines

VECTORS = random_units(9, 4)
IDS = [f"{number:032x}" for number in range(4)]


class Flawed(SegmentedIndex):
    """A real index that fails where a test says so."""

    def __init__(self, dim: int, failing: set[str]) -> None:
        super().__init__(dim)
        self._failing = failing

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        if "add" in self._failing:
            self._failing.discard("add")
            super().add(ids[:1], vectors[:1])  # half of the work, as a real failure leaves it
            raise MemoryError
        if "always" in self._failing:
            raise MemoryError
        super().add(ids, vectors)

    def remove(self, ids: NDArray[np.int64]) -> None:
        if "forget to remove" in self._failing:
            return
        if "remove" in self._failing:
            raise RuntimeError
        super().remove(ids)


@pytest.fixture
def cloud(shared_cloud: Cloud) -> Cloud:
    return shared_cloud


@pytest.fixture
def failing() -> set[str]:
    return set()


@pytest.fixture
def flawed(cloud: Cloud, failing: set[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    monkeypatch.setattr(indexes_module, "SegmentedIndex", lambda dim: Flawed(dim, failing))
    cloud.put_gallery()
    yield cloud
    failing.clear()


def _store(cloud: Cloud) -> Store:
    store: Store = cloud.services.store
    return store


def _ready(cloud: Cloud) -> dict[str, Any]:
    answer = cloud.http.get("/readyz")
    checks: dict[str, Any] = answer.json()["checks"]
    assert answer.status_code == (200 if all(checks.values()) else 503)
    return checks


def test_a_template_that_the_index_still_has_after_its_erasure_is_never_returned(
    flawed: Cloud, failing: set[str]
) -> None:
    failing.add("forget to remove")
    flawed.enroll("anna", VECTORS[:1])
    flawed.enroll("ben", VECTORS[:1])
    flawed.http.delete("/v1/galleries/door/subjects/anna")
    store = _store(flawed)
    index = store.indexes.of(store.record.gallery("door"))
    assert index.search(VECTORS[:1], 5, 1e-6).ids.shape == (1, 2), "the index does lag behind"
    assert flawed.found(VECTORS[0]) == ["ben"]


def test_an_enrollment_that_the_index_did_not_take_is_not_acknowledged_and_is_mended(
    flawed: Cloud, failing: set[str]
) -> None:
    failing.add("add")
    assert_problem(flawed.enroll("anna", VECTORS[:2], ids=IDS[:2]), 500, "unexpected-error")
    assert flawed.found(VECTORS[1]) == ["anna"], "committed; the index was rebuilt from the record"
    assert _ready(flawed) == {"record": True, "galleries": True, "templates": True, "index": True, "keys": True}
    assert flawed.enroll("anna", VECTORS[:2], ids=IDS[:2]).status_code == 201
    assert flawed.held() == (1, 2)
    store = _store(flawed)
    assert len(store.indexes.of(store.record.gallery("door"))) == 1


def test_an_index_that_cannot_be_rebuilt_makes_the_service_not_ready_until_it_can(
    flawed: Cloud, failing: set[str]
) -> None:
    flawed.enroll("anna", VECTORS[:1], ids=IDS[:1])
    failing.add("always")
    assert_problem(flawed.enroll("ben", VECTORS[1:2], ids=IDS[1:2]), 500, "unexpected-error")
    assert _ready(flawed) == {"record": True, "galleries": True, "templates": True, "index": False, "keys": True}
    assert_problem(flawed.identify(VECTORS[0]), 500, "unexpected-error")
    assert_problem(flawed.enroll("carl", VECTORS[2:3]), 500, "unexpected-error")
    failing.clear()
    assert flawed.found(VECTORS[0]) == ["anna"]
    assert flawed.found(VECTORS[1]) == ["ben"]
    assert flawed.found(VECTORS[2]) == []
    assert _ready(flawed) == {"record": True, "galleries": True, "templates": True, "index": True, "keys": True}


def test_an_erasure_that_the_index_refuses_is_done_all_the_same(flawed: Cloud, failing: set[str]) -> None:
    flawed.enroll("anna", VECTORS[:1], ids=IDS[:1])
    flawed.enroll("ben", VECTORS[1:2])
    failing.add("remove")
    assert flawed.http.delete("/v1/galleries/door/subjects/anna").status_code == 200
    assert flawed.found(VECTORS[0]) == []
    store = _store(flawed)
    assert len(store.indexes.of(store.record.gallery("door"))) == 1, "rebuilt without it"


def test_erasing_while_the_index_is_lost_needs_no_index(flawed: Cloud, failing: set[str]) -> None:
    flawed.enroll("anna", VECTORS[:1])
    failing.add("always")
    flawed.enroll("ben", VECTORS[1:2])
    assert flawed.http.delete("/v1/galleries/door/subjects/anna").status_code == 200
    assert flawed.http.delete("/v1/galleries/door").status_code == 200
    assert _ready(flawed) == {"record": True, "galleries": True, "templates": True, "index": True, "keys": True}


def test_a_gallery_erased_and_made_again_is_another_one(flawed: Cloud) -> None:
    store = _store(flawed)
    flawed.enroll("anna", VECTORS[:1])
    before = store.record.gallery("door")
    flawed.http.delete("/v1/galleries/door")
    flawed.put_gallery()
    assert store.record.gallery("door").id > before.id
    with pytest.raises(NotFound):
        store.indexes.of(before)
    with pytest.raises(NotFound):
        Enrollment(store.record).add(before, {"anna": {}}, by=None)


def test_ids_of_the_index_are_never_used_again(client: Cloud) -> None:
    store = _store(client)
    client.enroll("anna", VECTORS[:2])
    first = store.indexes.of(store.record.gallery("door")).search(VECTORS[:1], 5, 1e-6).ids.max()
    client.http.delete("/v1/galleries/door/subjects/anna")
    client.enroll("anna", VECTORS[:1])
    again = store.indexes.of(store.record.gallery("door")).search(VECTORS[:1], 5, 1e-6).ids.min()
    assert again > first


def test_a_start_rebuilds_large_galleries_in_small_batches(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = random_units(10, 50)
    with Cloud(settings) as cloud:
        cloud.put_gallery(score={"rule": "best"})
        cloud.enroll("anna", vectors)
    monkeypatch.setattr(entries_module, "BATCH_BYTES", 7 * 8 * 4)
    sizes: list[int] = []
    add: Callable[..., None] = SegmentedIndex.add

    def counted(self: SegmentedIndex, ids: NDArray[np.int64], rows: NDArray[np.float32]) -> None:
        sizes.append(len(ids))
        assert (np.diff(ids) > 0).all()
        add(self, ids, rows)

    monkeypatch.setattr(SegmentedIndex, "add", counted)
    with Cloud(settings) as cloud:
        assert sizes == [7] * 7 + [1]
        assert cloud.found(vectors[49]) == ["anna"]


@pytest.fixture
def gallery_reads(client: Cloud) -> Iterator[list[str]]:
    """The statements that read the row of a gallery."""
    statements: list[str] = []
    engine = client.services.store.record.database.engine

    def note(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if statement.startswith("SELECT gallery.id, gallery.name"):
            statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield statements
    event.remove(engine, "before_cursor_execute", note)


def test_a_request_reads_its_gallery_once(client: Cloud, gallery_reads: list[str]) -> None:
    subject = "/v1/galleries/door/subjects/anna"
    for request in (
        lambda: client.enroll("anna", VECTORS[:2], ids=IDS[:2]),
        lambda: client.enroll("anna", VECTORS[:2], ids=IDS[:2]),
        lambda: client.verify("anna", VECTORS[0]),
        lambda: client.identify(*VECTORS),
        lambda: client.http.delete(f"{subject}/templates/{IDS[0]}"),
        lambda: client.http.delete(subject),
        lambda: client.http.delete("/v1/galleries/door"),
    ):
        gallery_reads.clear()
        assert request().status_code in {200, 201}
        assert len(gallery_reads) == 1
