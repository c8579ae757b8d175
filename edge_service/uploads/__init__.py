"""Reads the pictures of a request in memory, from a form or from JSON; a picture is never written to disk.

What is sent is read here, and what it shows in ``edge_service.vision``.
"""

from __future__ import annotations

from typing import Final

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from edge_service.settings import PictureLimits
from edge_service.uploads.form import PART, read_form
from edge_service.uploads.json_body import SEVERAL, is_picture, pictures_in, read_body
from shared.errors import BadRequest
from shared.http.headers import json_in_utf8, media_type

__all__ = ["FORM", "JSON", "PART", "SEVERAL", "is_picture", "pictures_in", "read_body", "read_pictures"]

FORM: Final = "multipart/form-data"
JSON: Final = "application/json"


async def read_pictures(request: Request, limits: PictureLimits, *, at_most: int, exactly: bool = False) -> list[bytes]:
    """The pictures of a request, in order; a middleware limits the whole body.

    Args:
        request: with an unread body: the parts ``image`` of a form, or JSON with ``image`` or ``images``.
        limits: of each picture.
        at_most: number of pictures.
        exactly: whether fewer are refused too.

    Raises:
        BadRequest: neither a form nor JSON, broken, of another charset than UTF-8, or to be read in two ways.
        TooLarge: a picture over the limit.
        Unprocessable: no picture, too many of them, or anything else.
    """
    kind = media_type(request)
    if kind == FORM:
        return await read_form(request, limits, at_most=at_most, exactly=exactly)
    if kind != JSON:
        raise BadRequest(
            f"Send the picture as {FORM} with a file part named `{PART}`, with curl: -F image=@FILE; or as {JSON}: "
            '{"image": BASE64}',
            reason="not_multipart",
        )
    json_in_utf8(request)
    body = await read_body(request)
    return await run_in_threadpool(pictures_in, body, limits, at_most=at_most, exactly=exactly)
