"""Serves the page and its files, and signs a browser in and out. None of it is in the OpenAPI document."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Final

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import Field
from starlette.staticfiles import StaticFiles

from edge_service.deps import ServicesDep
from shared.errors import Forbidden, NotFound, Unauthenticated
from shared.http.auth import authenticate
from shared.http.headers import require_one_reading
from shared.http.routes import StrictRoute
from shared.logs import get_logger
from shared.security.credentials import Scope
from shared.strict_types import Moment
from shared.wire.common import StrictWire, Wire

_log = get_logger(__name__)
_STATIC: Final = Path(__file__).parent / "static"
# No script, style or request of any other origin; pictures and films of the page's own making beside its files.
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self)",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# Named here: what the system says of a suffix differs, and with `nosniff` a browser takes no other. No other is served.
_MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
}
_files = StaticFiles(directory=_STATIC)
router = APIRouter(include_in_schema=False, route_class=StrictRoute)


class SignIn(StrictWire):
    """A one-time code."""

    code: str = Field(min_length=1, max_length=200)


class SignedIn(Wire):
    """The API key of a browser."""

    api_key: str
    expires_at: Moment


@router.get("/")
async def get_page(request: Request) -> Response:
    """Get the page."""
    return await _file("index.html", request)


@router.get("/console/{path:path}")
async def get_file(path: str, request: Request) -> Response:
    """Get a file of the page."""
    return await _file(path, request)


@router.post("/console/sign-in")
async def sign_in(request: Request, wanted: SignIn, services: ServicesDep) -> SignedIn:
    """Exchange a one-time code for an API key."""
    require_one_reading(request.scope)
    if not await run_in_threadpool(services.sign_in_codes.use, wanted.code):
        raise Unauthenticated(
            "This link was used already, or its ten minutes are over; make another with `patronus edge sign-in`.",
            reason="code_not_valid",
        )
    key, browser = services.key_ring.sign_in()
    _log.info("browser_signed_in", key=browser.record.id)
    return SignedIn(api_key=key, expires_at=browser.expires_at)


@router.post("/console/sign-out", status_code=204)
async def sign_out(request: Request, services: ServicesDep) -> None:
    """End the API key that a one-time code gave."""
    require_one_reading(request.scope)
    record = authenticate(request.scope, request.headers.get("Authorization"))
    if not services.key_ring.sign_out(record.id):
        raise Forbidden(
            "This API key was not given by a link; its operator can revoke it with `patronus edge keys revoke`.",
            reason="not_of_a_browser",
        )
    _log.info("browser_signed_out", key=record.id)


@router.post("/console/sign-out/{key_id}", status_code=204)
async def sign_out_other(key_id: str, request: Request, services: ServicesDep) -> None:
    """End another browser's API key, one that a link gave. Needs the scope manage for all galleries."""
    require_one_reading(request.scope)
    record = authenticate(request.scope, request.headers.get("Authorization"))
    if Scope.MANAGE not in record.scopes or record.galleries is not None:
        raise Forbidden(
            "This API key may not end those of browsers; use one with the scope manage for all galleries.",
            reason="all_galleries_needed",
        )
    if not services.key_ring.sign_out(key_id):
        raise NotFound(
            "No browser has this API key: it may have ended. The operator can revoke other keys with "
            "`patronus edge keys revoke`.",
            reason="not_of_a_browser",
        )
    _log.info("browser_signed_out", key=key_id, by=record.id)


async def _file(path: str, request: Request) -> Response:
    media_type = _MEDIA_TYPES.get(PurePosixPath(path).suffix)
    if media_type is None:
        raise HTTPException(404)
    # Every file is answered whole: to a range that cannot be read, Starlette answers with text instead of a problem.
    request.scope["headers"] = [(name, value) for name, value in request.scope["headers"] if name != b"range"]
    answer = await _files.get_response(path, request.scope)
    if "Accept-Ranges" in answer.headers:
        del answer.headers["Accept-Ranges"]
    answer.headers.update({**_HEADERS, "Content-Type": media_type})
    return answer
