"""Pictures out of a multipart request, in memory only: a picture is never written to disk, not even for a moment."""

from __future__ import annotations

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from edge_service.settings import PictureLimits
from shared.errors import BadRequest, TooLarge, Unprocessable

PART = "image"


async def read_pictures(request: Request, limits: PictureLimits, *, at_most: int, exactly: bool = False) -> list[bytes]:
    """The ``image`` parts of a request, in their order. The size of the whole body is limited before this.

    Args:
        request: whose body has not been read yet.
        limits: on each picture.
        at_most: how many pictures.
        exactly: whether fewer are refused too.

    Raises:
        BadRequest: not a multipart form, or a broken one.
        TooLarge: a picture over the limit.
        Unprocessable: no ``image`` part, one that is not a file, another part, or too many of them.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise BadRequest(
            f"Send the picture as multipart/form-data with a file part named `{PART}`; with curl: -F image=@FILE",
            reason="not_multipart",
        )
    parser = MultiPartParser(request.headers, request.stream(), max_files=at_most + 1, max_fields=1)
    # Starlette moves what is larger than this into a temporary file on disk. Nothing is larger than the body's limit.
    parser.spool_max_size = limits.max_request_bytes + limits.max_bytes
    try:
        form = await parser.parse()
    except MultiPartException:
        raise BadRequest("The multipart form is broken or has too many parts.", reason="broken_multipart") from None
    try:
        return [await _read(part, name, limits) for name, part in _counted(form.multi_items(), at_most, exactly)]
    finally:
        await form.close()


def _counted(
    parts: list[tuple[str, UploadFile | str]], at_most: int, exactly: bool
) -> list[tuple[str, UploadFile | str]]:
    if not any(name == PART for name, _ in parts):
        raise Unprocessable(f"There is no part named `{PART}`; with curl: -F image=@FILE", reason="no_image_part")
    if len(parts) > at_most or (exactly and len(parts) != at_most):
        raise Unprocessable(
            f"This takes {'exactly' if exactly else 'at most'} {at_most} `{PART}` part{'s' if at_most > 1 else ''} "
            "and nothing else.",
            reason="wrong_number_of_images",
        )
    return parts


async def _read(part: UploadFile | str, name: str, limits: PictureLimits) -> bytes:
    if name != PART or not isinstance(part, UploadFile):
        raise Unprocessable(
            f"Every part must be a file named `{PART}`; with curl: -F image=@FILE (mind the @).", reason="not_a_file"
        )
    if (part.size or 0) > limits.max_bytes:
        raise TooLarge(
            f"The picture is over the limit of {limits.max_bytes} bytes; send a smaller one.",
            reason="too_many_bytes",
            limit_bytes=limits.max_bytes,
        )
    return await part.read()
