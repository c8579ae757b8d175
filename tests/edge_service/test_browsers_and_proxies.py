"""Web pages of other origins call the edge only where a setting says so; behind a proxy it names its own path."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from edge_service.settings import EdgeSettings
from shared.errors import SetupError
from shared.service_settings import load_settings
from tests.support.cloud_client import assert_problem
from tests.support.edge import Edge, Pair, sample

DESK, PREFIX = "https://desk.example", "/faces/edge"
FACE = sample("collins/portrait.png")
ALLOW = "access-control-allow-origin"


class StrippingProxy:
    """A proxy as nginx is with ``location /faces/edge/ { proxy_pass http://edge/; }``: an ASGI application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["path"].startswith(f"{PREFIX}/"), "everything goes through this location"
        raw = scope["raw_path"].removeprefix(PREFIX.encode())
        await self._app({**scope, "path": scope["path"].removeprefix(PREFIX), "raw_path": raw}, receive, send)


@pytest.fixture(scope="module")
def pair(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Pair(tmp_path_factory.mktemp("pair")) as opened:
        yield opened


@pytest.fixture(scope="module")
def plain(pair: Pair) -> Edge:
    return pair.edge("plain")


@pytest.fixture(scope="module")
def open_to_desk(pair: Pair) -> Edge:
    return pair.edge("open", cors_origins=[DESK, "http://127.0.0.1:3000"])


@pytest.fixture(scope="module")
def behind(pair: Pair) -> Edge:
    return pair.edge("behind", root_path=PREFIX)


def preflight(edge: Edge, origin: str, method: str = "POST", headers: str = "authorization") -> httpx.Response:
    asked = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return edge.call("OPTIONS", "/v1/detect", asked | {"Authorization": ""})


def through_proxy(edge: Edge, method: str, path: str, **options: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(StrippingProxy(edge.app), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop", headers=edge.headers) as client:
            return await client.request(method, PREFIX + path, **options)

    return edge.pair.portal.call(send)


def test_by_default_no_other_origin_may_call(plain: Edge) -> None:
    assert_problem(preflight(plain, DESK), 401, "unauthenticated")
    answer = plain.call("GET", "/v1/info", {"Origin": DESK})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_named_origins_may_call_and_read_and_no_others(open_to_desk: Edge) -> None:
    for origin in (DESK, "http://127.0.0.1:3000"):
        asked = preflight(open_to_desk, origin, headers="authorization, content-type, x-request-id")
        assert (asked.status_code, asked.headers[ALLOW]) == (200, origin)
        assert {"PATCH", "DELETE", "PUT"} <= set(asked.headers["access-control-allow-methods"].split(", "))
        answer = open_to_desk.send("/v1/detect", FACE, headers={"Origin": origin})
        assert (answer.status_code, answer.headers[ALLOW]) == (200, origin)
        assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
        assert answer.headers["vary"] == "Origin"
        for each in (asked, answer):
            assert "access-control-allow-credentials" not in each.headers
    for stranger in ("https://desk.example.evil", "http://desk.example", "https://desk.example:8443", "null", "*"):
        refused = preflight(open_to_desk, stranger)
        assert (refused.status_code, refused.headers.get(ALLOW)) == (400, None)
        assert open_to_desk.call("GET", "/v1/info", {"Origin": stranger}).headers.get(ALLOW) is None


def test_a_preflight_for_more_than_is_needed_is_refused(open_to_desk: Edge) -> None:
    assert preflight(open_to_desk, DESK, method="TRACE").status_code == 400
    assert preflight(open_to_desk, DESK, headers="cookie").status_code == 400


def test_a_page_can_read_refusals_too(open_to_desk: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in (
        open_to_desk.call("GET", "/v1/info", {"Origin": DESK, "Authorization": "Bearer none"}),
        open_to_desk.call("GET", "/v1/nothing", {"Origin": DESK}),
        open_to_desk.send("/v1/detect", b"no picture", headers={"Origin": DESK}),
    ):
        assert (answer.is_error, answer.headers[ALLOW]) == (True, DESK)
    shedder = open_to_desk.app.outermost.app.shedder  # type: ignore[attr-defined]
    monkeypatch.setattr(shedder, "_slots", 0)
    answer = open_to_desk.call("GET", "/v1/info", {"Origin": DESK})
    assert (answer.status_code, answer.headers[ALLOW]) == (429, DESK)


@pytest.mark.parametrize(
    "origin",
    [
        "https://desk.example:443",
        "http://desk.example:80",
        "https://u@desk.example",
        "ftp://desk.example",
        "*",
        "https://*.example",
        "https://desk.example/",
        "desk.example",
        "HTTPS://desk.example",
        "null",
        "",
    ],
)
def test_only_origins_are_a_setting(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    monkeypatch.setenv("PATRONUS_EDGE__CORS_ORIGINS", f'["{DESK}", "{origin}"]')
    with pytest.raises(SetupError, match="not an exact origin"):
        load_settings(EdgeSettings)


@pytest.mark.parametrize("path", ["faces", "/faces/", "/", "/a//b", "/a/../b", "/a b", "/a?b", "//host", "http://x/y"])
def test_a_root_path_begins_with_a_slash_and_ends_without(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setenv("PATRONUS_EDGE__ROOT_PATH", path)
    with pytest.raises(SetupError, match="not a path such as /patronus"):
        load_settings(EdgeSettings)


def test_behind_a_proxy_that_strips_its_prefix_everything_works_and_names_its_path(behind: Edge) -> None:
    call = partial(through_proxy, behind)
    assert call("GET", "/v1/info").json()["galleries"] == f"{PREFIX}/v1/galleries"
    document = call("GET", "/openapi.json").json()
    assert document["servers"] == [{"url": PREFIX}]
    assert "/v1/info" in document["paths"]
    made = call("PUT", "/v1/galleries/door")
    assert made.status_code == 201
    assert made.headers.get("location", PREFIX).startswith(PREFIX)
    faces = "/v1/galleries/door/subjects/collins/faces"
    assert call("POST", faces, files={"image": FACE}).status_code == 201
    assert call("POST", "/v1/galleries/door/identify", files={"image": FACE}).json()["faces"][0]["decision"] == "match"
    assert call("GET", "/healthz").status_code == 200
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("DELETE", "/v1/info", 405),
        ("PUT", "/v1/galleries/=", 422),
    ):
        answer = call(method, path)
        assert answer.status_code == status
        assert f"{PREFIX}/openapi.json" in answer.json()["detail"]


def test_a_path_that_kept_its_prefix_reaches_nothing(behind: Edge) -> None:
    """Nothing may be routed that the checks before it do not take for a path under /v1."""
    for headers in ({}, {"Authorization": "Bearer none"}):
        assert_problem(behind.call("GET", f"{PREFIX}/v1/info", headers), 404, "not-found")


def test_without_a_root_path_the_document_names_no_server(plain: Edge) -> None:
    assert "servers" not in plain.call("GET", "/openapi.json").json()
    assert plain.call("GET", "/v1/info").json()["galleries"] == "/v1/galleries"
