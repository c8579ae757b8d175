"""Reads and writes the boxes of HEIF files (ISO/IEC 23008-12), the container of AVIF and HEIC.

A file is read into the items that decide pixels, and the decoder gets a new file of only those: none of the hundred
ways in which items can refer to bytes and to each other reaches it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from edge_service.vision.formats.header import animated, damaged
from shared.errors import UnsupportedPicture

# Phones write some 60 items, 48 of them tiles, and as many references; encoders of huge pictures a few hundred tiles.
_MAX_ITEMS: Final = 1024
_MAX_BOXES: Final = 2048
_MAX_EXTENTS: Final = 32
_BRANDS: Final = frozenset({b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_MAX_BRANDS: Final = 32
_ALPHA: Final = frozenset({b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1"})
_LARGE, _TO_END = 1, 0  # sizes of boxes with a meaning
_IN_FILE, _IN_IDAT = 0, 1  # construction methods of items
# Of the properties, those that a decoder needs. Color profiles are left out, as of the other formats.
_KEPT: Final = frozenset({b"ispe", b"pixi", b"av1C", b"hvcC", b"auxC", b"colr", b"clap"})
_READ_HERE: Final = frozenset({b"irot", b"imir"})
# In this order, each once at most (MIAF, ISO/IEC 23000-22).
_CHANGES: Final = (b"clap", b"irot", b"imir")


@dataclass(frozen=True, slots=True, eq=False)
class Property:
    """A property of an item: its type, its content, and whether a reader must know it."""

    kind: bytes
    body: memoryview
    essential: bool


@dataclass(slots=True, eq=False)
class Item:
    """An item of a HEIF file.

    Attributes:
        kind: such as ``av01``, ``hvc1``, ``grid``.
        data: its bytes.
        properties: in their order.
        tiles: of a grid, in their order.
    """

    kind: bytes
    data: memoryview = field(default_factory=lambda: memoryview(b""))
    properties: list[Property] = field(default_factory=list)
    tiles: list[Item] = field(default_factory=list)

    def property(self, kind: bytes) -> memoryview:
        """The content of its only property of a kind.

        Raises:
            UnreadablePicture: it has none, or several.
        """
        found = [one.body for one in self.properties if one.kind == kind]
        if len(found) != 1:
            raise damaged()
        return found[0]

    def size(self) -> tuple[int, int]:
        """Width and height, by its property ``ispe``."""
        reader = Reader(self.property(b"ispe"))
        reader.take(4)
        return reader.uint(4), reader.uint(4)


@dataclass(frozen=True, slots=True, eq=False)
class Still:
    """The picture of a HEIF file: its item, and the item with its transparency."""

    primary: Item
    alpha: Item | None

    @property
    def items(self) -> list[Item]:
        """All items that decide pixels."""
        roots = [self.primary] if self.alpha is None else [self.primary, self.alpha]
        return [item for root in roots for item in (root, *root.tiles)]


class Reader:
    """Reads big-endian values, and refuses a file that ends too early.

    Args:
        view: what to read.
    """

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def take(self, count: int) -> memoryview:
        """The next bytes.

        Raises:
            UnreadablePicture: there are fewer.
        """
        found = self._view[self._at : self._at + count]
        if len(found) < count:
            raise damaged()
        self._at += count
        return found

    def uint(self, size: int) -> int:
        """The next whole number, of so many bytes."""
        return int.from_bytes(self.take(size), "big")

    def rest(self) -> memoryview:
        """All that was not read."""
        return self._view[self._at :]


def is_heif(data: bytes) -> bool:
    """Whether these bytes begin as a HEIF file of a still picture, or of an animation, does."""
    if data[4:8] != b"ftyp":
        return False
    brands = data[8 : min(int.from_bytes(data[:4], "big"), 16 + 4 * _MAX_BRANDS)]
    return not _BRANDS.isdisjoint(brands[at : at + 4] for at in (0, *range(8, len(brands), 4)))


def read_still(data: bytes) -> Still:
    """The items that decide the pixels of a HEIF file.

    Raises:
        UnreadablePicture: damaged, animated, or of too many parts.
        UnsupportedPicture: an item has a property that must be known and is not.
    """
    view = memoryview(data)
    top = _boxes(view)
    if any(kind == b"moov" for kind, _ in top):
        raise animated()
    meta = Reader(_only(top, b"meta"))
    meta.take(4)
    parts = _boxes(meta.rest())
    items = _items(_only(parts, b"iinf"))
    _locate(items, _only(parts, b"iloc"), view, next((body for kind, body in parts if kind == b"idat"), view[:0]))
    _describe(items, _only(parts, b"iprp"))
    references = _references(next((body for kind, body in parts if kind == b"iref"), None))
    pitm = Reader(_only(parts, b"pitm"))
    primary = pitm.uint(4 if pitm.uint(4) >> 24 else 2)
    alphas = [
        source
        for kind, source, targets in references
        if kind == b"auxl" and primary in targets and _alpha(items, source)
    ]
    for kind, source, targets in references:
        if kind == b"dimg" and source in {primary, *alphas[:1]}:
            if _item(items, source).tiles or any(_item(items, target).kind == b"grid" for target in targets):
                raise damaged()
            _item(items, source).tiles = [_item(items, target) for target in targets]
    still = Still(_item(items, primary), _item(items, alphas[0]) if alphas else None)
    for item in still.items:
        if any(one.essential and one.kind not in _KEPT | _READ_HERE for one in item.properties):
            raise UnsupportedPicture(
                "The picture asks its reader for more than is done here; export it as a plain JPEG.",
                reason="unknown_format",
            )
    if sum(len(item.data) for item in still.items) > len(data):  # parts that overlap
        raise damaged()
    return still


def orientation_of(item: Item) -> int:
    """The EXIF orientation that says the same as an item's rotation and mirroring, 1 to 8.

    Raises:
        UnreadablePicture: there are several, or they come in another order.
    """
    found = [(one.kind, one.body) for one in item.properties if one.kind in _CHANGES]
    kinds = [kind for kind, _ in found]
    if kinds != [kind for kind in _CHANGES if kind in kinds]:
        raise damaged()
    values = {kind: Reader(body).uint(1) for kind, body in found}
    angle = values.get(b"irot", 0) & 3  # quarter turns counterclockwise
    if b"imir" not in values:
        return (1, 8, 3, 6)[angle]
    # Axis 0 exchanges top and bottom, 1 left and right.
    return ((4, 5, 2, 7), (2, 7, 4, 5))[values[b"imir"] & 1][angle]


def crop_of(item: Item) -> tuple[int, int]:
    """Width and height of what an item shows: of its crop (``clap``), else of all.

    Raises:
        UnreadablePicture: the crop is no whole number of pixels, or larger than the item.
    """
    size = item.size()
    if not any(one.kind == b"clap" for one in item.properties):
        return size
    reader = Reader(item.property(b"clap"))
    shown = []
    for whole in size:
        pixels, over = reader.uint(4), reader.uint(4)
        if not over or pixels % over or not 0 < pixels // over <= whole:
            raise damaged()
        shown.append(pixels // over)
    return shown[0], shown[1]


def write_still(still: Still, brand: bytes) -> list[memoryview]:
    """A file with only these items, in parts: a new header, and their bytes as they were.

    Args:
        still: the items; of their properties, those that a decoder needs are written.
        brand: ``avif`` or ``heic``.
    """
    numbers = {id(item): number for number, item in enumerate(still.items, 1)}
    ftyp = _box(b"ftyp", brand + bytes(4) + b"mif1miaf" + brand)
    offset = len(ftyp) + len(_meta(still, numbers, 0)) + 8
    meta = _meta(still, numbers, offset)
    content = sum(len(item.data) for item in still.items)
    return [memoryview(ftyp + meta + struct.pack(">I4s", 8 + content, b"mdat")), *(item.data for item in still.items)]


def _meta(still: Still, numbers: dict[int, int], offset: int) -> bytes:
    entries, locations, owners = [], [], []
    described: dict[bytes, int] = {}
    for item in still.items:
        number = numbers[id(item)]
        entries.append(_box(b"infe", struct.pack(">IHH4sx", 2 << 24, number, 0, item.kind)))
        locations.append(struct.pack(">HHHII", number, 0, 1, offset, len(item.data)))
        offset += len(item.data)
        kept = [one for one in item.properties if one.kind in _KEPT and not _is_profile(one)]
        uses = [
            described.setdefault(_box(one.kind, bytes(one.body)), len(described) + 1) | one.essential << 15
            for one in kept
        ]
        owners.append(struct.pack(f">HB{len(uses)}H", number, len(uses), *uses))
    references = [_reference(b"dimg", item, item.tiles, numbers) for item in still.items if item.tiles]
    if still.alpha is not None:
        references.append(_reference(b"auxl", still.alpha, [still.primary], numbers))
    association = _box(b"ipma", struct.pack(">II", 1, len(owners)) + b"".join(owners))
    parts = [
        _box(b"hdlr", bytes(8) + b"pict" + bytes(13)),
        _box(b"pitm", struct.pack(">IH", 0, numbers[id(still.primary)])),
        _box(b"iloc", struct.pack(">IBBH", 0, 0x44, 0, len(locations)) + b"".join(locations)),
        _box(b"iinf", struct.pack(">IH", 0, len(entries)) + b"".join(entries)),
        _box(b"iprp", _box(b"ipco", b"".join(described)) + association),
        *([_box(b"iref", bytes(4) + b"".join(references))] if references else []),
    ]
    return _box(b"meta", bytes(4) + b"".join(parts))


def _is_profile(found: Property) -> bool:
    """Whether it holds a color profile; one that names colors by a number is kept."""
    return found.kind == b"colr" and bytes(found.body[:4]) != b"nclx"


def _reference(kind: bytes, source: Item, targets: Sequence[Item], numbers: dict[int, int]) -> bytes:
    ids = [numbers[id(target)] for target in targets]
    return _box(kind, struct.pack(f">HH{len(ids)}H", numbers[id(source)], len(ids), *ids))


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _boxes(view: memoryview) -> list[tuple[bytes, memoryview]]:
    """Type and content of each box, in order."""
    found: list[tuple[bytes, memoryview]] = []
    while len(view) >= 8:
        size, kind, head = int.from_bytes(view[:4], "big"), bytes(view[4:8]), 8
        if size == _LARGE:
            size, head = int.from_bytes(view[8:16], "big"), 16
        elif size == _TO_END:
            size = len(view)
        if not head <= size <= len(view) or len(found) >= _MAX_BOXES:
            raise damaged()
        found.append((kind, view[head:size]))
        view = view[size:]
    return found


def _only(boxes: Iterable[tuple[bytes, memoryview]], kind: bytes) -> memoryview:
    found = [body for one, body in boxes if one == kind]
    if len(found) != 1:
        raise damaged()
    return found[0]


def _item(items: dict[int, Item], number: int) -> Item:
    if number not in items:
        raise damaged()
    return items[number]


def _items(iinf: memoryview) -> dict[int, Item]:
    reader = Reader(iinf)
    reader.take(2 if not reader.uint(4) >> 24 else 4)
    found: dict[int, Item] = {}
    for kind, body in _boxes(reader.rest()):
        entry = Reader(body)
        version = entry.uint(4) >> 24
        if kind != b"infe" or version not in {2, 3}:
            raise damaged()
        number = entry.uint(2 if version == 2 else 4)
        entry.take(2)
        if number in found or len(found) >= _MAX_ITEMS:
            raise damaged()
        found[number] = Item(bytes(entry.take(4)))
    return found


def _locate(items: dict[int, Item], iloc: memoryview, file: memoryview, idat: memoryview) -> None:
    reader = Reader(iloc)
    version = reader.uint(4) >> 24
    sizes, more = reader.uint(1), reader.uint(1)
    offset_size, length_size, base_size, index_size = sizes >> 4, sizes & 15, more >> 4, more & 15
    number_size = 2 if version < 2 else 4
    located: set[int] = set()
    for _ in range(reader.uint(number_size)):
        number = reader.uint(number_size)
        method = reader.uint(2) & 15 if version else _IN_FILE
        elsewhere = reader.uint(2)
        base, count = reader.uint(base_size), reader.uint(2)
        extents = []
        if count > _MAX_EXTENTS or number in located:
            raise damaged()
        located.add(number)
        for _ in range(count):
            if version:
                reader.take(index_size)
            extents.append((base + reader.uint(offset_size), reader.uint(length_size)))
        if number in items and not elsewhere and method in {_IN_FILE, _IN_IDAT}:
            items[number].data = _joined(extents, file if method == _IN_FILE else idat)


def _joined(extents: Sequence[tuple[int, int]], place: memoryview) -> memoryview:
    """The bytes of an item; empty where they are not all there, which only a used item's reader minds."""
    parts = [place[start : start + length] for start, length in extents]
    if any(len(part) < length or not length for part, (_, length) in zip(parts, extents, strict=True)):
        return place[:0]
    if len(parts) == 1:
        return parts[0]
    return memoryview(b"".join(parts)) if sum(map(len, parts)) <= len(place) else place[:0]


