"""Picture files that cost as much as their format lets them, made by hand: few bytes, and always the same ones."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import ceil, isqrt

import numpy as np
from PIL import Image

from edge_service.vision.formats.boxes import Item, Property, Still, read_still, write_still

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
_CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
_PAETH = 4  # the slowest of PNG's row filters
# Adam7: first column and row, and the steps, of each pass.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def png(
    width: int, height: int, color: int = RGB, depth: int = 8, *, interlaced: bool = False, extra: bytes = b""
) -> bytes:
    """A black PNG whose every row has Paeth's filter.

    Args:
        width: in pixels.
        height: in pixels.
        color: the color type of the header.
        depth: bits of a sample.
        interlaced: in Adam7's seven passes.
        extra: whole chunks that stand before the pixels.
    """
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    packer = zlib.compressobj(1)
    parts = []
    for columns, rows in _png_passes(width, height) if interlaced else [(width, height)]:
        row = bytes([_PAETH]) + bytes(ceil(columns * _CHANNELS[color] * depth / 8))
        at_once = max(1, (1 << 20) // len(row))
        for first in range(0, rows, at_once):
            parts.append(packer.compress(row * min(at_once, rows - first)))
    parts.append(packer.flush())
    palette = png_chunk(b"PLTE", bytes(3 * (1 << depth))) if color == PALETTE else b""
    return b"".join(
        (
            PNG_SIGNATURE,
            png_chunk(b"IHDR", header),
            palette,
            extra,
            png_chunk(b"IDAT", b"".join(parts)),
            png_chunk(b"IEND", b""),
        )
    )


def _png_passes(width: int, height: int) -> Iterator[tuple[int, int]]:
    for x, y, across, down in _PASSES:
        columns, rows = ceil((width - x) / across), ceil((height - y) / down)
        if columns > 0 and rows > 0:
            yield columns, rows


def png_of_many_profiles(count: int, bytes_each: int = 1 << 20) -> bytes:
    """A PNG of 10 x 10 pixels with color profiles that each unpack to so many bytes."""
    profile = png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(bytes_each), 9))
    return png(10, 10, extra=profile * count)


def png_with_too_much_behind(width: int, height: int, packed_bytes: int) -> bytes:
    """A PNG whose packed pixels go on after the last row, in empty blocks that each bring a table of codes."""
    whole = png(width, height)
    start = whole.index(b"IDAT") - 4
    empty = b"\x00\x00\x00\xff\xff"  # a stored block of no bytes
    data = zlib.compress(b"\x00" * (height * (3 * width + 1)))[:2] + empty * (packed_bytes // len(empty))
    return whole[:start] + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


@dataclass(frozen=True)
class Scan:
    """One pass over a JPEG: which components, which coefficients, and their bits."""

    components: tuple[int, ...]
    first: int = 0
    last: int = 63
    high: int = 0
    low: int = 0


BASELINE, EXTENDED, PROGRESSIVE = 0xC0, 0xC1, 0xC2
# A table with one code of one bit for nothing at all: no difference, or the end of a block.
_ONE_CODE = bytes([1] + [0] * 15) + b"\x00"
# One code for "this block and the next 32,766 have nothing more", followed by 14 bits that say how many.
_LONG_RUN = bytes([1] + [0] * 15) + b"\xe0"


def segment(marker: int, data: bytes) -> bytes:
    """A marker with its length and data."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def jpeg(
    width: int,
    height: int,
    *,
    kind: int = BASELINE,
    sampling: Sequence[int] = (0x11, 0x11, 0x11),
    scans: Sequence[Scan] | None = None,
    extra: bytes = b"",
) -> bytes:
    """A grey JPEG of few bytes, for any order of scans.

    Args:
        width: in pixels.
        height: in pixels.
        kind: the marker of the frame.
        sampling: horizontal and vertical factors of each component.
        scans: absent, one scan of all components.
        extra: whole segments that stand before the frame.
    """
    count = len(sampling)
    scans = [Scan(tuple(range(count)))] if scans is None else scans
    frame = struct.pack(">BHHB", 8, height, width, count)
    frame += b"".join(bytes([position + 1, factors, 0]) for position, factors in enumerate(sampling))
    adobe = segment(0xEE, b"Adobe\0\x64\0\0\0\0\0") if count == 4 else b""
    tables = segment(0xC4, b"\x00" + _ONE_CODE + b"\x10" + _ONE_CODE + b"\x11" + _LONG_RUN)
    parts = [b"\xff\xd8", adobe, extra, segment(0xDB, b"\x00" + b"\x01" * 64), segment(kind, frame), tables]
    for scan in scans:
        parts += [_scan_header(scan, kind), _scan_data(scan, kind, width, height, sampling)]
    return b"".join(parts) + b"\xff\xd9"


