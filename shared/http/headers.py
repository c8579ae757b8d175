"""Reads headers of a request, and refuses those that can be read in two ways."""

from __future__ import annotations

import re
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

# A name or an IP address, and perhaps a port (RFC 9110, 7.2).
_HOST: Final = re.compile(rb"[A-Za-z0-9._~%-]+(:[0-9]*)?|\[[0-9A-Fa-f:.]+\](:[0-9]*)?")

_OPEN_ENDED: Final = frozenset({b"transfer-encoding", b"expect"})
# Bodies below 100 kB.
_SHORT_BODY_DIGITS: Final = 5
_MAX_DIGITS: Final = 18

# One parameter of a header's value, or an empty one (RFC 9110, 5.6.6).
_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED: Final = r'"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[^\x00-\x08\x0a-\x1f\x7f])*"'
_PARAMETER: Final = re.compile(rf"[ \t]*;[ \t]*(?:({_WORD})=({_WORD}|{_QUOTED}))?")


def raw_header(scope: Scope, name: bytes) -> bytes | None:
    """A request's header by its name in lower case; the first, if it came several times."""
    for each, value in scope["headers"]:
        if each == name:
            found: bytes = value
            return found
    return None


def require_one_reading(scope: Scope) -> None:
    """Refuses a request that two readers could read in two ways.

    A header came twice that may come once, the body is compressed or has two lengths, or the Host is no host.

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
    if b"content-encoding" in names and raw_header(scope, b"content-encoding") != b"identity":
        raise BadRequest("The body must be sent as it is, without Content-Encoding.", reason="content_encoding")
    if b"transfer-encoding" in names and b"content-length" in names:
        raise BadRequest("Send Content-Length or Transfer-Encoding, not both.", reason="two_lengths")
    if (raw_header(scope, b"transfer-encoding") or b"chunked").lower() != b"chunked":
        raise BadRequest("The only Transfer-Encoding that is taken is chunked.", reason="malformed_http")
    if not _HOST.fullmatch(raw_header(scope, b"host") or b"") or scope["http_version"] not in {"1.0", "1.1"}:
        raise BadRequest("Send HTTP/1.1 with a Host header that names a host.", reason="malformed_http")


def must_close(scope: Scope) -> bool:
    """Whether an answer before the body was read must close the connection.

    The server skips a body that is short and certain to arrive. Of others the length is not known, or they may never
    come (``Expect``).
    """
    for name, value in scope["headers"]:
        if name == b"content-length":
            if len(value) > _SHORT_BODY_DIGITS or not value.isdigit():
                return True
        elif name in _OPEN_ENDED:
            return True
    return False


def declared_length(scope: Scope) -> int:
    """The body's length by its header; 0 where there is none, or it is not a number."""
    declared = raw_header(scope, b"content-length") or b""
    # Of a very long number the beginning is over every limit as well.
    return int(declared[:_MAX_DIGITS]) if declared.isdigit() else 0


def media_type(request: Request) -> str:
    """What a body says it is, without parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def parameters_of(value: str) -> dict[str, str]:
    """Parameters of a header's value, such as ``a/b; charset=utf-8``, by lower-case name.

    Raises:
        ValueError: they are malformed, one comes twice, or one other than ``filename*`` is in the extended form
            (RFC 8187), which some readers decode and others leave out; or one other than a file's name holds a
            backslash, which some readers keep.
    """
    found: dict[str, str] = {}
    value = value.rstrip(" \t")
    at = value.find(";")
    while 0 <= at < len(value):
        match = _PARAMETER.match(value, at)
        if match is None:
            raise ValueError("malformed parameters")
        at = match.end()
        if match[1] is None:
            continue
        name, text = match[1].lower(), match[2]
        if name in found:
            raise ValueError("a parameter comes twice")
        if ("*" in name and name != "filename*") or ("\\" in text and name != "filename"):
            raise ValueError("a parameter that can be read in two ways")
        found[name] = text[1:-1] if text[0] == '"' else text
    return found


def json_in_utf8(request: Request) -> None:
    """Refuses a JSON body whose ``Content-Type`` names another charset than UTF-8.

    Raises:
        BadRequest: it is, or the parameters of ``Content-Type`` can be read in two ways.
    """
    said = request.headers.get("content-type", "")
    if ";" not in said:
        return
    try:
        known = parameters_of(said).get("charset", "utf-8").lower() == "utf-8"
    except ValueError:
        known = False
    if not known:
        raise BadRequest(
            "Send JSON as application/json without a charset, or with charset=utf-8 once.", reason="unknown_charset"
        )
