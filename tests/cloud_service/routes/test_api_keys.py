"""No key works out of the box, and each operation needs the scope that the interface names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloud_service.settings import Settings
from shared.errors import SetupError
from shared.security.credentials import Scope
from tests.support.cloud_client import Cloud, assert_problem, contract_of, enveloped, random_units

VECTOR = random_units(3, 1)[0]
SPEC = {"contract": contract_of().model_dump(mode="json"), "threshold": {"cosine": 0.5, "fmr": 0.001}}
GALLERY = "/v1/galleries/door"
SUBJECT = f"{GALLERY}/subjects/anna"
ID = "0" * 32
# Stands for the number of an erasure of the test's own.
RECEIPT = 4

NEW = {"id": "1" * 32, "template": enveloped(VECTOR)}
LATER = (datetime.now(UTC) + timedelta(days=1)).isoformat()

ENROLL, MATCH, MANAGE = Scope.ENROLL, Scope.MATCH, Scope.MANAGE
OPERATIONS: list[tuple[str, str, Any, set[Scope]]] = [
    ("GET", "/v1/info", None, {ENROLL, MATCH, MANAGE}),
    ("PUT", GALLERY, SPEC, {MANAGE}),
    ("GET", "/v1/galleries", None, {MANAGE}),
    ("GET", GALLERY, None, {ENROLL, MATCH, MANAGE}),
    ("GET", f"{GALLERY}/names", None, {ENROLL, MANAGE}),
    ("GET", SUBJECT, None, {ENROLL, MANAGE}),
    ("POST", f"{SUBJECT}/templates", {"templates": [{"id": ID, "template": enveloped(VECTOR)}]}, {ENROLL}),
    ("POST", f"{GALLERY}/templates", {"subjects": [{"subject": "ben", "templates": [NEW]}]}, {ENROLL}),
    ("GET", f"{SUBJECT}/report", None, {MANAGE}),
    ("PUT", f"{SUBJECT}/expiry", {"expires_at": LATER}, {ENROLL, MANAGE}),
    ("DELETE", f"{SUBJECT}/expiry", None, {ENROLL, MANAGE}),
    ("POST", f"{SUBJECT}/move", {"to": "eve", "onto": "new"}, {ENROLL, MANAGE}),
    ("POST", f"{SUBJECT}/verify", {"probe": enveloped(VECTOR)}, {MATCH}),
    ("POST", f"{GALLERY}/identify", {"probes": [enveloped(VECTOR)]}, {MATCH}),
    ("POST", f"{GALLERY}/duplicates", {"limit": 10}, {MANAGE}),
    ("PATCH", GALLERY, {"score": {"rule": "best"}}, {MANAGE}),
    ("GET", f"{GALLERY}/stats", None, {MANAGE}),
    ("PUT", f"{GALLERY}/index", {"kind": "exact"}, {MANAGE}),
    ("POST", f"{GALLERY}/snapshot", None, {MANAGE}),
    ("PUT", f"{GALLERY}/retention", {"max_age_seconds": 3600}, {MANAGE}),
    ("DELETE", f"{GALLERY}/retention", None, {MANAGE}),
    ("GET", f"{GALLERY}/erasures/{RECEIPT}", None, {ENROLL, MANAGE}),
    ("GET", "/v1/audit", None, {MANAGE}),
    ("GET", "/v1/audit/head", None, {MANAGE}),
    ("DELETE", f"{SUBJECT}/templates/{ID}", None, {ENROLL, MANAGE}),
    ("DELETE", SUBJECT, None, {ENROLL, MANAGE}),
    ("POST", f"{GALLERY}/rekey", {"contract": contract_of().model_dump(mode="json"), "replaces": "0" * 64}, {MANAGE}),
    ("GET", f"{GALLERY}/rekey", None, {MANAGE}),
    ("DELETE", f"{GALLERY}/rekey", None, {MANAGE}),
    ("DELETE", GALLERY, None, {MANAGE}),
]
NAMES = [f"{method} {path}" for method, path, _body, _scopes in OPERATIONS]


def _template_of(path: str) -> str:
    parts = {"door": "{gallery}", "anna": "{subject}", ID: "{template}", str(RECEIPT): "{receipt}"}
    return "/".join(parts.get(part, part) for part in path.split("/"))


def test_the_table_above_names_every_operation(cloud: Cloud) -> None:
    document = cloud.http.get("/openapi.json").json()
    offered = {
        (method.upper(), path) for path, methods in document["paths"].items() for method in methods if "/v1" in path
    }
    named = {(method, _template_of(path)) for method, path, _body, _scopes in OPERATIONS}
    assert offered == named


@pytest.mark.parametrize(("method", "path", "body", "scopes"), OPERATIONS, ids=NAMES)
@pytest.mark.parametrize("scope", list(Scope))
def test_a_key_does_what_its_scope_allows_and_no_more(
    client: Cloud, method: str, path: str, body: Any, scopes: set[Scope], scope: Scope
) -> None:
    client.enroll("ben", [VECTOR])
    receipt = client.http.delete(f"{GALLERY}/subjects/ben").json()["receipt"]["id"]
    client.enroll("anna", [VECTOR], ids=[ID])
    before = client.held()
    target = path.replace(f"/erasures/{RECEIPT}", f"/erasures/{receipt}")
    answer = client.http.request(method, target, json=body, headers=client.key(scope))
    if scope in scopes:
        assert answer.status_code in {200, 201}, answer.text
    else:
        problem = assert_problem(answer, 403, "forbidden")
        assert all(allowed.value in problem["detail"] for allowed in scopes)
        assert client.held() == before


@pytest.mark.parametrize(("method", "path", "body", "scopes"), OPERATIONS, ids=NAMES)
@pytest.mark.parametrize(
    "authorization", ["", "Bearer ", "Bearer nonsense", "Basic YTpi", f"Bearer patronus_{'0' * 12}_{'a' * 43}"]
)
def test_nothing_is_done_without_a_known_key(
    client: Cloud, method: str, path: str, body: Any, scopes: set[Scope], authorization: str
) -> None:
    before = client.held()
    answer = client.http.request(method, path, json=body, headers={"Authorization": authorization})
    assert_problem(answer, 401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert client.held() == before


def test_a_revoked_key_stops_working_at_once(client: Cloud) -> None:
    key = client.key(Scope.MATCH)
    assert client.http.get(GALLERY, headers=key).status_code == 200
    client.services.key_ring.revoke(key["Authorization"].split("_")[1])
    assert_problem(client.http.get(GALLERY, headers=key), 401, "unauthenticated")


def test_alive_ready_and_metrics_need_no_key_and_name_nobody(client: Cloud) -> None:
    client.enroll("anna", [VECTOR])
    client.identify(VECTOR)
    stranger = {"Authorization": ""}
    assert client.http.get("/healthz", headers=stranger).json() == {"status": "ok"}
    assert client.http.get("/readyz", headers=stranger).json() == {
        "status": "ready",
        "checks": {"record": True, "galleries": True, "templates": True, "index": True, "keys": True},
    }
    metrics = client.http.get("/metrics", headers=stranger).text
    assert 'route="/v1/galleries/{gallery}/identify"' in metrics
    for step in ("record", "index", "score"):
        assert f'step="{step}"' in metrics
    assert "anna" not in metrics
    assert "door" not in metrics


def test_info_returns_the_limits(cloud: Cloud) -> None:
    info = cloud.http.get("/v1/info").json()
    assert info["service"] == "patronus-cloud"
    assert info["max_body_bytes"] == cloud.settings.body.max_bytes


@pytest.mark.parametrize("damage", ["gone", "empty", "garbage", "readable by others", "a folder"])
def test_an_unreadable_file_of_keys_refuses_everybody_and_readiness_says_so(settings: Settings, damage: str) -> None:
    file = settings.keys_file
    with Cloud(settings) as cloud:
        cloud.put_gallery()
        sound = file.read_bytes()
        _damage(file, damage)
        assert_problem(cloud.http.get("/v1/galleries/door"), 503, "keys-unavailable")
        ready = cloud.http.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["keys"]) == (503, False)
        _damage(file, "gone")
        file.touch(0o600)
        file.write_bytes(sound)
        assert cloud.http.get("/v1/galleries/door").status_code == 200
        assert cloud.http.get("/readyz").status_code == 200
    if damage != "gone":  # then new ones are made
        _damage(file, damage)
        with pytest.raises(SetupError), Cloud(settings):
            pass


def _damage(file: Path, how: str) -> None:
    if file.is_dir():
        file.rmdir()
    elif how == "readable by others":
        file.chmod(0o644)
        return
    else:
        file.unlink(missing_ok=True)
    if how == "a folder":
        file.mkdir()
    elif how != "gone":
        file.touch(0o600)
        file.write_text("?" if how == "garbage" else "")