def _describe(items: dict[int, Item], iprp: memoryview) -> None:
    parts = _boxes(iprp)
    known = _boxes(_only(parts, b"ipco"))
    for kind, body in parts:
        if kind != b"ipma":
            continue
        reader = Reader(body)
        head = reader.uint(4)
        wide, size = head & 1, 2 if head >> 24 < 1 else 4
        for _ in range(min(reader.uint(4), _MAX_ITEMS + 1)):
            number, count = reader.uint(size), reader.uint(1)
            for _ in range(count):
                value = reader.uint(2 if wide else 1)
                essential, place = bool(value >> (15 if wide else 7)), value & (0x7FFF if wide else 0x7F)
                if place > len(known):
                    raise damaged()
                if place and number in items:
                    items[number].properties.append(Property(*known[place - 1], essential))


def _references(iref: memoryview | None) -> list[tuple[bytes, int, list[int]]]:
    """Kind, source and targets of each reference between items."""
    if iref is None:
        return []
    reader = Reader(iref)
    size = 4 if reader.uint(4) >> 24 else 2
    found = []
    for kind, body in _boxes(reader.rest()):
        one = Reader(body)
        source, count = one.uint(size), one.uint(2)
        if count > _MAX_ITEMS:
            raise damaged()
        found.append((kind, source, [one.uint(size) for _ in range(count)]))
    return found


def _alpha(items: dict[int, Item], number: int) -> bool:
    kinds = [one.body[4:] for one in _item(items, number).properties if one.kind == b"auxC"]
    return any(bytes(kind[:64]).partition(b"\0")[0] in _ALPHA for kind in kinds)
