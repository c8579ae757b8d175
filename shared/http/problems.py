"""Every error becomes application/problem+json (RFC 9457)."""

from __future__ import annotations

import http
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from shared.errors import (
    IndexUnavailable,
    InsufficientStorage,
    Overloaded,
    PatronusError,
    RecordUnavailable,
    SetupError,
    Unauthenticated,
    Unprocessable,
    UpstreamUnavailable,
)
from shared.logs import get_logger, place_of
from shared.metrics import Metrics
from shared.request_context import REQUEST_ID_HEADER, current_request_id
from shared.wire.common import Problem

MEDIA_TYPE = "application/problem+json"
_log = get_logger(__name__)

RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Problem, "description": "The request was refused; the document says how to mend it."},
    "5XX": {"model": Problem, "description": "The service could not answer."},
}
"""For a router's ``responses``: every operation may answer a problem."""


def problem_response(error: PatronusError) -> JSONResponse:
    """The answer for an error."""
    detail = error.detail
    if isinstance(error, SetupError) or type(error) is PatronusError:
        # These speak to the operator and may name a path; the log has them.
        detail = "The service is not set up rightly; its operator finds the reason in its log, under the request id."
    body: dict[str, Any] = {
        "type": f"urn:patronus:problem:{error.kind}",
        "title": error.title,
        "status": error.status,
        "detail": detail,
        "request_id": current_request_id(),
    }
    if error.reason is not None:
        body["reason"] = error.reason
    body.update(error.extra)
    headers = {REQUEST_ID_HEADER: current_request_id()}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, Overloaded | UpstreamUnavailable | RecordUnavailable | IndexUnavailable | InsufficientStorage):
        headers["Retry-After"] = str(error.retry_after_s)
    return JSONResponse(body, status_code=error.status, media_type=MEDIA_TYPE, headers=headers)


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

    async def http_error(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101
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
