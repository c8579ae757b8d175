"""With Milvus away, each answer says whether what was asked for is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloud_service.index.milvus.client import Milvus
from shared.errors import IndexUnavailable
from tests.cloud_service.index.milvus_cloud import (
    assert_pending,
    index_is_ready,
    settings_with_milvus,
    store_of,
    within,
)
from tests.support.cloud_client import Cloud, assert_problem, random_units
from tests.support.milvus_server import Milvus as Server
from tests.support.milvus_server import MilvusLite
from tests.support.sealed import Key, plain

VECTORS = random_units(9, 6)
IDS = [f"{number:032x}" for number in range(6)]
ANNA = "/v1/galleries/door/subjects/anna"


@pytest.mark.slow(reason="Milvus")
def test_what_is_asked_while_milvus_is_away_is_done_or_not_as_the_answer_says(
    tmp_path: Path, own_milvus: MilvusLite
) -> None:
    old, new = Key(8, 1), Key(8, 2)
    with Cloud(settings_with_milvus(tmp_path / "home", own_milvus.url, timeout_s=2.0)) as cloud:
        for name in ("door", "gone"):
            assert cloud.put_gallery(name, contract=old.contract).status_code == 201
            for at, who in enumerate(("anna", "anna", "ben")):
                body = {"templates": [{"id": IDS[at], "template": old.envelope(VECTORS[at])}]}
                path = f"/v1/galleries/{name}/subjects/{old.name(who)}/templates"
                assert cloud.http.post(path, json=body).status_code == 201
        own_milvus.kill()

        for at, reason, held in ((3, "stored", (3, 4)), (4, "not_stored", (3, 4))):
            body = {"templates": [{"id": IDS[at], "template": old.envelope(VECTORS[at])}]}
            answer = cloud.http.post(f"/v1/galleries/door/subjects/{old.name(f's{at}')}/templates", json=body)
            assert_problem(answer, 503, "index-unavailable", reason)
            assert cloud.held() == held
            within(5, lambda: not index_is_ready(cloud))  # from then on it is known that Milvus is away
        answer = cloud.http.put("/v1/galleries/door/index", json={"kind": "approximate"})
        assert_problem(answer, 503, "index-unavailable", "not_stored")
        assert store_of(cloud).record.gallery("door").index_kind is None

        assert cloud.put_gallery("new").status_code == 201
        assert cloud.http.get("/v1/galleries/new").status_code == 200
        answer = cloud.http.put("/v1/galleries/door/retention", json={"max_age_seconds": 3600})
        assert (answer.status_code, answer.json()["max_age_seconds"]) == (200, 3600)
        assert_pending(cloud.http.delete(f"/v1/galleries/door/subjects/{old.name('anna')}/templates/{IDS[0]}"))
        assert cloud.held() == (3, 3)
        assert_pending(cloud.http.delete(f"/v1/galleries/door/subjects/{old.name('ben')}"))
        assert cloud.held() == (2, 2)
        assert_pending(cloud.http.delete("/v1/galleries/gone"))
        assert cloud.http.get("/v1/galleries/gone").status_code == 404

        def settled() -> bool:
            answer = cloud.http.post("/v1/galleries/door/rekey", json=old.rekey(new))
            assert answer.status_code in {200, 202}, answer.text
            return bool(answer.json()["state"] == "settled")

        within(15, settled)
        assert cloud.http.get("/v1/galleries/door").json()["contract_digest"] == new.contract.digest()

        own_milvus.start()
        within(20, lambda: index_is_ready(cloud))
        probes = {"probes": [new.envelope(vector) for vector in VECTORS[:4]], "top_k": 1}
        results = cloud.http.post("/v1/galleries/door/identify", json=probes).json()["results"]
        found = [[plain(one["subject"]) for one in result["candidates"]] for result in results]
        assert found[1:] == [["anna"], [], ["s3"]]
        assert cloud.found(VECTORS[0], gallery="new") == []


@pytest.mark.slow(reason="Milvus")
def test_a_kind_of_index_that_is_chosen_and_not_made_yet_is_told_as_chosen(
    tmp_path: Path, shared_milvus: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Cloud(settings_with_milvus(tmp_path / "home", shared_milvus.url)) as cloud:
        cloud.put_gallery()
        wanted = {"json": {"kind": "approximate"}}
        with monkeypatch.context() as broken:

            def fail(*_given: Any, **_named: Any) -> None:
                raise IndexUnavailable("The index cannot be reached; try again in a moment.")

            broken.setattr(Milvus, "create", fail)
            answer = cloud.http.put("/v1/galleries/door/index", **wanted)
            assert "choice is stored" in assert_problem(answer, 503, "index-unavailable", "stored")["detail"]
            assert store_of(cloud).record.gallery("door").index_kind == "approximate"
        within(10, lambda: cloud.http.put("/v1/galleries/door/index", **wanted).status_code == 200)
