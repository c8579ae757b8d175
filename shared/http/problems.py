"""Every error becomes application/problem+json (RFC 9457)."""

from __future__ import annotations

import http
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from shared.errors import (
    ClientError,
    PatronusError,
    RateLimited,
    Retryable,
    SetupError,
    Unauthenticated,
    Unprocessable,
    place_of,
)
from shared.http.faults import faults
from shared.http.request_context import REQUEST_ID_HEADER, CallerGone, current_request_id
from shared.logs import get_logger
from shared.metrics import Metrics

MEDIA_TYPE = "application/problem+json"
# Headers of all answers of both services.
ALWAYS_SENT: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
# What nginx writes in its log for the same. Nobody receives it; it is for this service's log and metrics.
_CLIENT_CLOSED_REQUEST: Final = 499
_log = get_logger(__name__)
# Of a place in a body, which holds names of the caller's making.
MOST_OF_A_PLACE: Final = 200
RETRY_AFTER_DESCRIBED: Final[dict[str, Any]] = {
    "required": True,
    "description": "seconds to wait before the next try",
    "schema": {"type": "integer", "minimum": 1},
}


def _by_status(kind: type[PatronusError]) -> dict[int, list[type[PatronusError]]]:
    """The tree of errors from one class on, by status; without those that stop a start, and those of clients."""
    if kind is ClientError:
        return {}
    found: dict[int, list[type[PatronusError]]] = {} if kind in {SetupError, Retryable} else {kind.status: [kind]}
    for below in kind.__subclasses__():
        for status, kinds in _by_status(below).items():
            found.setdefault(status, []).extend(kinds)
    return found


def _described(kinds: list[type[PatronusError]]) -> dict[str, Any]:
    """An answer as the OpenAPI document describes it."""
    headers = {REQUEST_ID_HEADER: REQUEST_ID_DESCRIBED}
    if any(issubclass(kind, Unauthenticated) for kind in kinds):
        headers["WWW-Authenticate"] = {"required": True, "schema": {"const": "Bearer"}}
    if all(issubclass(kind, Retryable) for kind in kinds):
        headers["Retry-After"] = RETRY_AFTER_DESCRIBED
    return {
        "description": " ".join(f"`{kind.kind}`: {(kind.__doc__ or kind.title).splitlines()[0]}" for kind in kinds),
        "headers": headers,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


REQUEST_ID_DESCRIBED: Final[dict[str, Any]] = {
    "required": True,
    "description": "id of the request in the service's log",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
}
# The problems of the tree of errors, one entry a status, for the components of an OpenAPI document.
DESCRIBED: Final[dict[str, dict[str, Any]]] = {
    f"Problem{status}": _described(kinds) for status, kinds in sorted(_by_status(PatronusError).items())
}

# For a router's `responses`: every operation may answer a problem. The document leaves out those without a cause.
RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    int(name.removeprefix("Problem")): {"$ref": f"#/components/responses/{name}"} for name in DESCRIBED
}
# For operations that call another service.
CALLS_THE_CLOUD: Final[dict[int | str, dict[str, Any]]] = {502: RESPONSES.pop(502)}


def problem_headers(error: PatronusError) -> dict[str, str]:
    """The headers that belong to an error."""
    headers = {}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, Retryable):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, RateLimited):
        # draft-ietf-httpapi-ratelimit-headers: what may be done in which time, what is left of it, and until when.
        headers["RateLimit-Policy"] = f'"{error.counted}";q={error.quota};w={error.window_s}'
        headers["RateLimit"] = f'"{error.counted}";r=0;t={error.retry_after_s}'
    return headers


def problem_response(error: PatronusError, *, close: bool = False, request_id: str | None = None) -> JSONResponse:
    """The answer for an error.

    Args:
        error: what is wrong.
        close: whether the connection is closed after it.
        request_id: None: that of the request being answered.
    """
    detail = error.detail
    if isinstance(error, SetupError) or type(error) is PatronusError:
        # These speak to the operator and may name a path; the log has them.
        detail = "The service is not set up correctly; its operator finds the reason in its log, under the request id."
    headers = problem_headers(error)
    if close:
        headers["Connection"] = "close"
    extra = error.extra if error.reason is None else {"reason": error.reason, **error.extra}
    return _response(error.kind, error.title, error.status, detail, headers, extra, request_id)


