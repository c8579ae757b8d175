"""Every error becomes application/problem+json (RFC 9457)."""

from __future__ import annotations

import http
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from shared.errors import (
    RETRY_STATUSES,
    PatronusError,
    RateLimited,
    SetupError,
    Unauthenticated,
    Unprocessable,
)
from shared.http.request_context import REQUEST_ID_HEADER, current_request_id
from shared.http.routing import operations_of
from shared.logs import get_logger, place_of
from shared.metrics import Metrics

MEDIA_TYPE = "application/problem+json"
_log = get_logger(__name__)
RETRY_AFTER_DESCRIBED: Final[dict[str, Any]] = {
    "required": True,
    "description": "seconds",
    "schema": {"type": "integer", "minimum": 1},
}


def _by_status(kind: type[PatronusError]) -> dict[int, list[type[PatronusError]]]:
    """The tree of errors from one class on, by the status that each is answered with; no error that stops a start."""
    found: dict[int, list[type[PatronusError]]] = {} if kind is SetupError else {kind.status: [kind]}
    for below in kind.__subclasses__():
        for status, kinds in _by_status(below).items():
            found.setdefault(status, []).extend(kinds)
    return found


def _described(kinds: list[type[PatronusError]]) -> dict[str, Any]:
    """An answer as the OpenAPI document describes it."""
    headers = {REQUEST_ID_HEADER: REQUEST_ID_DESCRIBED}
    if any(issubclass(kind, Unauthenticated) for kind in kinds):
        headers["WWW-Authenticate"] = {"required": True, "schema": {"const": "Bearer"}}
    if all(kind.status in RETRY_STATUSES for kind in kinds):
        headers["Retry-After"] = RETRY_AFTER_DESCRIBED
    return {
        "description": " ".join(f"`{kind.kind}`: {(kind.__doc__ or kind.title).splitlines()[0]}" for kind in kinds),
        "headers": headers,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


REQUEST_ID_DESCRIBED: Final[dict[str, Any]] = {
    "required": True,
    "description": "finds the request in the log",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
}
DESCRIBED: Final[dict[str, dict[str, Any]]] = {
    f"Problem{status}": _described(kinds) for status, kinds in sorted(_by_status(PatronusError).items())
}
"""The problems of the tree of errors, one entry a status, for the components of an OpenAPI document."""

RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    int(name.removeprefix("Problem")): {"$ref": f"#/components/responses/{name}"} for name in DESCRIBED
}
"""For a router's ``responses``: every operation may answer a problem."""


def problem_document(error: PatronusError, request_id: str) -> dict[str, Any]:
    """The members of the problem document for an error."""
    detail = error.detail
    if isinstance(error, SetupError) or type(error) is PatronusError:
        # These speak to the operator and may name a path; the log has them.
        detail = "The service is not set up rightly; its operator finds the reason in its log, under the request id."
    body: dict[str, Any] = {
        "type": f"urn:patronus:problem:{error.kind}",
        "title": error.title,
        "status": error.status,
        "detail": detail,
        "request_id": request_id,
    }
    if error.reason is not None:
        body["reason"] = error.reason
    return body | error.extra


def problem_headers(error: PatronusError) -> dict[str, str]:
    """The headers that belong to an error."""
    headers = {}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in RETRY_STATUSES:
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, RateLimited):
        # draft-ietf-httpapi-ratelimit-headers: what may be done in which time, what is left of it, and until when.
        headers["RateLimit-Policy"] = f'"{error.counted}";q={error.quota};w={error.window_s}'
        headers["RateLimit"] = f'"{error.counted}";r=0;t={error.retry_after_s}'
    return headers


def problem_response(error: PatronusError) -> JSONResponse:
    """The answer for an error."""
    request_id = current_request_id()
    return JSONResponse(
        problem_document(error, request_id),
        status_code=error.status,
        media_type=MEDIA_TYPE,
        headers={REQUEST_ID_HEADER: request_id, **problem_headers(error)},
    )


def install_problems(app: FastAPI, metrics: Metrics) -> None:
    """Makes the application answer every error as a problem document."""

    async def patronus_error(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, PatronusError)  # noqa: S101 - what the handler is registered for
        metrics.refused.labels(error.kind, error.reason or "").inc()
        if error.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            _log.error("request_failed", problem=error.kind, detail=error.detail)
        return problem_response(error)

    async def invalid_request(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        places = [
            {"at": "/".join(str(part) for part in found["loc"]), "problem": found["msg"]}
            for found in error.errors()[:10]
        ]
        refused = Unprocessable(
            "The request does not have the form that this operation takes; see `errors` and /openapi.json.",
            reason="invalid_request",
            errors=places,
        )
        metrics.refused.labels(refused.kind, refused.reason).inc()
        return problem_response(refused)

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101
        if isinstance(error.__cause__, PatronusError):
            # FastAPI puts its own 400 in the place of whatever is raised while it reads a body.
            return await patronus_error(request, error.__cause__)
        phrase = http.HTTPStatus(error.status_code).phrase
        word = phrase.lower().replace(" ", "-")
        metrics.refused.labels(word, "").inc()
        hint = {
            404: "There is no such path; /openapi.json lists all of them.",
            405: "This path does not take this method; /openapi.json lists what it takes.",
        }.get(error.status_code, "The request could not be read; check its headers and the form of its body.")
        body = {
            "type": f"urn:patronus:problem:{word}",
            "title": phrase,
            "status": error.status_code,
            "detail": hint,
            "request_id": current_request_id(),
        }
        headers = {**(error.headers or {}), REQUEST_ID_HEADER: current_request_id()}
        if error.status_code == http.HTTPStatus.METHOD_NOT_ALLOWED:
            # The router tells of the first route with this path; another one has the other methods.
            methods = {method.upper() for method in operations_of(app, request.scope)}
            headers["Allow"] = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
        return JSONResponse(body, status_code=error.status_code, media_type=MEDIA_TYPE, headers=headers)

    app.add_exception_handler(PatronusError, patronus_error)
    app.add_exception_handler(RequestValidationError, invalid_request)
    app.add_exception_handler(HTTPException, http_error)


def unexpected(error: BaseException) -> JSONResponse:
    """The answer for an exception nobody foresaw: its text stays here, its place goes to the log."""
    _log.error("unexpected_error", **place_of(error))
    body = {
        "type": f"urn:patronus:problem:{PatronusError.kind}",
        "title": PatronusError.title,
        "status": PatronusError.status,
        "detail": "Something went wrong inside the service; its operator finds it in the log, under the request id.",
        "request_id": current_request_id(),
    }
    return JSONResponse(body, status_code=PatronusError.status, media_type=MEDIA_TYPE)