def _scan_header(scan: Scan, kind: int) -> bytes:
    table = 0x01 if kind == PROGRESSIVE and scan.first else 0x00
    chosen = b"".join(bytes([component + 1, table]) for component in scan.components)
    tail = bytes([scan.first, scan.last, scan.high << 4 | scan.low])
    return segment(0xDA, bytes([len(scan.components)]) + chosen + tail)


def _scan_data(scan: Scan, kind: int, width: int, height: int, sampling: Sequence[int]) -> bytes:
    blocks = _blocks(scan.components, width, height, sampling)
    if kind != PROGRESSIVE:
        return bytes(ceil(2 * blocks / 8))  # no difference, end of the block: two bits, both zero
    if scan.first == 0:
        return bytes(ceil(blocks / 8))
    runs = ceil(blocks / 32767)  # a code of one bit and fourteen ones, as often as it takes
    bits = ("0" + "1" * 14) * runs
    packed = int(bits.ljust(ceil(len(bits) / 8) * 8, "1"), 2).to_bytes(ceil(len(bits) / 8), "big")
    return packed.replace(b"\xff", b"\xff\x00")


def _blocks(components: Sequence[int], width: int, height: int, sampling: Sequence[int]) -> int:
    across = max(factors >> 4 for factors in sampling)
    down = max(factors & 15 for factors in sampling)
    if len(components) == 1:
        factors = sampling[components[0]]
        columns, rows = ceil(width * (factors >> 4) / across), ceil(height * (factors & 15) / down)
        return ceil(columns / 8) * ceil(rows / 8)
    units = ceil(width / (8 * across)) * ceil(height / (8 * down))
    return units * sum((sampling[component] >> 4) * (sampling[component] & 15) for component in components)


def progressive_scans(components: int, count: int) -> list[Scan]:
    """So many scans of a progressive JPEG: the differences first, then all else of one component after the other."""
    scans = [Scan(tuple(range(components)), 0, 0)]
    scans += [Scan((position % components,), 1, 63) for position in range(count - 1)]
    return scans