def _response(
    kind: str,
    title: str,
    status: int,
    detail: str,
    headers: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
    request_id: str | None = None,
) -> JSONResponse:
    request_id = request_id or current_request_id()
    document = {"type": f"urn:patronus:problem:{kind}", "title": title, "status": status, "detail": detail}
    headers = {**(headers or {}), REQUEST_ID_HEADER: request_id}
    return JSONResponse({**document, "request_id": request_id, **(extra or {})}, status, headers, MEDIA_TYPE)


def operations_of(app: FastAPI, scope: Scope) -> dict[str, dict[str, Any]]:
    """The operations of a request's path, by method in lower case; none for an unknown path."""
    found: dict[str, dict[str, Any]] = app.openapi()["paths"].get(route_of(scope), {})
    return found


def route_of(scope: Scope) -> str:
    """The route's pattern, not the path: a path holds the names of subjects."""
    return getattr(scope.get("route"), "path", None) or "(no route)"


def install_problems(app: FastAPI, metrics: Metrics, document: str) -> None:
    """Makes the application answer every error as a problem document.

    Args:
        app: the application.
        metrics: where refusals are counted.
        document: path of the OpenAPI document, as callers reach it.
    """

    async def patronus_error(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, PatronusError)  # noqa: S101 - what the handler is registered for
        metrics.refused.labels(error.kind, error.reason or "").inc()
        if error.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            _log.error("request_failed", problem=error.kind, detail=error.detail)
        return problem_response(error)

    async def invalid_request(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        places = [
            {"at": place[:MOST_OF_A_PLACE], "problem": problem}
            for place, problem in faults(error.errors(), error.body)[:10]
        ]
        detail = f"The request does not have the form that this operation takes; see `errors` and {document}."
        if isinstance(error.body, bytes) and error.body:  # it was not read as JSON
            sent = request.headers.get("content-type", "")[:MOST_OF_A_PLACE]
            problem = f"sent {f'as {sent!r}' if sent else 'without a Content-Type'}; JSON has application/json"
            places = [{"at": "header/content-type", "problem": problem}]
        return await patronus_error(request, Unprocessable(detail, reason="invalid_request", errors=places))

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101
        if isinstance(error.__cause__, PatronusError):
            # FastAPI puts its own 400 in the place of whatever is raised while it reads a body.
            return await patronus_error(request, error.__cause__)
        phrase = http.HTTPStatus(error.status_code).phrase
        word = phrase.lower().replace(" ", "-")
        metrics.refused.labels(word, "").inc()
        hint = {
            404: f"There is no such path; {document} lists all of them.",
            405: f"This path does not take this method; {document} lists what it takes.",
        }.get(error.status_code, "The request could not be read; check its headers and the form of its body.")
        headers = dict(error.headers or {})
        if error.status_code == http.HTTPStatus.METHOD_NOT_ALLOWED:
            # The router names the methods of the first route with this path; others may have more.
            methods = {method.upper() for method in operations_of(app, request.scope)}
            # A path that is not in the document, such as the console's, has one route.
            methods = methods or set(filter(None, headers.get("Allow", "").split(", ")))
            headers["Allow"] = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
        return _response(word, phrase.capitalize(), error.status_code, hint, headers)

    async def caller_gone(_request: Request, _error: Exception) -> Response:
        return Response(status_code=_CLIENT_CLOSED_REQUEST)

    app.add_exception_handler(PatronusError, patronus_error)
    app.add_exception_handler(CallerGone, caller_gone)
    app.add_exception_handler(RequestValidationError, invalid_request)
    app.add_exception_handler(HTTPException, http_error)


def unexpected(error: BaseException) -> JSONResponse:
    """The answer for an unexpected exception. The log gets its place, and nobody its text."""
    _log.error("unexpected_error", **place_of(error))
    detail = "Something went wrong inside the service; its operator finds it in the log, under the request id."
    return _response(PatronusError.kind, PatronusError.title, PatronusError.status, detail)
