"""Reads the headers of picture files, before any pixel is decoded."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from PIL import features

from edge_service.vision.formats.boxes import is_heif
from edge_service.vision.formats.header import PictureHeader
from edge_service.vision.formats.heif import read_heif
from edge_service.vision.formats.jpeg import JPEG_SIGNATURE, read_jpeg
from edge_service.vision.formats.png import PNG_SIGNATURE, read_png
from edge_service.vision.formats.webp import is_webp, read_webp
from shared.errors import UnsupportedPicture

__all__ = ["FORMATS", "PictureHeader", "read_header"]

# Wheels of Pillow decode AVIF. HEIC is decoded by an optional package.
_OPTIONAL: Final = {"AVIF": features.check("avif") is True, "HEIC": find_spec("pi_heif") is not None}
FORMATS: Final = ("JPEG", "PNG", "WEBP", *(name for name, taken in _OPTIONAL.items() if taken))


def read_header(data: bytes) -> PictureHeader:
    """Reads the header of a picture; its content decides the format.

    Args:
        data: a whole JPEG, PNG, WebP, AVIF or HEIC file.

    Raises:
        UnsupportedPicture: not one of the formats that are taken here, or a kind that no camera writes.
        UnreadablePicture: damaged, animated, or made to take long to read.
    """
    if data.startswith(JPEG_SIGNATURE):
        return read_jpeg(data)
    if data.startswith(PNG_SIGNATURE):
        return read_png(data)
    if is_webp(data):
        return read_webp(data)
    if is_heif(data):
        header = read_heif(data)
        if header.format in FORMATS:
            return header
        raise UnsupportedPicture(
            f"This edge does not take {header.format}; send the picture as a JPEG.", reason="format_not_installed"
        )
    raise UnsupportedPicture(
        "These bytes are not a JPEG, PNG, WebP or AVIF picture; convert the picture to one of them.",
        reason="unknown_format",
    )