def webp(width: int, height: int, *, alpha: bool = True) -> bytes:
    """A lossless WebP of one color: 38 bytes or so for up to 16,383 x 16,383 pixels."""
    bits: list[int] = []

    def put(value: int, length: int) -> None:
        bits.extend(value >> place & 1 for place in range(length))

    put(0x2F, 8)
    put(width - 1, 14)
    put(height - 1, 14)
    put(int(alpha), 1)
    put(0, 3)  # the version
    put(0, 1)  # no transform
    put(0, 1)  # no color cache
    put(0, 1)  # one set of codes
    for value in (20, 10, 30, 128, 0):  # green, red, blue, alpha, distance: a code of one symbol takes no bits
        put(1, 1)  # a simple code
        put(0, 1)  # of one symbol
        put(1, 1)  # which has eight bits
        put(value, 8)
    packed = bytes(sum(bit << place for place, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8))
    packed += bytes(len(packed) % 2)
    chunk = b"VP8L" + struct.pack("<I", len(packed)) + packed
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def sides(pixels: int) -> tuple[int, int]:
    """Width and height of about so many pixels, never more, at 3 to 2."""
    height = isqrt(pixels * 2 // 3)
    return pixels // height, height


def png_of_tables(width: int, height: int, packed_bytes: int) -> bytes:
    """A PNG whose packed pixels are one short block after the other, each with tables of codes of its own."""
    bits: list[int] = []

    def put(value: int, length: int) -> None:
        bits.extend(value >> place & 1 for place in range(length))

    def block(literals: int) -> None:
        put(0b100, 3)  # not the last; tables follow
        # 257 literals, one distance, lengths of 18 codes
        put(0, 5)
        put(0, 5)
        put(14, 4)
        for code in (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1):
            put(int(code in {1, 18}), 3)
        # A literal of one bit, 255 zeros, the end of the block and the distance of one bit each: 1 is "0", 18 is "1".
        put(0, 1)
        put(1, 1)
        put(138 - 11, 7)
        put(1, 1)
        put(117 - 11, 7)
        put(0, 1)
        put(0, 1)
        put(0, literals)  # as many zeros
        put(1, 1)  # the end of the block

    blocks, size = 0, height * (3 * width + 1)
    while True:  # until the blocks end at a whole byte
        block(13)
        blocks += 1
        if len(bits) % 8 == 0:
            break
    unit = bytes(sum(bit << place for place, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8))
    data = b"\x78\x01" + unit * min(packed_bytes // len(unit), -(-size // (13 * blocks)))
    whole = png(width, height)
    start = whole.index(b"IDAT") - 4
    return whole[:start] + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def turned(orientation: int) -> bytes:
    """An EXIF segment for a JPEG that says how the picture is to be turned."""
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    return segment(0xE1, b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4))


def largest_pictures() -> dict[str, Callable[[], bytes]]:
    """The largest picture of each format, mode and shape that is let in, by name."""
    named: dict[str, Callable[[], bytes]] = {}
    colors = {GREY: "grey", RGB: "RGB", PALETTE: "palette", GREY_ALPHA: "grey and alpha", RGBA: "RGBA"}
    depths_of = {GREY: (1, 8, 16), PALETTE: (1, 8), GREY_ALPHA: (8, 16), RGB: (8, 16), RGBA: (8, 16)}
    for color, depths in depths_of.items():
        for depth, interlaced in product(depths, (False, True)):
            name = f"PNG, {colors[color]}, {depth} bits{', interlaced' * interlaced}"
            named[name] = partial(png, *sides(24_900_000), color, depth, interlaced=interlaced)
    for interlaced in (False, True):
        shape = f"of 1,250 x 20,000{', interlaced' * interlaced}"
        named[f"PNG, RGB, 8 bits, {shape}"] = partial(png, 1250, 20_000, RGB, interlaced=interlaced)
    full, half, grey = (0x11, 0x11, 0x11), (0x22, 0x11, 0x11), (0x11,)
    forty, most, four = sides(39_900_000), sides(24_900_000), (0x11,) * 4
    named |= {
        "JPEG, grey": partial(jpeg, *forty, sampling=grey),
        "JPEG, grey, orientation 6": partial(jpeg, *forty, sampling=grey, extra=turned(6)),
        "JPEG, full color": partial(jpeg, *forty, sampling=full),
        "JPEG, halved color": partial(jpeg, *forty, sampling=half),
        "JPEG, CMYK": partial(jpeg, *forty, sampling=four),
        "JPEG, full color, without its end": lambda: jpeg(*forty, sampling=full)[:-2],
        "JPEG, a scan for each color": partial(jpeg, *most, sampling=full, scans=[Scan((0,)), Scan((1,)), Scan((2,))]),
        "JPEG, progressive, grey, 15 scans": partial(
            jpeg, *most, kind=PROGRESSIVE, sampling=grey, scans=progressive_scans(1, 15)
        ),
        "JPEG, progressive, full color, 12 scans": partial(
            jpeg, *most, kind=PROGRESSIVE, sampling=full, scans=progressive_scans(3, 12)
        ),
        "JPEG, progressive, halved color, 20 scans": partial(
            jpeg, *most, kind=PROGRESSIVE, sampling=half, scans=progressive_scans(3, 20)
        ),
        "JPEG, progressive, CMYK, 12 scans": partial(
            jpeg, *most, kind=PROGRESSIVE, sampling=four, scans=progressive_scans(4, 12)
        ),
        "JPEG, progressive, refined 3 times": partial(
            jpeg, *most, kind=PROGRESSIVE, sampling=full, scans=refining_scans(3)
        ),
        "WebP, RGBA, lossless": partial(webp, *sides(24_900_000)),
        "WebP, RGB, lossless": partial(webp, *sides(24_900_000), alpha=False),
    }
    named |= {f"AVIF, {mode}, tiles": partial(_avif_of_tiles, mode) for mode in ("RGB", "RGBA")}
    for orientation in range(2, 9):
        named[f"JPEG, full color, orientation {orientation}"] = partial(jpeg, *forty, extra=turned(orientation))
    return named


def refining_scans(count: int) -> list[Scan]:
    """A progressive picture of three colors that so many scans refine."""
    scans = [Scan((0, 1, 2), 0, 0), *(Scan((color,), 1, 63, 0, 1) for color in range(3))]
    return scans + [Scan((position % 3,), 1, 63, 1, 0) for position in range(count)]


def costly_files() -> dict[str, Callable[[], bytes]]:
    """Files that are made to cost time rather than memory, by name."""
    return {
        "PNG, 3,900 profiles": partial(png_of_many_profiles, 3900),
        "PNG, 15 MB of tables of codes": partial(png_of_tables, *sides(5_700_000), 15_000_000),
        "PNG, 15 MB behind the last row": partial(png_with_too_much_behind, 10, 10, 15_000_000),
        "PNG, 1 x 39,999,999": partial(png, 1, 39_999_999),
        "WebP, 65,536 groups of code tables": partial(webp_of_tables, 1024, 1024),
        "WebP, 6,324 x 6,324, RGBA": partial(webp, 6324, 6324),
        "JPEG, an EXIF segment of 5,400 long values": partial(jpeg, 64, 64, extra=long_exif()),
    }


def long_exif() -> bytes:
    """An EXIF segment whose 5,400 entries each name nearly all of it as their value."""
    entries = b"".join(struct.pack(">HHII", 0x8000 + place, 7, 64_000, 8) for place in range(5400))
    return segment(0xE1, b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 5400) + entries + bytes(4))


