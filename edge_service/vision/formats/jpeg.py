"""Reads JPEG files: the header, the scans, and the segments that change a pixel.

libjpeg processes all pixels once for each scan. With several scans, it keeps the coefficients of the whole picture, two
bytes each, until the last one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

from edge_service.vision.formats.header import PictureHeader, damaged, exif_orientation
from shared.errors import UnreadablePicture, UnsupportedPicture

JPEG_SIGNATURE: Final = b"\xff\xd8"

# Cameras write some twenty segments, and about ten scans when progressive; color profiles a few segments more.
_MAX_SEGMENTS: Final = 1000
_MAX_SCANS: Final = 100
# Blocks of 8 x 8 coefficients, over all scans of a picture with several: the ten scans that libjpeg writes hold 14
# blocks for each 64 pixels at full color, 5.3 million at 24 megapixels. Each costs some 0.1 microseconds of a
# processor, and up to 0.3 where a scan refines what came before.
_MAX_BLOCKS: Final = 6_000_000
_MOST_PIXELS_OF_SEVERAL_SCANS: Final = 25_000_000
# Of a progressive picture without its end, which is decoded five times to find missing data of its last scan. A larger
# one is refused.
_MAX_BLOCKS_COMPARED: Final = 1_200_000
_MAX_FILL_BYTES: Final = 64
# libjpeg decodes no longer side than 65,500 pixels; the checks for missing data add up to two groups of 32.
_LONGEST_CHECKED_SIDE: Final = 65_500 - 64
# The format's limit of 65,535 a side; the blocks limit the decoding time.
_MOST_PIXELS: Final = 65_535**2
_COEFFICIENTS: Final = 64

_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_HUFFMAN_TABLES, _ARITHMETIC_EXTENSION, _ARITHMETIC_TABLES = 0xC4, 0xC8, 0xCC
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {_HUFFMAN_TABLES, _ARITHMETIC_EXTENSION, _ARITHMETIC_TABLES}
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
_QUANTIZATION, _RESTART_INTERVAL = 0xDB, 0xDD
_JFIF, _EXIF, _ADOBE = 0xE0, 0xE1, 0xEE
# A marker within a scan's data; FF00 is a plain FF there, FFD0 to FFD7 are restarts, FFFF is a fill byte.
_NEXT_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_RESTART: Final = re.compile(rb"\xff[\xd0-\xd7]")


@dataclass(frozen=True, slots=True)
class _Component:
    """A color: its number in the file, and its horizontal and vertical sampling."""

    number: int
    across: int
    down: int


@dataclass(frozen=True, slots=True)
class _Frame:
    """The frame's header."""

    progressive: bool
    width: int
    height: int
    components: tuple[_Component, ...]

    def blocks(self, chosen: Sequence[_Component]) -> int:
        """Blocks that a scan of these components holds."""
        return self.units(chosen) * (1 if len(chosen) == 1 else sum(each.across * each.down for each in chosen))

    @property
    def sampling(self) -> tuple[int, int]:
        """Blocks of a group across and down, of the component that has most."""
        if len(self.components) == 1:
            return 1, 1
        return max(each.across for each in self.components), max(each.down for each in self.components)

    def units(self, chosen: Sequence[_Component]) -> int:
        """The units of restart intervals: blocks for one component, else groups of blocks."""
        across = max(each.across for each in self.components)
        down = max(each.down for each in self.components)
        if len(chosen) > 1:
            return -(-self.width // (8 * across)) * -(-self.height // (8 * down))
        [one] = chosen
        columns, rows = -(-self.width * one.across // across), -(-self.height * one.down // down)
        return -(-columns // 8) * -(-rows // 8)

    def coefficient_bytes(self) -> int:
        """Memory of all coefficients of the picture."""
        blocks = self.blocks(self.components) if len(self.components) > 1 else self.units(self.components)
        return 2 * _COEFFICIENTS * blocks


@dataclass(frozen=True, slots=True)
class _Scan:
    """A scan's header: components, first and last coefficient, lowest bit, and previous bit."""

    components: tuple[_Component, ...]
    first: int
    last: int
    low: int
    high: int


class _Reader:
    """Reads the segments of a file up to the end of its first image."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._view = memoryview(data)
        self.parts = [self._view[:2]]
        self.orientation = 1
        self.frame: _Frame | None = None
        self.scans: list[_Scan] = []
        self.has_end = False
        self.lacks_data = False
        self.last_units = 0
        self._last_segment = self._view[:0]
        self._seen: set[int] = set()
        self._restart_interval = 0
        self._restarts_missing = 0
        self._frame_part = self._data_part = 0

    def read(self) -> None:
        """Reads all segments.

        Raises:
            UnreadablePicture: see ``read_jpeg``.
            UnsupportedPicture: see ``read_jpeg``.
        """
        data, at = self._data, 2
        for _ in range(_MAX_SEGMENTS):
            start = at
            while data[at : at + 2] == b"\xff\xff" and at - start <= _MAX_FILL_BYTES:
                at += 1
            if at - start > _MAX_FILL_BYTES or data[at : at + 1] != b"\xff" or at + 2 > len(data):
                break
            marker = data[at + 1]
            if marker == _END_OF_IMAGE:
                self.has_end = True
                return
            if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a segment
                at += 2
                continue
            length = int.from_bytes(data[at + 2 : at + 4], "big")
            segment, at = self._view[at : at + 2 + length], at + 2 + length
            if length < 2 or at > len(data):
                break
            self._take(marker, segment)
            if marker == _START_OF_SCAN:
                found = _NEXT_MARKER.search(data, at)
                end = len(data) if found is None else found.start()
                self._take_scan_data(at, end)
                if found is None:
                    return
                at = end
        raise UnreadablePicture("The JPEG is not built as cameras build it; save it again.", reason="damaged")

    def _take(self, marker: int, segment: memoryview) -> None:
        body = segment[4:]
        if marker in _FRAMES:
            if self.frame is not None:
                raise damaged()
            self.frame = _read_frame(marker, body)
            self._frame_part = len(self.parts)
        elif marker == _START_OF_SCAN:
            self.scans.append(self._read_scan(body))
        elif marker == _EXIF:
            if bytes(body[:6]) == b"Exif\x00\x00" and marker not in self._seen:
                self._seen.add(marker)
                self.orientation = exif_orientation(body)
            return
        elif marker in {_JFIF, _ADOBE}:
            # The decoder needs their color information. Other segments of the same number are previews.
            if marker in self._seen or bytes(body[:5]) not in {b"JFIF\x00", b"Adobe"}:
                return
            self._seen.add(marker)
        elif marker == _RESTART_INTERVAL:
            self._restart_interval = int.from_bytes(body[:2], "big")
        elif marker not in {_HUFFMAN_TABLES, _QUANTIZATION}:
            return
        self.parts.append(segment)

    def _take_scan_data(self, start: int, end: int) -> None:
        cut_off = end == len(self._data)
        while cut_off and end > start and self._data[end - 1] == 0xFF:
            end -= 1  # the first half of a marker
        if len(self.scans) == 1:
            self._data_part = len(self.parts)
        self.parts.append(self._view[start:end])
        frame = self.frame
        if frame is None:
            return
        self._restarts_missing = 0
        if self._restart_interval:
            units = frame.units(self.scans[-1].components)
            wanted = -(-units // self._restart_interval) - 1
            restarts = [found.end() for found in _RESTART.finditer(self._data, start, end)]
            self._restarts_missing = wanted - len(restarts)
            if len(self.scans) == 1:
                self.last_units = units - wanted * self._restart_interval
                self._last_segment = self._view[restarts[-1] if restarts else start : end]
        too_few_bytes = 8 * (end - start) < _least_bits(frame, self.scans[-1])
        self.lacks_data = self.lacks_data or too_few_bytes or self._restarts_missing > 0

    def _read_scan(self, body: memoryview) -> _Scan:
        count = body[0] if len(body) else 0
        if self.frame is None or not 1 <= count <= len(self.frame.components) or len(body) < 4 + 2 * count:
            raise damaged()
        numbers = [body[1 + 2 * position] for position in range(count)]
        chosen = tuple(each for each in self.frame.components if each.number in numbers)
        if len(chosen) != count:
            raise damaged()
        first, last, bits = body[1 + 2 * count : 4 + 2 * count]
        if not self.frame.progressive:
            return _Scan(chosen, 0, _COEFFICIENTS - 1, 0, 0)
        if not first <= last < _COEFFICIENTS:
            raise damaged()
        return _Scan(chosen, first, last, bits & 15, bits >> 4)

    def may_be_complete(self, frame: _Frame) -> bool:
        """Whether the file may have every pixel: no scan, restart or large share is missing."""
        known: dict[tuple[int, int], int] = {}  # component and coefficient: the lowest bit that was given
        for scan in self.scans[: _MAX_SCANS + 1]:
            for component, place in product(scan.components, range(scan.first, scan.last + 1)):
                if scan.high and known.get((component.number, place)) != scan.high:
                    return False  # it refines what no scan gave
                known[component.number, place] = scan.low
        exact = sum(1 for low in known.values() if low == 0)
        return exact == _COEFFICIENTS * len(frame.components) and not self.lacks_data

    def parts_for(self, width: int, height: int) -> tuple[memoryview, ...]:
        """The parts, with other sides in the frame's header."""
        parts = list(self.parts)
        frame = bytearray(parts[self._frame_part])
        frame[5:9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
        parts[self._frame_part] = memoryview(frame)
        return tuple(parts)

    def last_segment_for(self, width: int, height: int) -> tuple[memoryview, ...]:
        """The parts with only the data after the last restart, as a picture of these sides."""
        parts = self.parts_for(width, height)[: self._data_part]
        return (*(part for part in parts if part[1] != _RESTART_INTERVAL), self._last_segment)


def read_jpeg(data: bytes) -> PictureHeader:
    """Reads the header of a JPEG file, and counts its scans.

    Anything after the first image, such as a phone's video, is not read.

    Raises:
        UnreadablePicture: damaged, cut off, or of more segments or scans than encoders write.
        UnsupportedPicture: lossless, arithmetic, hierarchical, or not of 8 bits.
    """
    reader = _Reader(data)
    reader.read()
    frame = reader.frame
    if frame is None or not reader.scans:
        raise damaged()
    _check_scans(frame, reader.scans)
    keeps_coefficients = _needs_coefficients(frame, reader.scans)
    if not reader.may_be_complete(frame):
        raise damaged()
    blocks_of_scans = _all_blocks(frame, reader.scans)
    if not reader.has_end and keeps_coefficients and blocks_of_scans > _MAX_BLOCKS_COMPARED:
        raise damaged()
    colors = len(frame.components)
    image_bytes = frame.width * frame.height * (1 if colors == 1 else 4)
    header = PictureHeader(
        format="JPEG",
        width=frame.width,
        height=frame.height,
        orientation=reader.orientation,
        decoder_bytes=image_bytes + (frame.coefficient_bytes() if keeps_coefficients else 0),
        image_bytes=image_bytes,
        most_pixels=_MOST_PIXELS_OF_SEVERAL_SCANS if keeps_coefficients else _MOST_PIXELS,
        parts=tuple(reader.parts),
        # Of a gray one that is not upright, Pillow keeps one byte a pixel beside the upright three.
        turbo_reads=colors == 3 or (colors == 1 and reader.orientation == 1),
    )
    if max(frame.width, frame.height) > _LONGEST_CHECKED_SIDE:
        return header
    # A scan of one component has no blocks beyond the picture; others are padded to whole groups of blocks.
    across, down = (1, 1) if keeps_coefficients else frame.sampling
    width, height = _up_to(8 * across, frame.width), _up_to(8 * down, frame.height)
    blocks = replace(header, width=width, height=height, orientation=1, parts=reader.parts_for(width, height))
    if keeps_coefficients:
        # With its end marker it has every scan. Comparing would decode every ordinary picture five times, only to find
        # a scan that was truncated and given an end marker.
        if reader.has_end:
            return header
        return replace(header, blocks=blocks, fillings=3)
    parts_for = reader.parts_for
    if 0 < 8 * across * reader.last_units <= _LONGEST_CHECKED_SIDE:
        # Data after a restart decodes alone: only the last part can be truncated, and it is decoded as a strip.
        width, height, parts_for = 8 * across * reader.last_units, 8 * down, reader.last_segment_for
        blocks = replace(blocks, width=width, height=height, parts=parts_for(width, height))
    longer = height + 8 * down
    probe = replace(blocks, height=longer, parts=parts_for(width, longer))
    return replace(header, blocks=blocks, fillings=1, probe=probe, group=(across, down))


def _least_bits(frame: _Frame, scan: _Scan) -> int:
    """The fewest bits that a scan's data can have: no code has less than one."""
    if not frame.progressive:
        return 2 * frame.blocks(scan.components)  # the difference, and the end of the block
    return frame.blocks(scan.components) if scan.first == 0 else 1


def _up_to(multiple: int, side: int) -> int:
    return -(-side // multiple) * multiple


def _needs_coefficients(frame: _Frame, scans: list[_Scan]) -> bool:
    return frame.progressive or len(scans[0].components) < len(frame.components)


def _all_blocks(frame: _Frame, scans: list[_Scan]) -> int:
    return sum(frame.blocks(scan.components) for scan in scans)


def _check_scans(frame: _Frame, scans: list[_Scan]) -> None:
    too_many = _needs_coefficients(frame, scans) and _all_blocks(frame, scans) > _MAX_BLOCKS
    if len(scans) > _MAX_SCANS or too_many:
        raise UnreadablePicture(
            "The JPEG has too many scans for its size; save it as an ordinary one, not progressive.",
            reason="too_many_scans",
        )


def _read_frame(marker: int, body: memoryview) -> _Frame:
    if marker not in {_BASELINE, _EXTENDED, _PROGRESSIVE} or bytes(body[:1]) != b"\x08":
        raise UnsupportedPicture(
            "This kind of JPEG is not taken; save it as an ordinary one, of 8 bits a color.", reason="unknown_format"
        )
    count = body[5] if len(body) > 5 else 0
    if count not in {1, 3, 4} or len(body) < 6 + 3 * count:
        raise damaged()
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    components = tuple(_Component(body[at], body[at + 1] >> 4, body[at + 1] & 15) for at in range(6, 6 + 3 * count, 3))
    sampled = all(1 <= each.across <= 4 and 1 <= each.down <= 4 for each in components)
    if not (width and height) or not sampled or len({each.number for each in components}) < count:
        raise damaged()
    return _Frame(marker == _PROGRESSIVE, width, height, components)
