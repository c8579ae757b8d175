"""Record and Milvus stay in step: when Milvus dies, hangs, comes back, comes back empty, or was never told."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from cloud_service.index.milvus import client as client_module
from cloud_service.index.milvus.client import Milvus
from cloud_service.index.milvus.indexes import MilvusIndexes
from cloud_service.index.milvus.outbox import Outbox
from cloud_service.record.tables import outbox as table
from shared.errors import IndexUnavailable, SetupError
from tests.cloud_service.index.milvus_cloud import (
    assert_pending,
    index_is_ready,
    settings_with_milvus,
    store_of,
    within,
)
from tests.support.cloud_client import Cloud, assert_problem, contract_of, random_units
from tests.support.damaging import change_blob, huge, rows_of
from tests.support.milvus_server import Milvus as Server
from tests.support.milvus_server import MilvusLite
from tests.support.sealed import Key

VECTORS = random_units(9, 6)
IDS = [f"{number:032x}" for number in range(6)]
ANNA = "/v1/galleries/door/subjects/anna"


def _parts(cloud: Cloud) -> tuple[MilvusIndexes, Milvus, Outbox]:
    indexes = store_of(cloud).indexes
    assert isinstance(indexes, MilvusIndexes)
    return indexes, indexes.milvus, indexes.outbox


def _collection(cloud: Cloud) -> str:
    indexes, _, _ = _parts(cloud)
    return indexes.names.collection(store_of(cloud).record.gallery("door"))


def _pending(outbox: Outbox, gallery_id: int) -> int:
    """How many erasures in a gallery, or of it, the outbox holds: Milvus may still have their bytes."""
    mine = table.c.collection.startswith(f"{outbox._names.prefix}{gallery_id}_", autoescape=True)
    with outbox._database.read() as connection:
        return len(connection.scalars(select(table.c.id).where(mine, table.c.action != "add")).all())


def test_what_was_enrolled_is_found_also_by_the_next_process_and_by_no_other_record(
    tmp_path: Path, shared_milvus: Server
) -> None:
    mine, other = (settings_with_milvus(tmp_path / name, shared_milvus.url) for name in ("mine", "other"))
    with Cloud(mine) as cloud, Cloud(other) as stranger:
        assert cloud.put_gallery().status_code == 201
        assert stranger.put_gallery().status_code == 201
        assert cloud.enroll("anna", VECTORS[:2], ids=IDS[:2]).status_code == 201
        assert cloud.found(VECTORS[1]) == ["anna"]
        assert stranger.found(VECTORS[1]) == []
        stranger.enroll("ben", VECTORS[:1])
        assert cloud.found(VECTORS[0]) == ["anna"]
        assert "secret" not in repr(mine)
        assert shared_milvus.url not in repr(mine)
    with Cloud(mine) as cloud:
        assert index_is_ready(cloud)
        assert cloud.found(VECTORS[1]) == ["anna"]
        assert_pending(cloud.http.delete(ANNA))
        assert cloud.found(VECTORS[1]) == []
        _, milvus, _ = _parts(cloud)
        assert milvus.count(_collection(cloud)) == 0
        gone = _collection(cloud)
        assert_pending(cloud.http.delete("/v1/galleries/door"))
        assert gone not in milvus.collections()


@pytest.mark.slow(reason="Milvus")
def test_without_milvus_it_says_so_in_time_and_recovers_by_itself(tmp_path: Path, own_milvus: MilvusLite) -> None:
    with Cloud(settings_with_milvus(tmp_path / "home", own_milvus.url, timeout_s=2.0)) as cloud:
        cloud.put_gallery()
        cloud.enroll("anna", VECTORS[:1], ids=IDS[:1])
        cloud.enroll("ben", VECTORS[1:2])
        own_milvus.kill()
        assert_problem(cloud.identify(VECTORS[0]), 503, "index-unavailable")
        within(5, lambda: not index_is_ready(cloud))
        answer = cloud.enroll("carl", VECTORS[2:3], ids=IDS[2:3])
        assert_problem(answer, 503, "index-unavailable")
        assert answer.headers["Retry-After"] == "2"
        assert cloud.held() == (2, 2), "what could not be searched was not stored"
        assert cloud.verify("ben", VECTORS[1]).json()["decision"] == "match", "the record alone is asked"
        assert_pending(cloud.http.delete(ANNA))
        gallery = store_of(cloud).record.gallery("door")
        _, milvus, outbox = _parts(cloud)
        assert _pending(outbox, gallery.id) == 1

        own_milvus.start()
        within(20, lambda: index_is_ready(cloud))
        assert cloud.found(VECTORS[0]) == []
        assert cloud.found(VECTORS[1]) == ["ben"]
        assert cloud.enroll("carl", VECTORS[2:3], ids=IDS[2:3]).status_code == 201
        assert cloud.found(VECTORS[2]) == ["carl"]
        within(10, lambda: milvus.count(_collection(cloud)) == 2)
        assert outbox.waiting_since() is None


@pytest.mark.slow(reason="Milvus")
def test_a_damaged_template_stays_out_of_milvus_and_nothing_waits_for_it(tmp_path: Path, shared_milvus: Server) -> None:
    with Cloud(settings_with_milvus(tmp_path / "home", shared_milvus.url)) as cloud:
        cloud.put_gallery(score={"rule": "best"})
        cloud.enroll("anna", VECTORS[:1])
        cloud.enroll("ben", VECTORS[1:2])
        [row] = rows_of(cloud, "anna")
        change_blob(cloud, row, huge(0))
        assert cloud.found(VECTORS[0]) == [], "Milvus proposes what it was given; the record decides"
        assert cloud.found(VECTORS[1]) == ["ben"]
        assert_problem(cloud.verify("anna", VECTORS[0]), 503, "record-damaged")
        record, (indexes, milvus, outbox) = store_of(cloud).record, _parts(cloud)
        gallery = record.gallery("door")
        with record.database.write() as connection:  # as if Milvus had been away when she was enrolled
            outbox.added(connection, gallery, np.array([row]))
        indexes.sync.put_stored(gallery, np.array([row]))
        assert outbox.waiting_since() is None
        milvus.drop(_collection(cloud))
        indexes.sync.lost(gallery)
        within(10, lambda: index_is_ready(cloud) and milvus.count(_collection(cloud)) == 1)
        assert cloud.found(VECTORS[1]) == ["ben"]


@pytest.mark.slow(reason="Milvus")
def test_a_milvus_that_hangs_holds_nobody_up_for_long(tmp_path: Path, own_milvus: MilvusLite) -> None:
    with Cloud(settings_with_milvus(tmp_path / "home", own_milvus.url, timeout_s=1.0)) as cloud:
        cloud.put_gallery()
        cloud.enroll("anna", VECTORS[:1])
        own_milvus.freeze()
        for _ in range(6):
            began = time.monotonic()
            assert_problem(cloud.identify(VECTORS[0]), 503, "index-unavailable")
            assert time.monotonic() - began < 5
        within(8, lambda: not index_is_ready(cloud))
        began = time.monotonic()
        assert_problem(cloud.identify(VECTORS[0]), 503, "index-unavailable")
        assert time.monotonic() - began < 0.5, "known to be away: nobody waits"
        own_milvus.thaw()
        within(15, lambda: index_is_ready(cloud))
        assert cloud.found(VECTORS[0]) == ["anna"]


@pytest.mark.slow(reason="Milvus")
def test_it_starts_without_milvus_and_waits_for_it(tmp_path: Path) -> None:
    server = MilvusLite(tmp_path / "milvus")
    try:
        with Cloud(settings_with_milvus(tmp_path / "home", server.url)) as cloud:
            assert not index_is_ready(cloud)
            assert cloud.put_gallery().status_code == 201
            server.start()
            within(20, lambda: index_is_ready(cloud))
            assert cloud.put_gallery().status_code == 200
            assert cloud.enroll("anna", VECTORS[:1]).status_code == 201
            assert cloud.found(VECTORS[0]) == ["anna"]
    finally:
        server.kill()


class _Interrupted(Exception):
    """As a process that dies there."""


@pytest.mark.slow(reason="Milvus")
@pytest.mark.parametrize(("rule", "found"), [("best", []), ("mean", ["anna"])])
def test_an_enrollment_that_milvus_was_not_told_of_is_not_acknowledged_until_it_is_found(
    tmp_path: Path, shared_milvus: Server, monkeypatch: pytest.MonkeyPatch, rule: str, found: list[str]
) -> None:
    """Under `mean` the record is asked for what Milvus lacks: somebody who was there before must not be missed."""
    with Cloud(settings_with_milvus(tmp_path / "home", shared_milvus.url)) as cloud:
        cloud.put_gallery(score={"rule": rule})
        with monkeypatch.context() as broken:

            def fail(*_given: Any) -> None:
                raise IndexUnavailable("The index cannot be reached; try again in a moment.")

            broken.setattr(Milvus, "put", fail)
            for _ in range(2):
                answer = cloud.enroll("anna", VECTORS[:2], ids=IDS[:2])
                assert "are stored" in assert_problem(answer, 503, "index-unavailable", "stored")["detail"]
                assert cloud.held() == (1, 2), "committed"
            assert cloud.found(VECTORS[0]) == found
            within(10, lambda: not index_is_ready(cloud))
        assert cloud.enroll("anna", VECTORS[:2], ids=IDS[:2]).status_code == 201
        assert cloud.found(VECTORS[0]) == ["anna"], "acknowledged, so searchable"
        within(5, lambda: index_is_ready(cloud))


@pytest.mark.slow(reason="Milvus")
def test_what_a_process_left_in_the_outbox_as_it_died_is_told_by_another(
    tmp_path: Path, shared_milvus: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_with_milvus(tmp_path / "home", shared_milvus.url)
    with Cloud(settings) as cloud:
        cloud.put_gallery()
        cloud.enroll("anna", VECTORS[:1], ids=IDS[:1])
        cloud.enroll("ben", VECTORS[1:2], ids=IDS[1:2])
        indexes, milvus, outbox = _parts(cloud)
        indexes.sync.stop()

        def die(*_given: Any) -> None:
            raise _Interrupted

        for name in ("added", "removed", "dropped"):
            monkeypatch.setattr(MilvusIndexes, name, die)
        assert cloud.enroll("carl", VECTORS[2:3], ids=IDS[2:3]).status_code == 500
        assert cloud.http.delete(ANNA).status_code == 500
        assert cloud.found(VECTORS[0]) == [], "the record decides"
        cloud.put_gallery("other")
        dropped = indexes.names.collection(store_of(cloud).record.gallery("other"))
        assert cloud.http.delete("/v1/galleries/other").status_code == 500
        assert dropped in milvus.collections()
        monkeypatch.undo()
    with Cloud(settings) as cloud:
        _, milvus, outbox = _parts(cloud)
        within(15, lambda: outbox.waiting_since() is None)
        assert cloud.found(VECTORS[2]) == ["carl"]
        assert milvus.count(_collection(cloud)) == 2
        assert dropped not in milvus.collections()


@pytest.mark.slow(reason="Milvus")
def test_a_template_erased_while_milvus_was_being_told_of_it_does_not_stay_there(
    tmp_path: Path, shared_milvus: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Cloud(settings_with_milvus(tmp_path / "home", shared_milvus.url)) as cloud:
        cloud.put_gallery()
        put = Milvus.put

        def erased_first(self: Milvus, name: str, ids: Any, vectors: Any) -> None:
            store = store_of(cloud)
            gallery = store.record.gallery("door")
            removed = store.record.erase_subject(
                gallery, "anna", by=None
            )  # as another replica does, which tells Milvus first
            store.indexes.removed(gallery, removed.change)
            put(self, name, ids, vectors)

        monkeypatch.setattr(Milvus, "put", erased_first)
        assert cloud.enroll("anna", VECTORS[:1]).status_code == 201
        monkeypatch.undo()
        _, milvus, outbox = _parts(cloud)
        assert milvus.count(_collection(cloud)) == 0
        assert outbox.waiting_since() is None


@pytest.mark.slow(reason="Milvus")
def test_a_lost_collection_is_made_again_and_no_answer_comes_from_half_of_it(
    tmp_path: Path, shared_milvus: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = random_units(10, 60)
    monkeypatch.setattr("cloud_service.entries.queries.BATCH_BYTES", 7 * 8 * 4)
    with Cloud(settings_with_milvus(tmp_path / "home", shared_milvus.url)) as cloud:
        cloud.put_gallery(tau=0.95, score={"rule": "best"})
        for part in range(3):
            cloud.enroll(f"s{part}", vectors[20 * part : 20 * part + 20])
        _, milvus, _ = _parts(cloud)
        milvus.drop(_collection(cloud))
        seen: set[int] = set()

        def whole() -> bool:
            answer = cloud.identify(vectors[59])
            seen.add(answer.status_code)
            if answer.status_code == 200:
                assert [one["subject"] for one in answer.json()["results"][0]["candidates"]] == ["s2"]
            return answer.status_code == 200

        within(15, whole)
        assert seen == {503, 200}
        assert milvus.count(_collection(cloud)) == 60
        within(5, lambda: index_is_ready(cloud))


@pytest.mark.slow(reason="Milvus")
def test_a_start_mends_what_is_missing_and_removes_what_nobody_has(
    tmp_path: Path, shared_milvus: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud_service.index.milvus.sync._IDS_A_PAGE", 2)
    settings = settings_with_milvus(tmp_path / "home", shared_milvus.url)
    with Cloud(settings) as cloud:
        cloud.put_gallery(score={"rule": "best"})
        cloud.enroll("anna", VECTORS[:5])
        _, milvus, _ = _parts(cloud)
        name = _collection(cloud)
        milvus.remove(name, np.array([2, 5], dtype=np.int64))
        milvus.put(name, np.array([3, 77, 99], dtype=np.int64), VECTORS[[2, 0, 1]])
        stray = f"{name.rsplit('_', 1)[0]}_0_built_abcd"
        milvus.create(stray, 8)
        other = "somebody_elses"
        milvus.create(other, 8)
    with Cloud(settings) as cloud:
        _, milvus, _ = _parts(cloud)
        assert sorted(milvus.ids(name, -1, 1000).tolist()) == [1, 2, 3, 4, 5]
        assert cloud.found(VECTORS[4]) == ["anna"]
        assert stray not in milvus.collections()
        assert other in milvus.collections()
        milvus.drop(other)


@pytest.mark.slow(reason="Milvus")
def test_a_change_of_key_is_searched_at_once_and_leaves_no_collection_behind(
    tmp_path: Path, shared_milvus: Server
) -> None:
    old, new = Key(8, 1), Key(8, 2)
    with Cloud(settings_with_milvus(tmp_path / "home", shared_milvus.url)) as cloud:
        cloud.put_gallery(contract=old.contract, tau=0.9)
        for at, vector in enumerate(VECTORS):
            body = {"templates": [{"id": IDS[at], "template": old.envelope(vector)}]}
            path = f"/v1/galleries/door/subjects/{old.name(f's{at}')}"
            assert cloud.http.post(f"{path}/templates", json=body).status_code == 201
        assert_pending(cloud.http.delete(f"/v1/galleries/door/subjects/{old.name('s5')}"))
        before = _collection(cloud)

        def settled() -> bool:
            answer = cloud.http.post("/v1/galleries/door/rekey", json=old.rekey(new))
            assert answer.status_code in (200, 202), answer.text
            return bool(answer.json()["state"] == "settled")

        within(20, settled)
        body = {"probes": [new.envelope(vector) for vector in VECTORS], "top_k": 1}
        answer = cloud.http.post("/v1/galleries/door/identify", json=body)
        assert answer.status_code == 200, answer.text
        found = [[one["subject"] for one in result["candidates"]] for result in answer.json()["results"]]
        assert found == [[new.name(f"s{at}")] for at in range(5)] + [[]]
        _, milvus, outbox = _parts(cloud)
        assert _collection(cloud) != before
        assert milvus.count(_collection(cloud)) == 5
        within(15, lambda: before not in milvus.collections() and outbox.waiting_since() is None)
        within(5, lambda: index_is_ready(cloud))


@pytest.mark.slow(reason="Milvus")
def test_pending_erasures_are_told_until_milvus_kept_nothing_for_long_enough(
    tmp_path: Path, shared_milvus: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud_service.index.milvus.purge._PURGE_SECONDS", 0.0)
    with Cloud(settings_with_milvus(tmp_path / "home", shared_milvus.url, retention_s=0)) as cloud:
        cloud.put_gallery(score={"rule": "best"})
        cloud.enroll("anna", VECTORS[:2])
        cloud.enroll("ben", VECTORS[2:3])
        gallery = store_of(cloud).record.gallery("door")
        _, milvus, outbox = _parts(cloud)
        assert _pending(outbox, gallery.id) == 0
        assert_pending(cloud.http.delete(ANNA))
        assert _pending(outbox, gallery.id) == 2
        if shared_milvus.lite:
            time.sleep(2.5)
            assert _pending(outbox, gallery.id) == 2, "milvus-lite does not rewrite its files when told to"
            milvus.compacts = True  # as Milvus itself; milvus-lite takes the calls
        within(40, lambda: _pending(outbox, gallery.id) == 0)
        assert_pending(cloud.http.delete("/v1/galleries/door"))
        within(40, lambda: _pending(outbox, gallery.id) == 0)


@pytest.mark.slow(reason="Milvus")
def test_a_path_is_milvus_lite_in_this_process_and_private(tmp_path: Path) -> None:
    pytest.importorskip("milvus_lite")
    folder = tmp_path / "index.db"
    settings = settings_with_milvus(tmp_path / "home", str(folder))
    for _ in range(2):
        with Cloud(settings) as cloud:
            cloud.put_gallery(contract=contract_of(64))
            vector = random_units(3, 1, 64)
            assert cloud.enroll("anna", vector, ids=IDS[:1]).status_code == 201
            assert cloud.found(vector[0]) == ["anna"]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_without_the_package_the_start_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> Any:
        raise ImportError

    monkeypatch.setattr(client_module.importlib, "import_module", missing)
    with (
        pytest.raises(SetupError, match=r"patronus-face\[milvus\]"),
        Cloud(settings_with_milvus(tmp_path, "http://127.0.0.1:1")),
    ):
        pass
