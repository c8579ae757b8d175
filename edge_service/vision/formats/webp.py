"""Reads WebP files: the header, and the chunks that change a pixel."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from edge_service.vision.formats.header import PictureHeader, animated, damaged, exif_orientation
from shared.errors import UnreadablePicture

# Decoding takes up to 0.05 microseconds a pixel, and more than a second for this many with transparency.
_MOST_PIXELS: Final = 25_000_000
# Encoders write five or six.
_MAX_CHUNKS: Final = 100
_ANIMATION_FLAG: Final = 0x02
_ALPHA_FLAG: Final = 0x10
_EXTENDED_BYTES: Final = 10
# Of libwebp: two canvases of four bytes a pixel, or one and the picture that is made of it.
_DECODER_BYTES: Final = 8
_IMAGE_BYTES: Final = 4
# Lossless data may have a group of code tables for each 4 x 4 pixels, in libwebp of up to 5,004 entries of 4 bytes and
# some 600 bytes more. Their number is inside coded data. The smallest table, of 1 KiB, takes 4 bits.
_MAX_GROUPS: Final = 1 << 16
_GROUP_SIDE: Final = 4
_GROUP_BYTES: Final = 5004 * 4 + 600
_TABLE_BYTES_A_BYTE: Final = 2560
_LOSSLESS_ALPHA: Final = 1


def is_webp(data: bytes) -> bool:
    """Whether these bytes begin as a WebP file does."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def read_webp(data: bytes) -> PictureHeader:
    """Reads the header of a WebP file.

    Raises:
        UnreadablePicture: damaged, animated, or of too many chunks.
    """
    alpha: memoryview | None = None
    image: memoryview | None = None
    canvas: tuple[int, int] | None = None
    orientation = 1
    for kind, chunk, body in _chunks(data):
        if kind == b"VP8X" and canvas is None and len(body) >= _EXTENDED_BYTES:
            if body[0] & _ANIMATION_FLAG:
                raise animated()
            canvas = _three(body, 4), _three(body, 7)
        elif kind in {b"ANIM", b"ANMF"}:
            raise animated()
        elif kind == b"ALPH" and alpha is None and image is None:
            alpha = _complete(chunk)
        elif kind in {b"VP8 ", b"VP8L"} and image is None:
            image = _complete(chunk)
        elif kind == b"EXIF":
            orientation = exif_orientation(body)
    if image is None:
        raise damaged()
    width, height = _size(image)
    if not (width and height) or canvas not in {None, (width, height)}:
        raise damaged()
    parts = [image]
    if alpha is not None and bytes(image[:4]) == b"VP8 ":
        parts = [_extended(width, height), alpha, image]
    body_bytes = 4 + sum(len(part) for part in parts)
    return PictureHeader(
        format="WEBP",
        width=width,
        height=height,
        orientation=orientation,
        decoder_bytes=_DECODER_BYTES * width * height,
        image_bytes=_IMAGE_BYTES * width * height,
        most_pixels=_MOST_PIXELS,
        parts=(memoryview(b"RIFF" + struct.pack("<I", body_bytes) + b"WEBP"), *parts),
        file_copies=2,
        tables_bytes=_tables_bytes(width, height, parts),
    )


def _tables_bytes(width: int, height: int, parts: list[memoryview]) -> int:
    """The most memory of the lossless parts' code tables; parts are decoded in turn."""
    groups = min(_MAX_GROUPS, -(-width // _GROUP_SIDE) * -(-height // _GROUP_SIDE))
    lossless = [
        len(part)
        for part in parts
        if bytes(part[:4]) == b"VP8L" or (bytes(part[:4]) == b"ALPH" and part[8] & 3 == _LOSSLESS_ALPHA)
    ]
    return min(groups * _GROUP_BYTES, _TABLE_BYTES_A_BYTE * max(lossless, default=0))


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """Name, chunk with its padding, and body of each chunk; the last may be cut off."""
    view = memoryview(data)
    at, end = 12, min(8 + int.from_bytes(data[4:8], "little"), len(data))
    for _ in range(_MAX_CHUNKS):
        if at + 8 > end:
            return
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        after = at + 8 + length + length % 2
        yield data[at : at + 4], view[at:after], view[at + 8 : at + 8 + length]
        at = after
    raise UnreadablePicture("The WebP has too many chunks; save it again.", reason="damaged")


def _complete(chunk: memoryview) -> memoryview:
    """The complete chunk with its padding."""
    length = int.from_bytes(chunk[4:8], "little")
    if not length or len(chunk) < 8 + length:
        raise damaged()
    if len(chunk) < 8 + length + length % 2:
        return memoryview(bytes(chunk) + b"\x00")
    return chunk


def _size(image: memoryview) -> tuple[int, int]:
    """Width and height, of a lossy or a lossless image."""
    if bytes(image[:4]) == b"VP8L":
        if len(image) < 13 or image[8] != 0x2F:
            raise damaged()
        bits = int.from_bytes(image[9:13], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if len(image) < 18 or bytes(image[11:14]) != b"\x9d\x01\x2a":
        raise damaged()
    width, height = struct.unpack_from("<HH", image, 14)
    return width & 0x3FFF, height & 0x3FFF


def _extended(width: int, height: int) -> memoryview:
    """The header of a file with nothing but an image and its transparency."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return memoryview(b"VP8X" + struct.pack("<II", _EXTENDED_BYTES, _ALPHA_FLAG) + sides)


def _three(body: memoryview, at: int) -> int:
    return int.from_bytes(body[at : at + 3], "little") + 1
