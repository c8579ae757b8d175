"""Reads pictures in base64 from a JSON body, without a copy of the text.

A JSON parser would hold a picture three times. A body of this form is so plain that its punctuation tells all: it is
``{S:S}`` or ``{S:[S,S]}``, with strings that hold neither quotes nor, once three escapes are undone, backslashes.
Whatever looks otherwise is refused, in the words of the strict parser where that refuses it too.
"""

from __future__ import annotations

import base64
import binascii
import re
from json import JSONDecodeError
from typing import Final, NoReturn

from fastapi import Request
from starlette.requests import ClientDisconnect

from edge_service.settings import PictureLimits
from edge_service.uploads.form import PART
from edge_service.vision.decode import check_bytes
from shared.errors import BadRequest, Unprocessable
from shared.http.json_bodies import read_json

SEVERAL: Final = "images"
# Blanks, and what stands behind them: punctuation, a string, or something else.
_TOKEN: Final = re.compile(rb'[ \t\r\n]*+(?:([{}\[\]:,])|"([^"]*+)"|([^ \t\r\n]))')
# What some encoders write in base64: PHP \/, .NET \u002B.
_ESCAPES: Final = ((rb"\/", b"/"), (rb"\u002B", b"+"), (rb"\u002b", b"+"))
# More than 50 pictures have: two for each, and those around them.
_MOST_TOKENS: Final = 128
_FORM: Final = re.compile(r"\{S:(?:S|\[(?:S(?:,S)*)?\])\}")
_PICTURE: Final = re.compile(rb'[ \t\r\n]*+\{[ \t\r\n]*+"image"[ \t\r\n]*+:')
# A data URI (RFC 2397); what it says of the format is not believed.
_DATA_URI: Final = re.compile(rb"data:[!-+\--~]{0,120};base64,", re.IGNORECASE)
_LONG_STRING: Final = re.compile(rb'"[^"]{300,}+"')
# A body of no picture is short.
_MOST_TO_EXPLAIN: Final = 256 * 1024


async def read_body(request: Request) -> bytearray:
    """The whole body, whose size a middleware limits.

    Raises:
        BadRequest: the connection ended before it had arrived.
    """
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
    except ClientDisconnect:
        raise BadRequest("The connection ended before the body had arrived whole.", reason="cut_off") from None
    return body


def is_picture(body: bytearray) -> bool:
    """Whether a JSON body is for one picture: its first member is ``image``."""
    return _PICTURE.match(body) is not None


def pictures_in(body: bytearray, limits: PictureLimits, *, at_most: int, exactly: bool = False) -> list[bytes]:
    """The pictures of a JSON body, in order: ``image``, one; or ``images``, where several are taken.

    Each is canonical base64 (RFC 4648, 3.5), or a data URI with it.

    Args:
        body: of the request.
        limits: of each picture; checked before it is decoded.
        at_most: number of pictures.
        exactly: whether fewer are refused too.

    Raises:
        BadRequest: as ``read_json`` says.
        TooLarge: a picture over the limit.
        Unprocessable: not of this form, not base64, or another number of pictures.
    """
    if b"\\" in body:
        for written, meant in _ESCAPES:
            body = body.replace(written, meant)
    shape, strings = _read(body)
    if b"\\" in body or not _FORM.fullmatch(shape):
        _refuse(body, at_most, exactly=exactly)
    name, *values = strings
    listed = "[" in shape
    if name != (SEVERAL if listed else PART).encode() or (listed and at_most == 1):
        _refuse(body, at_most, exactly=exactly)
    if len(values) > at_most or (exactly and len(values) != at_most) or not values:
        raise _wrong_number(at_most, exactly=exactly)
    return [_decoded(value, limits) for value in values]


def _read(body: bytearray) -> tuple[str, list[memoryview]]:
    """A body's punctuation, with S for each string and x for anything else; and the strings."""
    view, shape, strings, at = memoryview(body), "", [], 0
    while (token := _TOKEN.match(body, at)) is not None and len(shape) < _MOST_TOKENS:
        at = token.end()
        if token[1] is not None:
            shape += token[1].decode()
        elif token[3] is not None:
            shape += "x"
        else:
            shape += "S"
            strings.append(view[token.start(2) : token.end(2)])
    return shape if len(shape) < _MOST_TOKENS else "x", strings


def _decoded(value: memoryview, limits: PictureLimits) -> bytes:
    uri = _DATA_URI.match(value)
    text = value if uri is None else value[uri.end() :]
    end = bytes(text[-2:])
    check_bytes(len(text) // 4 * 3 - end.count(b"="), limits)
    try:
        picture = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        raise _not_base64() from None
    rest = len(picture) % 3
    if len(text) % 4 or (rest and base64.b64encode(picture[-rest:]) != bytes(text[-4:])):
        raise _not_base64()
    return picture


def _not_base64() -> Unprocessable:
    return Unprocessable(
        "A picture in JSON is standard base64 with its padding and without line breaks, or a data URI with it.",
        reason="not_base64",
    )


def _wrong_number(at_most: int, *, exactly: bool) -> Unprocessable:
    pictures = "one picture" if at_most == 1 else f"{'exactly' if exactly else '1 to'} {at_most} pictures"
    return Unprocessable(f"Send {pictures}.", reason="wrong_number_of_images")


def _refuse(body: bytearray, at_most: int, *, exactly: bool) -> NoReturn:
    """Says why a body is not taken.

    Raises:
        BadRequest: as ``read_json`` says.
        Unprocessable: otherwise.
    """
    known = (PART,) if at_most == 1 else (SEVERAL,) if exactly else (PART, SEVERAL)
    wanted = " or ".join(f'{{"{PART}": BASE64}}' if name == PART else f'{{"{name}": [BASE64, ...]}}' for name in known)
    short = _LONG_STRING.sub(b'"..."', body)
    if len(short) <= _MOST_TO_EXPLAIN:
        try:
            found = read_json(bytes(short))
        except JSONDecodeError:
            found = None
        if isinstance(found, dict):
            if found.keys().isdisjoint(known):
                raise Unprocessable(f"There is no member `{known[0]}`; this takes {wanted}", reason="no_image_part")
            several = found.get(SEVERAL)
            if found.keys() == {SEVERAL} and isinstance(several, list) and len(several) > at_most:
                raise _wrong_number(at_most, exactly=exactly)
            strings = several if isinstance(several, list) else [found.get(PART)]
            if len(found) == 1 and all(isinstance(each, str) for each in strings):
                raise _not_base64()  # a backslash is left in one
    raise Unprocessable(f"The body is not what this takes: {wanted}", reason="bad_body")
