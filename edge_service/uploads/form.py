"""Reads pictures from a multipart form in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import Request
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from edge_service.settings import PictureLimits
from edge_service.vision.decode import check_bytes
from shared.errors import BadRequest, Unprocessable
from shared.http.headers import parameters_of

PART = "image"
_DISPOSITION = b"content-disposition"
_TRANSFER = b"content-transfer-encoding"
# Encodings that leave the bytes unchanged (RFC 2045, 6.2); RFC 7578 has deprecated the header.
_UNCHANGED = frozenset({b"7bit", b"8bit", b"binary"})


class _CompleteForm(MultiPartParser):
    """Parses a form up to its last boundary, so that a truncated form is refused."""

    def __init__(self, headers: Headers, stream: AsyncGenerator[bytes, None], *, max_files: int) -> None:
        super().__init__(headers, self._until_end(stream), max_files=max_files, max_fields=1)
        self._ended = False

    def on_end(self) -> None:
        """Notes that the last boundary was read."""
        self._ended = True

    async def _until_end(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for chunk in stream:
            yield chunk
        if not self._ended:
            raise MultiPartException("The form ends before its last boundary.")


async def read_form(request: Request, limits: PictureLimits, *, at_most: int, exactly: bool = False) -> list[bytes]:
    """The ``image`` parts of a form, in order.

    Args:
        request: with an unread body.
        limits: of each picture.
        at_most: number of pictures.
        exactly: whether fewer are refused too.

    Raises:
        BadRequest: broken, of another charset than UTF-8, or with ambiguous headers.
        TooLarge: a picture over the limit.
        Unprocessable: no ``image`` part, one that is not a file, another part, or too many of them.
    """
    charset = _parameters(request.headers["content-type"]).get("charset", "utf-8")
    if charset.lower() != "utf-8":
        raise BadRequest("Send the form without a charset, or with charset=utf-8.", reason="unknown_charset")
    parser = _CompleteForm(request.headers, request.stream(), max_files=at_most + 1)
    # Starlette writes larger parts to a temporary file. No part is larger than the body's limit.
    parser.spool_max_size = limits.max_request_bytes + limits.max_bytes
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError):  # ValueError: from some headers of parts
        raise _broken(
            "The multipart form is broken, was cut off, or has too many parts; send it again as a whole."
        ) from None
    except ClientDisconnect:
        raise BadRequest("The connection ended before the pictures had arrived whole.", reason="cut_off") from None
    try:
        for _, part in form.multi_items():
            if isinstance(part, UploadFile):  # a part without a file is refused below
                _refuse_ambiguous(part.headers.raw)
        return [await _read(part, name, limits) for name, part in _counted(form.multi_items(), at_most, exactly)]
    finally:
        await form.close()


def _parameters(value: str) -> dict[str, str]:
    try:
        return parameters_of(value)
    except ValueError:
        raise _broken(
            "A Content-Type or Content-Disposition of the form can be read in two ways; send each parameter once, "
            "as name=value."
        ) from None


def _refuse_ambiguous(headers: list[tuple[bytes, bytes]]) -> None:
    """Refuses a part with a repeated or ambiguous header; names are in lower case."""
    if len(dict(headers)) != len(headers):
        raise _broken("A part of the form has a header more than once; send each header once.")
    for name, value in headers:
        if name == _DISPOSITION:
            said = value.decode("latin-1")
            if said.partition(";")[0].strip().lower() != "form-data" or "name" not in _parameters(said):
                raise _broken(f'Name each part by Content-Disposition: form-data; name="{PART}"; filename="FILE"')
        elif name == _TRANSFER and value.strip().lower() not in _UNCHANGED:
            raise _broken("Send pictures as they are, without Content-Transfer-Encoding.")


def _broken(detail: str) -> BadRequest:
    return BadRequest(detail, reason="broken_multipart")


def _counted(
    parts: list[tuple[str, UploadFile | str]], at_most: int, exactly: bool
) -> list[tuple[str, UploadFile | str]]:
    if not any(name == PART for name, _ in parts):
        raise Unprocessable(f"There is no part named `{PART}`; with curl: -F image=@FILE", reason="no_image_part")
    if len(parts) > at_most or (exactly and len(parts) != at_most):
        raise Unprocessable(
            f"Send {_number(at_most, exactly)}, and no other part.",
            reason="wrong_number_of_images",
        )
    return parts


def _number(at_most: int, exactly: bool) -> str:
    if at_most == 1:
        return f"one `{PART}` part"
    return f"{'exactly' if exactly else '1 to'} {at_most} `{PART}` parts"


async def _read(part: UploadFile | str, name: str, limits: PictureLimits) -> bytes:
    if name != PART or not isinstance(part, UploadFile):
        raise Unprocessable(
            f"Every part must be a file named `{PART}`; with curl: -F image=@FILE (mind the @).", reason="not_a_file"
        )
    check_bytes(part.size or 0, limits)
    return await part.read()
