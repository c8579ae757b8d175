"""Reads AVIF and HEIC files: the header of each coded picture in them, and the items that decide pixels.

The sizes that a container states are not believed: a decoder goes by those of the coded pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from edge_service.vision.formats.bits import Bits
from edge_service.vision.formats.boxes import Item, Reader, crop_of, orientation_of, read_still, write_still
from edge_service.vision.formats.header import PictureHeader, damaged
from shared.errors import UnsupportedPicture

# Decoding takes up to 0.06 (AVIF) or 0.15 (HEIC) microseconds a pixel. Phones write HEIC of 24 megapixels.
_MOST_PIXELS: Final = 25_000_000
# Of the final picture, which is part of the peak here.
_FINAL_BYTES: Final = 3
_MAX_TILES: Final = 512
_LEAST_TILE: Final = 64
# Kinds of AV1's parts (OBUs), by number (AV1 Bitstream Specification, 6.2.2).
_SEQUENCE, _DELIMITER, _FRAME_HEADER, _TILES, _METADATA, _FRAME, _PADDING = 1, 2, 3, 4, 5, 6, 15
_MAX_PARTS: Final = 4096
_HEADER_BYTES: Final = 256
# Kinds of HEVC's parts (NAL units), by number (ITU-T H.265, table 7-1): pictures, of which a still is one that is
# decoded by itself; parameters; and what says nothing of pixels.
_INTRA, _VIDEO, _SEQUENCE_SET, _PICTURE_SET = range(16, 24), 32, 33, 34
_SAYS_NOTHING: Final = frozenset({35, 38, 39, 40})
_CHROMA_UNITS: Final = {0: (1, 1), 1: (2, 2), 2: (2, 1), 3: (1, 1)}
_MOST_PADDING: Final = 64


@dataclass(frozen=True, slots=True)
class _Coded:
    """Width and height of a coded picture in pixels, and whether its values have more than 8 bits."""

    width: int
    height: int
    deep: bool


@dataclass(frozen=True, slots=True)
class _Codec:
    """A codec, as items name it, and the most memory that decoding and converting take.

    In bytes a pixel, as measured with full color: of values of 8 bits, and so much more of deeper ones and with
    transparency.
    """

    format: Literal["AVIF", "HEIC"]
    item: bytes
    brand: bytes
    pixel_bytes: int
    deep_bytes: int
    alpha_bytes: int


_AVIF: Final = _Codec("AVIF", b"av01", b"avif", 11, 4, 3)
_HEIC: Final = _Codec("HEIC", b"hvc1", b"heic", 10, 6, 4)
_CODECS: Final = {codec.item: codec for codec in (_AVIF, _HEIC)}


def read_heif(data: bytes) -> PictureHeader:
    """Reads the header of an AVIF or HEIC file.

    Raises:
        UnsupportedPicture: of another codec, or with what no camera writes, such as layers.
        UnreadablePicture: damaged, animated, or of too many parts.
    """
    still = read_still(data)
    tiled = still.primary.kind == b"grid"
    codec = _CODECS.get(still.primary.tiles[0].kind if tiled and still.primary.tiles else still.primary.kind)
    if codec is None:
        raise _unsupported()
    coded = _check(still.primary, codec)
    alpha = [] if still.alpha is None else _check(still.alpha, codec)
    if still.alpha is not None and still.alpha.size() != still.primary.size():
        raise damaged()
    width, height = crop_of(still.primary)
    if codec is _AVIF and (width, height) != still.primary.size():  # libavif would show all of it
        raise _unsupported()
    pixels = sum(one.width * one.height for one in coded)
    deep = any(one.deep for one in (*coded, *alpha))
    most = pixels * (codec.pixel_bytes + deep * codec.deep_bytes + bool(alpha) * codec.alpha_bytes)
    return PictureHeader(
        format=codec.format,
        width=width,
        height=height,
        orientation=orientation_of(still.primary),
        decoder_bytes=most,
        image_bytes=most - _FINAL_BYTES * width * height,
        most_pixels=_MOST_PIXELS,
        parts=tuple(write_still(still, codec.brand)),
        file_copies=3,
    )


def _check(item: Item, codec: _Codec) -> list[_Coded]:
    """The coded pictures of an item, whose sizes are those that the item states."""
    if item.kind != b"grid":
        if item.tiles:
            raise damaged()
        return [_coded(item, codec)]
    width, height, columns, rows = _grid(item.data)
    if (width, height) != item.size() or len(item.tiles) != columns * rows or len(item.tiles) > _MAX_TILES:
        raise damaged()
    tile_width, tile_height = item.tiles[0].size()
    across = tile_width * (columns - 1) < width <= tile_width * columns
    down = tile_height * (rows - 1) < height <= tile_height * rows
    if not (across and down) or min(tile_width, tile_height) < _LEAST_TILE:
        raise damaged()
    if len({*item.tiles}) < len(item.tiles) or any(tile.size() != (tile_width, tile_height) for tile in item.tiles):
        raise damaged()
    return [_coded(tile, codec) for tile in item.tiles]


def _grid(data: memoryview) -> tuple[int, int, int, int]:
    """Width, height, columns and rows of a grid."""
    reader = Reader(data)
    reader.take(1)
    size = 4 if reader.uint(1) & 1 else 2
    rows, columns = reader.uint(1) + 1, reader.uint(1) + 1
    return reader.uint(size), reader.uint(size), columns, rows


def _coded(item: Item, codec: _Codec) -> _Coded:
    if item.kind != codec.item:
        raise damaged()
    found = _av1(item.data) if codec is _AVIF else _hevc(item)
    if (found.width, found.height) != item.size():
        raise damaged()
    return found


def _av1(data: memoryview) -> _Coded:
    """The header of an AV1 picture; it has one sequence header, then one frame."""
    sequence: _Coded | None = None
    frames = parts = 0
    reader = Reader(data)
    while len(reader.rest()):
        head = reader.uint(1)
        kind, layered, sized = head >> 3 & 15, head & 4, head & 2
        if layered or kind not in {_SEQUENCE, _DELIMITER, _FRAME_HEADER, _TILES, _METADATA, _FRAME, _PADDING}:
            raise _unsupported()
        body = reader.take(_leb128(reader) if sized else len(reader.rest()))
        parts += 1
        if kind == _SEQUENCE:
            if sequence is not None:
                raise damaged()
            sequence = _av1_sequence(Bits(bytes(body[:_HEADER_BYTES])))
        frames += kind in {_FRAME, _FRAME_HEADER}
        if parts > _MAX_PARTS or frames > 1 or (frames and sequence is None):
            raise damaged()
    if sequence is None or not frames:
        raise damaged()
    return sequence


def _leb128(reader: Reader) -> int:
    value = 0
    for place in range(8):
        byte = reader.uint(1)
        value |= (byte & 0x7F) << (7 * place)
        if not byte & 0x80:
            return value
    raise damaged()


def _av1_sequence(bits: Bits) -> _Coded:
    """AV1 Bitstream Specification, 5.5."""
    bits.take(3)  # profile
    bits.take()  # still picture
    reduced = bits.take()
    if reduced:
        bits.take(5)
    else:
        _av1_operating_points(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    width, height = bits.take(width_bits) + 1, bits.take(height_bits) + 1
    if not reduced and bits.take():  # frame ids
        bits.take(7)
    bits.take(3)
    if not reduced:
        _av1_tools(bits)
    bits.take(3)
    return _Coded(width, height, bool(bits.take()))


def _av1_operating_points(bits: Bits) -> None:
    delay_bits = 0
    if bits.take():  # timing
        bits.take(64)
        if bits.take():
            bits.golomb()
        if bits.take():  # a model of the decoder
            delay_bits = bits.take(5) + 1
            bits.take(42)
    display_delay = bits.take()
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:  # level
            bits.take()
        if delay_bits and bits.take():
            bits.take(2 * delay_bits + 1)
        if display_delay and bits.take():
            bits.take(4)


def _av1_tools(bits: Bits) -> None:
    bits.take(4)
    ordered = bits.take()
    if ordered:
        bits.take(2)
    screen_content = 1 if bits.take() else bits.take()
    if screen_content and not bits.take():
        bits.take()
    if ordered:
        bits.take(3)


def _hevc(item: Item) -> _Coded:
    """The header of an HEVC picture; it has one set of parameters, apart from its data, and one picture."""
    config = Reader(item.property(b"hvcC"))
    config.take(21)
    length_size = (config.uint(1) & 3) + 1
    sequences: list[bytes] = []
    for _ in range(config.uint(1)):
        kind = config.uint(1) & 63
        for _ in range(config.uint(2)):
            unit = config.take(config.uint(2))
            if kind == _SEQUENCE_SET:
                sequences.append(bytes(unit[:_HEADER_BYTES]))
            elif kind not in {_VIDEO, _PICTURE_SET} | _SAYS_NOTHING:
                raise _unsupported()
    if len(sequences) != 1 or len(sequences[0]) < 3 or sequences[0][0] >> 1 & 63 != _SEQUENCE_SET:
        raise damaged()
    _one_picture(Reader(item.data), length_size)
    return _hevc_sequence(Bits(sequences[0][2:].replace(b"\0\0\3", b"\0\0")))


def _one_picture(reader: Reader, length_size: int) -> None:
    pictures = parts = 0
    while len(reader.rest()):
        unit = reader.take(reader.uint(length_size))
        if len(unit) < 3:
            raise damaged()
        kind, layer = unit[0] >> 1 & 63, (unit[0] & 1) << 5 | unit[1] >> 3
        if layer or (kind not in _INTRA and kind not in _SAYS_NOTHING):
            raise _unsupported()
        parts += 1
        pictures += kind in _INTRA and unit[2] >> 7
        if pictures > 1 or parts > _MAX_PARTS:
            raise damaged()
    if not pictures:
        raise damaged()


def _hevc_sequence(bits: Bits) -> _Coded:
    """ITU-T H.265, 7.3.2.2."""
    bits.take(4)
    layers = bits.take(3)
    bits.take()
    bits.take(96)  # profile and level
    present = [(bits.take(), bits.take()) for _ in range(layers)]
    if layers:
        bits.take(2 * (8 - layers))
    for profile, level in present:
        bits.take(88 * profile + 8 * level)
    bits.golomb()
    chroma = bits.golomb()
    if chroma not in _CHROMA_UNITS:
        raise damaged()
    if chroma == 3:
        bits.take()
    width, height = bits.golomb(), bits.golomb()
    across = down = 0
    if bits.take():  # a window, in units of chroma
        left, right, top, bottom = (bits.golomb() for _ in range(4))
        unit_width, unit_height = _CHROMA_UNITS[chroma]
        across, down = unit_width * (left + right), unit_height * (top + bottom)
    if not (across < _MOST_PADDING and down < _MOST_PADDING and across < width and down < height):
        raise damaged()
    deep = bits.golomb() > 0 or bits.golomb() > 0
    return _Coded(width - across, height - down, deep)


def _unsupported() -> UnsupportedPicture:
    return UnsupportedPicture(
        "The picture is of a kind of AVIF or HEIC that no camera writes; export it as a plain JPEG.",
        reason="unknown_format",
    )
