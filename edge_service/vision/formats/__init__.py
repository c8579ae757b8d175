"""Reads the headers of picture files, before any pixel is decoded."""

from __future__ import annotations

from typing import Final

from edge_service.vision.formats.header import PictureHeader
from edge_service.vision.formats.jpeg import JPEG_SIGNATURE, read_jpeg
from edge_service.vision.formats.png import PNG_SIGNATURE, read_png
from edge_service.vision.formats.webp import is_webp, read_webp
from shared.errors import UnsupportedPicture

__all__ = ["FORMATS", "PictureHeader", "read_header"]

FORMATS: Final = ("JPEG", "PNG", "WEBP")


def read_header(data: bytes) -> PictureHeader:
    """Reads the header of a picture; its content decides the format.

    Args:
        data: a whole JPEG, PNG or WebP file.

    Raises:
        UnsupportedPicture: not one of the formats, or a kind of JPEG that no camera writes.
        UnreadablePicture: damaged, animated, or made to take long to read.
    """
    if data.startswith(JPEG_SIGNATURE):
        return read_jpeg(data)
    if data.startswith(PNG_SIGNATURE):
        return read_png(data)
    if is_webp(data):
        return read_webp(data)
    raise UnsupportedPicture(
        "These bytes are not a JPEG, PNG or WebP picture; convert the picture to one of them.",
        reason="unknown_format",
    )
