"""A key for one gallery learns nothing of another: neither its contents nor whether it exists."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from shared.security.credentials import Scope
from tests.support.cloud_client import Cloud, assert_problem, contract_of, enveloped, random_units

VECTOR = random_units(3, 1)[0]
UID = "0" * 32
METHODS = ("GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS")
# What could be told apart by being looked at too early: right, wrong, unreadable, for another contract, and none.
BODIES: dict[str, Any] = {
    "none": {},
    "broken": {"content": b"{", "headers": {"Content-Type": "application/json"}},
    "wrong": {"json": {"no": "such member"}},
    "probe": {"json": {"probe": enveloped(VECTOR)}},
    "probes": {"json": {"probes": [enveloped(VECTOR)]}},
    "foreign probe": {"json": {"probe": enveloped(VECTOR, contract_of(profile="f" * 64))}},
    "templates": {"json": {"templates": [{"id": UID, "template": enveloped(VECTOR)}]}},
    "spec": {"json": {"contract": contract_of().model_dump(mode="json"), "threshold": {"cosine": 0.5, "fmr": 0.001}}},
    "query": {"params": {"limit": "1", "nonsense": "1"}},
}


@pytest.fixture
def tenants(cloud: Cloud) -> Iterator[Cloud]:
    """A gallery of somebody else's with somebody in it, and as caller a key that may do everything in another."""
    cloud.put_gallery("theirs")
    assert cloud.enroll("anna", [VECTOR], gallery="theirs", ids=[UID]).status_code == 201
    cloud.put_gallery("mine")
    before = cloud.held("theirs")
    cloud.http.headers |= (limited := cloud.key(*Scope, galleries=["mine"]))
    yield cloud
    cloud.http.headers |= cloud.key(*Scope)
    assert cloud.held("theirs") == before, limited


def routes(cloud: Cloud) -> list[str]:
    """All paths with a gallery in them, of the document that the service gives of itself."""
    paths = cloud.http.get("/openapi.json").json()["paths"]
    found = [path for path in paths if "{gallery}" in path]
    assert len(found) >= 7
    return found


def answer_for(cloud: Cloud, method: str, path: str, gallery: str, body: str) -> httpx.Response:
    options = dict(BODIES[body])
    target = path.format(gallery=gallery, subject="anna", template=UID, receipt=1)
    return cloud.http.request(method, target, headers={**options.pop("headers", {}), "X-Request-ID": "one"}, **options)


def test_every_route_answers_for_a_foreign_gallery_as_for_none(tenants: Cloud) -> None:
    document = tenants.http.get("/openapi.json").json()["paths"]
    compared = 0
    for path in routes(tenants):
        for method in METHODS:
            for body in BODIES:
                there, absent = (answer_for(tenants, method, path, name, body) for name in ("theirs", "nowhere"))
                assert (there.status_code, there.content) == (absent.status_code, absent.content), (method, path, body)
                assert sorted(there.headers) == sorted(absent.headers), (method, path, body)
                if method.lower() in document[path]:
                    assert_problem(there, 404, "not-found", "unknown_gallery")
                    compared += 1
                elif method == "HEAD" and "get" in document[path]:
                    assert (there.status_code, there.content) == (404, b"")
                else:
                    assert there.status_code == 405
    assert compared >= 10 * len(BODIES)


def test_the_record_is_not_read_for_a_foreign_gallery(tenants: Cloud) -> None:
    """Neither a foreign gallery nor an unknown one is looked up, so that the time taken says nothing."""
    database = tenants.services.store.record.database
    asked: list[int] = []
    read = database.read
    database.read = lambda: (asked.append(1), read())[1]
    try:
        for path in routes(tenants):
            for method in METHODS:
                answer_for(tenants, method, path, "theirs", "none")
        assert not asked
        assert tenants.http.get("/v1/galleries/mine").status_code == 200
        assert asked
    finally:
        database.read = read


@pytest.mark.slow(reason="measures times, which other tests on the machine disturb")
def test_a_foreign_gallery_and_none_take_the_same_time(tenants: Cloud) -> None:
    taken: dict[str, list[float]] = {"theirs": [], "nowhere": []}
    for _ in range(150):
        for name, times in taken.items():
            start = time.perf_counter()
            tenants.verify("anna", VECTOR, gallery=name)
            times.append(time.perf_counter() - start)
    there, absent = (statistics.median(times) for times in taken.values())
    assert 0.7 < there / absent < 1.4


def test_a_listing_shows_a_key_its_own_galleries_only(tenants: Cloud) -> None:
    assert [item["gallery"] for item in tenants.http.get("/v1/galleries").json()["items"]] == ["mine"]
    assert tenants.http.get("/v1/galleries", params={"after": "nowhere"}).json()["items"] == []
