"""Reads JSON bodies strictly, so that no other reader can read them differently.

Strictly: UTF-8 without a byte order mark, no name twice in an object, no NaN, no half of a surrogate pair.
RFC 8259 leaves to a reader what it makes of a name that comes twice. Two readers that differ, such as a proxy that
checks requests and the service behind it, can be played off against each other, so such a body is refused (RFC 7493).
"""

from __future__ import annotations

import codecs
import json
import re
from typing import Any, Final, NoReturn

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from shared.errors import BadRequest
from shared.http.headers import json_in_utf8

_MOST_ON_EVENT_LOOP: Final = 64 * 1024
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(body: bytes | bytearray) -> Any:
    """The value of a JSON document.

    Raises:
        json.JSONDecodeError: it is not JSON.
        BadRequest: it is not UTF-8, begins with a byte order mark, names a member twice, holds a number that JSON does
            not have or a character that Unicode does not have, or is nested too deeply.
    """
    try:
        if body.startswith(codecs.BOM_UTF8) or b"\0" in body:  # a zero byte: ASCII in UTF-16 or UTF-32
            raise ValueError
        text = body.decode("utf-8")
    except ValueError:
        raise BadRequest("Send JSON in plain UTF-8, without a byte order mark.", reason="not_utf8") from None
    try:
        value = _DECODER.decode(text)
        if "\\u" in text and _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError:
        raise
    except UnicodeEncodeError:
        raise BadRequest("The body holds half of a surrogate pair, which is no character.", reason="bad_json") from None
    except RecursionError:
        raise BadRequest("The body is nested too deeply.", reason="bad_json") from None
    except ValueError:  # int() takes no more digits than that
        raise BadRequest("The body holds a number of thousands of digits.", reason="bad_json") from None
    return value


class StrictRequest(Request):
    """A request whose JSON body is read in one way only."""

    async def json(self) -> Any:
        """The body's value.

        Raises:
            json.JSONDecodeError: it is not JSON.
            BadRequest: as `read_json` says, or ``Content-Type`` names another charset than UTF-8.
        """
        json_in_utf8(self)
        body = await self.body()
        # A megabyte takes 15 ms, for which the event loop would answer nobody.
        return await run_in_threadpool(read_json, body) if len(body) > _MOST_ON_EVENT_LOOP else read_json(body)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadRequest("An object of the body holds a member twice; send each name once.", reason="repeated_member")
    return found


def _no_constant(_name: str) -> NoReturn:
    raise BadRequest("The body holds NaN or Infinity, which JSON does not have.", reason="bad_json")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_no_constant)