def webp_of_tables(width: int, height: int) -> bytes:
    """A lossless WebP of one color with as many groups of code tables as there can be: one for each 4 x 4 pixels."""
    blocks = ceil(width / 4) * ceil(height / 4)
    groups = min(blocks, 1 << 16)
    bits, length = 0, 0

    def put(value: int, count: int) -> None:
        nonlocal bits, length
        bits |= value << length
        length += count

    for value, count in ((0x2F, 8), (width - 1, 14), (height - 1, 14), (0, 4)):
        put(value, count)
    # no transform, no color cache; groups, for blocks of 4 x 4
    put(0, 1)
    put(0, 1)
    put(1, 1)
    put(0, 3)
    put(0, 1)  # the image of groups has no color cache
    for symbols in (280, 256):  # green and red: 256 codes of eight bits
        put(0, 1)
        put(8, 4)
        put(1 << 33, 36)
        if symbols == 256:
            put(0, 1)
        else:
            put(1, 1)
            put(3, 3)
            put(254, 8)
    put(0x111, 12)  # blue, alpha and distance: one symbol
    reverse = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
    numbers = b"".join(bytes([reverse[place & 255], reverse[place >> 8 & 255]]) for place in range(groups))
    image = (numbers * (blocks // groups + 1))[: 2 * blocks]
    put(int.from_bytes(image, "little"), 8 * len(image))
    tables = b"\x11" * ceil(groups * 20 / 8)
    put(int.from_bytes(tables, "little"), 8 * len(tables))
    packed = bits.to_bytes(ceil(length / 8) + 8, "little")
    packed += bytes(len(packed) % 2)
    chunk = b"VP8L" + struct.pack("<I", len(packed)) + packed
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def heif_grid(tile: bytes, columns: int, rows: int, *, width: int = 0, height: int = 0) -> bytes:
    """An AVIF or HEIC file whose picture is one tile's, side by side, as phones write theirs.

    Args:
        tile: an AVIF or HEIC file.
        columns: of tiles.
        rows: of tiles.
        width: of the picture; 0: as wide as all tiles.
        height: of the picture; 0: as high as all tiles.
    """
    one = read_still(tile)

    def grid(item: Item, *more: Property) -> Item:
        across, down = width or item.size()[0] * columns, height or item.size()[1] * rows
        layout = struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, across, down)
        size = Property(b"ispe", memoryview(struct.pack(">III", 0, across, down)), essential=False)
        tiles = [Item(item.kind, item.data, list(item.properties)) for _ in range(columns * rows)]
        return Item(b"grid", memoryview(layout), [size, *more], tiles)

    alpha = one.alpha and grid(one.alpha, *(each for each in one.alpha.properties if each.kind == b"auxC"))
    brand = b"avif" if one.primary.kind == b"av01" else b"heic"
    return b"".join(write_still(Still(grid(one.primary), alpha), brand))


def _avif_of_tiles(mode: str) -> bytes:
    tile = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, len(mode)), np.uint8)
    Image.fromarray(noise).resize((512, 512)).save(tile, "AVIF", speed=8, subsampling="4:4:4")
    return heif_grid(tile.getvalue(), 12, 7)
