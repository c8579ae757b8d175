"""Headers of a request: read from the ASGI scope, and refused where they can be read in two ways."""

from __future__ import annotations

from collections import Counter
from typing import Final

from starlette.requests import Request
from starlette.types import Scope

from shared.errors import BadRequest

# Headers that are not lists. Of two of them a proxy before the service may read another one than the service does.
_SINGLE: Final = frozenset(
    {
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"host",
        b"idempotency-key",
        b"x-request-id",
    }
)


def raw_header(scope: Scope, name: bytes) -> bytes | None:
    """A request's header by its name in lower case; the first, if it came several times."""
    for each, value in scope["headers"]:
        if each == name:
            found: bytes = value
            return found
    return None


def header_of(scope: Scope, name: bytes) -> str | None:
    """The same as text."""
    found = raw_header(scope, name)
    return None if found is None else found.decode("latin-1")


def single_headers_only(scope: Scope) -> None:
    """Refuses a request in which a header came twice that may come once, or whose body is compressed.

    Raises:
        BadRequest: says which.
    """
    headers = scope["headers"]
    names = {name for name, _ in headers}
    if len(names) != len(headers):
        counted = Counter(name for name, _ in headers)
        doubled = sorted(name.decode("latin-1") for name in _SINGLE if counted[name] > 1)
        if doubled:
            raise BadRequest(f"The header {doubled[0]} came more than once; send it once.", reason="repeated_header")
    if b"content-encoding" in names and raw_header(scope, b"content-encoding") not in {b"", b"identity"}:
        raise BadRequest("The body must be sent as it is, without Content-Encoding.", reason="content_encoding")


def media_type(request: Request) -> str:
    """What a body says it is, without parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
