"""The API keys that each route of the edge accepts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import chain

import pytest
from fastapi import FastAPI

from edge_service.app import create_app
from edge_service.settings import EdgeSettings
from shared.security.credentials import Scope
from tests.support.cloud_client import assert_problem
from tests.support.edge import Edge, sample

FACE = sample("collins/portrait.png")
FILLED = {"gallery": "door", "subject": "nobody", "face": "0" * 32, "receipt": "7", "request_id": "r"}
OPEN = {"/healthz", "/readyz", "/metrics", "/openapi.json"}
MANAGE, ENROLL, MATCH = Scope.MANAGE, Scope.ENROLL, Scope.MATCH
ALLOWED: dict[tuple[str, str], set[Scope]] = {
    ("GET", "/v1/info"): {MANAGE, ENROLL, MATCH},
    ("GET", "/v1/key"): {MANAGE, ENROLL, MATCH},
    ("GET", "/v1/keys"): {MANAGE},
    ("GET", "/v1/curves"): {MANAGE, ENROLL, MATCH},
    ("GET", "/v1/galleries/{gallery}/curves"): {MANAGE, ENROLL, MATCH},
    ("GET", "/v1/sent/{request_id}"): {MANAGE, ENROLL, MATCH},
    ("POST", "/v1/rebuild"): {MANAGE},
    ("POST", "/v1/detect"): {MATCH},
    ("POST", "/v1/compare"): {MATCH},
    ("GET", "/v1/galleries"): {MANAGE},
    ("PUT", "/v1/galleries/{gallery}"): {MANAGE},
    ("PATCH", "/v1/galleries/{gallery}"): {MANAGE},
    ("GET", "/v1/galleries/{gallery}"): {MANAGE, ENROLL, MATCH},
    ("DELETE", "/v1/galleries/{gallery}"): {MANAGE},
    ("PUT", "/v1/galleries/{gallery}/retention"): {MANAGE},
    ("DELETE", "/v1/galleries/{gallery}/retention"): {MANAGE},
    ("GET", "/v1/galleries/{gallery}/erasures/{receipt}"): {MANAGE, ENROLL},
    ("POST", "/v1/galleries/{gallery}/rekey"): {MANAGE},
    ("GET", "/v1/galleries/{gallery}/rekey"): {MANAGE},
    ("DELETE", "/v1/galleries/{gallery}/rekey"): {MANAGE},
    ("GET", "/v1/galleries/{gallery}/subjects"): {MANAGE},
    ("GET", "/v1/galleries/{gallery}/subjects/{subject}"): {MANAGE, ENROLL},
    ("DELETE", "/v1/galleries/{gallery}/subjects/{subject}"): {MANAGE, ENROLL},
    ("POST", "/v1/galleries/{gallery}/subjects/{subject}/faces"): {ENROLL},
    ("DELETE", "/v1/galleries/{gallery}/subjects/{subject}/faces/{face}"): {MANAGE, ENROLL},
    ("POST", "/v1/galleries/{gallery}/subjects/{subject}/embeddings"): {MANAGE},
    ("POST", "/v1/galleries/{gallery}/embeddings"): {MANAGE},
    ("POST", "/v1/galleries/{gallery}/subjects/{subject}/rename"): {MANAGE},
    ("POST", "/v1/galleries/{gallery}/subjects/{subject}/merge"): {MANAGE},
    ("POST", "/v1/galleries/{gallery}/subjects/{subject}/faces/{face}/move"): {MANAGE},
    ("PUT", "/v1/galleries/{gallery}/subjects/{subject}/expiry"): {MANAGE},
    ("DELETE", "/v1/galleries/{gallery}/subjects/{subject}/expiry"): {MANAGE},
    ("GET", "/v1/galleries/{gallery}/subjects/{subject}/report"): {MANAGE},
    ("POST", "/v1/galleries/{gallery}/duplicates"): {MANAGE},
    ("POST", "/v1/protect"): {MANAGE},
    ("POST", "/v1/galleries/{gallery}/subjects/{subject}/verify"): {MATCH},
    ("POST", "/v1/galleries/{gallery}/identify"): {MATCH},
}
OPERATIONS = sorted(ALLOWED)


def operations(app: FastAPI) -> Iterator[tuple[str, str]]:
    for path, methods in app.openapi()["paths"].items():
        for method in methods:
            yield method.upper(), path


def test_the_table_of_scopes_lists_every_operation_and_no_other(shared_edge: Edge) -> None:
    found = {(method, path) for method, path in operations(shared_edge.app) if path not in OPEN}
    assert found == set(ALLOWED)
    assert {path for _, path in chain(operations(shared_edge.app))} - {path for _, path in found} == OPEN - {
        "/openapi.json"
    }


def test_openapi_lists_every_operation_and_how_a_picture_is_sent(shared_edge: Edge) -> None:
    document = shared_edge.call("GET", "/openapi.json").json()
    assert {path for path in document["paths"] if path.startswith("/v1")} == {path for _, path in ALLOWED}
    for method, path in ALLOWED:
        operation = document["paths"][path][method.lower()]
        assert operation["security"], path
        assert {"401", "403", "429", "503"} <= set(operation["responses"])
        assert ("422" in operation["responses"]) is (path not in {"/v1/info", "/v1/key", "/v1/keys"})
        if path.rpartition("/")[2] in {"faces", "verify", "identify", "detect", "compare", "rebuild"}:
            assert list(operation["requestBody"]["content"]) == ["multipart/form-data", "application/json"]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_operation_is_done_without_a_valid_key(shared_edge: Edge, method: str, path: str) -> None:
    before = len(shared_edge.transport.requests)
    revoked = shared_edge.key(*Scope)
    shared_edge.app.state.key_ring.revoke(revoked["Authorization"].split("_")[1])
    known = shared_edge.headers["Authorization"]
    wrong = [
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"Authorization": "Bearer patronus_000000000000_" + "A" * 43},
        {"Authorization": known[:-1] + ("A" if known[-1] != "A" else "B")},
        {"Authorization": known.removeprefix("Bearer ")},
        revoked,
    ]
    for headers in wrong:
        answer = shared_edge.call(method, path.format(**FILLED), headers=headers)
        assert_problem(answer, 401, "unauthenticated")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert len(shared_edge.transport.requests) == before


@pytest.mark.parametrize("scope", Scope)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_a_scope_opens_its_operations_and_no_other(shared_edge: Edge, method: str, path: str, scope: Scope) -> None:
    target = path.format(**FILLED | ({"gallery": "nowhere"} if method == "DELETE" else {}))
    answer = shared_edge.call(method, target, headers=shared_edge.key(scope))
    if scope in ALLOWED[method, path]:
        assert answer.status_code not in {401, 403}, answer.text
    else:
        body = assert_problem(answer, 403, "forbidden")
        assert all(f"{allowed}" in body["detail"] for allowed in ALLOWED[method, path])


@pytest.mark.parametrize(("method", "path"), [found for found in OPERATIONS if "{gallery}" in found[1]])
def test_a_key_for_another_gallery_learns_nothing_of_this_one(shared_edge: Edge, method: str, path: str) -> None:
    headers = shared_edge.key(*Scope, galleries=["elsewhere"])
    before = len(shared_edge.transport.requests)
    there = shared_edge.call(method, path.format(**FILLED), headers=headers)
    absent = shared_edge.call(method, path.format(**FILLED | {"gallery": "nowhere"}), headers=headers)
    bodies = [assert_problem(answer, 404, "not-found") for answer in (there, absent)]
    assert bodies[0] | {"request_id": ""} == bodies[1] | {"request_id": ""}
    assert len(shared_edge.transport.requests) == before


def test_a_key_is_shown_only_its_own_galleries(edge: Edge) -> None:
    for gallery in ("front", "back", "roof"):
        edge.make(gallery)
    page = edge.call("GET", "/v1/galleries", headers=edge.key(Scope.MANAGE, galleries=["back"])).json()
    assert [info["gallery"] for info in page["items"]] == ["back"]
    assert [info["gallery"] for info in edge.call("GET", "/v1/galleries").json()["items"]] == ["back", "front", "roof"]


def test_a_revoked_key_is_refused_at_once(shared_edge: Edge) -> None:
    headers = shared_edge.key(Scope.MATCH)
    assert shared_edge.send("/v1/detect", FACE, headers=headers).status_code == 200
    shared_edge.app.state.key_ring.revoke(headers["Authorization"].split("_")[1])
    assert_problem(shared_edge.send("/v1/detect", FACE, headers=headers), 401, "unauthenticated")


def test_the_operators_routes_need_no_key_and_name_nobody(shared_edge: Edge) -> None:
    shared_edge.verify("door", "a-subject", FACE)
    for path in OPEN - {"/openapi.json"}:
        answer = shared_edge.call("GET", path, headers={"Authorization": ""})
        assert answer.status_code == 200
        assert "door" not in answer.text
        assert "a-subject" not in answer.text


def test_there_is_no_page_that_loads_scripts_from_elsewhere(shared_edge: Edge) -> None:
    assert {shared_edge.call("GET", path).status_code for path in ("/docs", "/redoc")} == {404}


def test_making_the_application_opens_nothing(tmp_path: object) -> None:
    create_app(EdgeSettings(home=tmp_path / "unused"))  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == []  # type: ignore[attr-defined]


def test_no_byte_of_a_body_is_read_for_a_caller_without_a_key(shared_edge: Edge) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("the body was asked for")
        yield b""

    for method, path in (("PUT", "/v1/galleries/door"), ("POST", "/v1/detect"), ("POST", "/v1/nothing")):
        answer = shared_edge.call(method, path, headers={"Authorization": "Bearer unknown"}, content=never())
        assert_problem(answer, 401, "unauthenticated")


def test_pages_of_a_limited_key_tell_nothing_of_other_galleries(edge: Edge) -> None:
    for gallery in ("alpha", "back", "secret", "yard"):
        edge.make(gallery)
    headers = edge.key(Scope.MANAGE, galleries=["back", "yard", "absent"])
    seen, after = [], None
    for _ in range(4):
        page = edge.call("GET", "/v1/galleries?limit=1" + (f"&after={after}" if after else ""), headers=headers).json()
        seen += [info["gallery"] for info in page["items"]]
        after = page["next"]
        assert after in {None, "absent", "back", "yard"}
        if after is None:
            break
    assert seen == ["back", "yard"]


def test_a_slash_within_a_name_leads_nowhere_else(edge: Edge) -> None:
    edge.make("door")
    assert_problem(edge.call("GET", "/v1/galleries/door%2Fsubjects"), 404, "not-found")
