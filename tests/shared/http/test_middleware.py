"""Around every request: an id, limits on its body, and a problem document for whatever goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel

from shared.errors import NotFound, Overloaded, PatronusError, SetupError, UpstreamUnavailable
from shared.http.application import make_application
from shared.metrics import Metrics
from shared.service_settings import RateSettings

LIMIT = 1000
FAILURES: dict[str, Exception] = {
    "unforeseen": RuntimeError("secret text"),
    "key": KeyError("secret text"),
    "setup": SetupError("The file /secret/path is missing."),
    "bare": PatronusError("secret text"),
    "cause": NotFound("There is nothing of this name here."),
    "overloaded": Overloaded("Come again in a moment, please.", retry_after_s=7),
    "away": UpstreamUnavailable("The cloud does not answer just now.", retry_after_s=3),
}


class Given(BaseModel):
    name: str


@pytest.fixture
def app() -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield

    made = make_application(
        title="t",
        description="d",
        lifespan=lifespan,
        metrics=Metrics("edge"),
        limit_for=lambda scope: LIMIT if scope["path"] != "/large" else 10 * LIMIT,
        body_seconds=0.3,
        rates=RateSettings(),
        slots=8,
    )

    @made.post("/model")
    async def model(given: Given) -> Given:
        return given

    @made.post("/{path}")
    async def length(path: str, request: Request) -> dict[str, int]:
        return {"length": len(await request.body())}

    @made.get("/fail/{name}")
    async def fail(name: str) -> None:
        raise FAILURES[name] from ValueError("secret cause")

    return made


def call(app: FastAPI, method: str, path: str, **options: Any) -> httpx.Response:
    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.request(method, path, **options)

    return asyncio.run(once())


@pytest.mark.parametrize("name", FAILURES)
def test_no_text_of_an_exception_reaches_a_client(app: FastAPI, name: str) -> None:
    answer = call(app, "GET", f"/fail/{name}", headers={"X-Request-ID": "call-42"})
    assert "secret" not in answer.text
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (body["request_id"], answer.headers["X-Request-ID"]) == ("call-42", "call-42")
    expected = FAILURES[name]
    assert answer.status_code == body["status"] == (expected.status if isinstance(expected, PatronusError) else 500)
    assert len(body["detail"]) > 20


def test_who_may_come_again_is_told_when(app: FastAPI) -> None:
    assert call(app, "GET", "/fail/overloaded").headers["Retry-After"] == "7"
    assert call(app, "GET", "/fail/away").headers["Retry-After"] == "3"


@pytest.mark.parametrize(("path", "limit"), [("/small", LIMIT), ("/large", 10 * LIMIT)])
def test_a_body_is_limited_to_the_byte(app: FastAPI, path: str, limit: int) -> None:
    async def chunks(size: int) -> AsyncIterator[bytes]:
        for _ in range(size):
            yield b"x"

    for size in (limit, limit + 1):
        for content in (bytes(size), chunks(size)):
            answer = call(app, "POST", path, content=content)
            if size <= limit:
                assert answer.json() == {"length": size}
            else:
                assert (answer.status_code, answer.json()["limit_bytes"]) == (413, limit)
                assert answer.headers["Connection"] == "close"


def test_a_length_that_lies_does_not_help(app: FastAPI) -> None:
    for said in ("10", "-5", "many", ""):
        answer = call(app, "POST", "/small", content=bytes(LIMIT + 1), headers={"Content-Length": said})
        assert answer.status_code == 413


def test_a_body_that_drips_is_cut_off(app: FastAPI) -> None:
    async def drip() -> AsyncIterator[bytes]:
        for _ in range(100):
            await asyncio.sleep(0.05)
            yield b"x"

    answer = call(app, "POST", "/small", content=drip())
    assert (answer.status_code, answer.json()["type"]) == (408, "urn:patronus:problem:request-timed-out")


def test_answers_are_not_kept_by_caches_and_not_guessed_at(app: FastAPI) -> None:
    answer = call(app, "POST", "/small", content=b"x")
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("offered", ["", "a b", "x" * 65, "a/b", "ü".encode().decode("latin-1")])
def test_a_strange_request_id_is_replaced(app: FastAPI, offered: str) -> None:
    answer = call(app, "POST", "/small", content=b"", headers={"X-Request-ID": offered.encode("latin-1")})
    assert answer.headers["X-Request-ID"] != offered
    assert len(answer.headers["X-Request-ID"]) == 32


def test_unknown_paths_and_methods_are_problems_too(app: FastAPI) -> None:
    for method, path, status in (("GET", "/a/b/c", 404), ("PATCH", "/small", 405)):
        answer = call(app, method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert "/openapi.json" in answer.json()["detail"]
        # One title for one type: that of `NotFound`.
        assert answer.json()["title"] == {404: NotFound.title, 405: "Method not allowed"}[status]


@pytest.mark.parametrize(
    ("media_type", "says"),
    [
        ("text/plain", "sent as 'text/plain'; JSON has application/json"),
        ("application/x-www-form-urlencoded", "sent as 'application/x-www-form-urlencoded'; JSON has application/json"),
        (None, "sent without a Content-Type; JSON has application/json"),
    ],
)
def test_json_under_another_name_is_told_its_name(app: FastAPI, media_type: str | None, says: str) -> None:
    headers = {} if media_type is None else {"Content-Type": media_type}
    answer = call(app, "POST", "/model", content=b'{"name": "ada"}', headers=headers)
    assert (answer.status_code, answer.json()["errors"]) == (422, [{"at": "header/content-type", "problem": says}])
    assert call(app, "POST", "/model", json={"name": "ada"}).json() == {"name": "ada"}
    assert "content-type" not in call(app, "POST", "/model", json={"name": 1}).text
