"""The outline of a picture file, walked before any decoder sees it: a file of endless markers or scans costs seconds.

Pillow reads markers and chunks one by one in Python. Their number is bounded by nothing but the file's size.
"""

from __future__ import annotations

import re
from typing import Final

from shared.errors import UnreadablePicture

# Cameras write some twenty segments, and about ten scans when progressive; colour profiles a few segments more.
_MAX_SEGMENTS: Final = 1000
_MAX_SCANS: Final = 100
# Pixels read over all scans: a 40-megapixel picture in ten scans, twice.
_MAX_SCANNED_PIXELS: Final = 800_000_000
# Of 15 MB in chunks of 4 KiB, as small as encoders write them.
_MAX_CHUNKS: Final = 4000
_MAX_FILL_BYTES: Final = 64

_START_OF_SCAN: Final = 0xDA
_END_OF_IMAGE: Final = 0xD9
# A marker within a scan's data; FF00 is a plain FF there, FFD0 to FFD7 are restarts, FFFF is a fill byte.
_NEXT_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)


def count_scans(data: bytes) -> int:
    """How many times a decoder will pass over the pixels; refuses a file whose outline is made to be slow.

    Args:
        data: the whole file, of any format.

    Raises:
        UnreadablePicture: a JPEG or PNG of too many segments or chunks, or one that is not put together as such.
    """
    if data.startswith(b"\xff\xd8"):
        return _jpeg_scans(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        _walk_png(data)
    return 1


def check_scans(scans: int, pixels: int) -> None:
    """Refuses a picture whose scans, taken together, are too much to read.

    Raises:
        UnreadablePicture: too many of them.
    """
    if scans > _MAX_SCANS or scans * pixels > _MAX_SCANNED_PIXELS:
        raise UnreadablePicture("The JPEG has too many scans; save it as an ordinary one.", reason="too_many_scans")


def _jpeg_scans(data: bytes) -> int:
    """How many scans there are up to the end of the first image; what comes after that, a phone's film, is not read."""
    at, scans = 2, 0
    for _ in range(_MAX_SEGMENTS):
        start = at
        while data[at : at + 2] == b"\xff\xff" and at - start <= _MAX_FILL_BYTES:
            at += 1
        if at - start > _MAX_FILL_BYTES or data[at : at + 1] != b"\xff" or at + 2 > len(data):
            break
        marker = data[at + 1]
        if marker == _END_OF_IMAGE:
            return scans
        at += 2
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # these stand alone
            continue
        at += int.from_bytes(data[at : at + 2], "big")
        if marker == _START_OF_SCAN:
            scans += 1
            found = _NEXT_MARKER.search(data, at)
            if found is None:
                return scans  # cut off: the decoder says so
            at = found.start()
        if at >= len(data):
            return scans
    raise UnreadablePicture("The JPEG is not put together as cameras do it; save it anew.", reason="damaged")


def _walk_png(data: bytes) -> None:
    at = 8
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(data) or data[at + 4 : at + 8] == b"IEND":
            return
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    raise UnreadablePicture("The PNG has too many chunks; save it anew.", reason="damaged")
