"""Reads PNG files: the header, and the chunks that change a pixel."""

from __future__ import annotations

from typing import Final

from edge_service.vision.formats.header import PictureHeader, animated, damaged, exif_orientation
from shared.errors import UnreadablePicture

PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_CHANNELS: Final = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGBA: 4}
_DEPTHS: Final = {
    _GREY: {1, 2, 4, 8, 16},
    _RGB: {8, 16},
    _PALETTE: {1, 2, 4, 8},
    _GREY_ALPHA: {8, 16},
    _RGBA: {8, 16},
}
_IHDR_BYTES: Final = 13
_WIDE: Final = 16
# Of 15 MB in chunks of 4 KiB, as small as encoders write them.
_MAX_CHUNKS: Final = 4000
# The slowest kind, interlaced RGBA of 16 bits a color, takes some 1.3 s of a processor at this size.
_MOST_PIXELS: Final = 25_000_000
# deflate never needs more than the bytes themselves and some 0.1 %. More data only costs time.
_MOST_PACKED: Final = 1.125
_PACKED_SLACK: Final = 64 * 1024
# Chunks that affect pixels, with their longest length. All others are dropped: profiles and texts unpack to megabytes.
_ONCE: Final = {b"PLTE": 768, b"tRNS": 256}
_END: Final = b"\x00\x00\x00\x00IEND\xaeB`\x82"


def read_png(data: bytes) -> PictureHeader:
    """Reads the header of a PNG file.

    Raises:
        UnreadablePicture: damaged, animated, of too many chunks, or with more packed bytes than the pixels need.
    """
    view = memoryview(data)
    width, height, depth, color = _frame(data)
    parts = [view[: 8 + 12 + _IHDR_BYTES]]
    once: set[bytes] = set()
    orientation, packed, at = 1, 0, 8 + 12 + _IHDR_BYTES
    for _ in range(_MAX_CHUNKS):
        kind, length = data[at + 4 : at + 8], int.from_bytes(data[at : at + 4], "big")
        if len(kind) < 4 or kind == b"IEND":
            break
        chunk, body = view[at : at + 12 + length], view[at + 8 : at + 8 + length]
        at += 12 + length
        if kind == b"IDAT":
            packed += length
            parts.append(chunk)
        elif kind in _ONCE and kind not in once and length <= _ONCE[kind]:
            once.add(kind)
            parts.append(chunk)
        elif kind == b"acTL" and int.from_bytes(body[:4], "big") > 1:
            raise animated()
        elif kind == b"eXIf" and kind not in once:
            once.add(kind)
            orientation = exif_orientation(body)
    else:
        raise UnreadablePicture("The PNG has too many chunks; save it again.", reason="damaged")
    row_bytes = -(-width * _CHANNELS[color] * depth // 8)
    if packed > _MOST_PACKED * height * (row_bytes + 1) + _PACKED_SLACK:
        raise damaged()
    image_bytes = width * height * _stored_bytes(color, depth)
    return PictureHeader(
        format="PNG",
        width=width,
        height=height,
        orientation=orientation,
        decoder_bytes=image_bytes + 4 * row_bytes,
        image_bytes=image_bytes,
        most_pixels=_MOST_PIXELS,
        parts=(*parts, memoryview(_END)),
    )


def _frame(data: bytes) -> tuple[int, int, int, int]:
    """Width, height, depth, color type."""
    if data[8:16] != b"\x00\x00\x00\x0dIHDR" or len(data) < 8 + 12 + _IHDR_BYTES:
        raise damaged()
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    depth, color, packing, filtering, interlaced = data[24:29]
    if not (width and height) or depth not in _DEPTHS.get(color, ()) or packing or filtering or interlaced > 1:
        raise damaged()
    return width, height, depth, color


def _stored_bytes(color: int, depth: int) -> int:
    """Bytes of a pixel in Pillow's image."""
    if color == _PALETTE:
        return 1
    if color == _GREY:
        return 2 if depth == _WIDE else 1
    return 4
