"""The header of a picture, and the most memory that decoding it takes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal

from shared.errors import UnreadablePicture

_ORIENTATION_TAG: Final = 0x0112
_SHORT, _LONG = 3, 4  # types of EXIF values
_EXIF_PREFIX: Final = b"Exif\x00\x00"
# Cameras write some fifteen entries into the first directory, in the order of their tags; the orientation is early.
_MAX_EXIF_ENTRIES: Final = 256
# Blocks of rows on their way from the decoder to the array, a decoder's tables and rows, and the heap's rounding.
_WORKING_BYTES: Final = 8 * 1024 * 1024
# Beside the pixels of each row: a pointer or two, and padding.
_ROW_BYTES: Final = 64


@dataclass(frozen=True, slots=True, eq=False)
class PictureHeader:
    """The header of a picture file.

    Attributes:
        format: by content.
        width: in pixels, as stored, before rotation to upright.
        height: in pixels, as stored.
        orientation: by EXIF, 1 to 8; 1 where there is none.
        decoder_bytes: peak memory of the decoder, its own image included.
        image_bytes: memory of the decoder's image.
        most_pixels: limit of this format and depth, for a bearable decoding time.
        parts: the parts of the file that the decoder gets: only those that change a pixel.
        file_copies: copies of the parts in memory during decoding.
        blocks: of a JPEG: the same picture, extended to whole blocks. Decoding it with different fillings shows whether
            data is missing. With restarts, only the data after the last one. None where this is not checked.
        tables_bytes: further memory for tables, which only a hostile file takes.
        fillings: number of fillings to try.
        probe: of a JPEG with one scan: the same picture with one more row of groups of blocks than there is data for.
            If the first of these groups is empty, data may be missing, and ``blocks`` is compared.
        group: blocks of a group, across and down.
        turbo_reads: of a JPEG: whether libjpeg-turbo gives RGB, and takes no more memory than is charged.
    """

    format: Literal["JPEG", "PNG", "WEBP", "AVIF", "HEIC"]
    width: int
    height: int
    orientation: int
    decoder_bytes: int
    image_bytes: int
    most_pixels: int
    parts: tuple[memoryview, ...]
    file_copies: int = 1
    blocks: PictureHeader | None = None
    fillings: int = 0
    tables_bytes: int = 0
    probe: PictureHeader | None = None
    group: tuple[int, int] = (1, 1)
    turbo_reads: bool = False

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height

    @property
    def pixel_bytes(self) -> int:
        """Memory of the decoded picture: three bytes a pixel."""
        return 3 * self.pixels

    @property
    def peak_bytes(self) -> int:
        """Peak memory of decoding, without the file as sent and ``tables_bytes``."""
        file_bytes = self.file_copies * sum(len(part) for part in self.parts)
        at_most = max(self.decoder_bytes, self.image_bytes + self.pixel_bytes)
        return at_most + file_bytes + self.height * _ROW_BYTES + _WORKING_BYTES

    @property
    def charged_bytes(self) -> int:
        """Memory to reserve for decoding: the most that any file with this header takes."""
        return self.peak_bytes + self.tables_bytes

    def file(self, end: bytes = b"") -> bytes:
        """The parts as one file.

        Args:
            end: bytes to add.
        """
        return b"".join((*self.parts, end))


def damaged() -> UnreadablePicture:
    """The refusal of a damaged file."""
    return UnreadablePicture("The picture is damaged or cut off; export or upload it again.", reason="damaged")


def animated() -> UnreadablePicture:
    """The refusal of a picture with several frames."""
    return UnreadablePicture("The picture is animated; send one still frame of it.", reason="animated")


def exif_orientation(exif: bytes | memoryview) -> int:
    """The orientation in EXIF metadata; 1 (upright) if it is missing or damaged.

    Reads this one value only. Libraries read all values, and a few KiB can declare gigabytes.
    """
    data = bytes(exif[: 1 << 16]).removeprefix(_EXIF_PREFIX)
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(data[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, at)
        for entry in range(min(count, _MAX_EXIF_ENTRIES)):
            tag, kind, values = struct.unpack_from(order + "HHI", data, at + 2 + 12 * entry)
            if tag == _ORIENTATION_TAG:
                if values != 1 or kind not in {_SHORT, _LONG}:
                    return 1
                (value,) = struct.unpack_from(order + ("H" if kind == _SHORT else "I"), data, at + 10 + 12 * entry)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:  # the pixels may be good
        return 1
    return 1
