"""AVIF and HEIC: what a file states is checked in its coded pictures, and nothing else reaches a decoder."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_service.settings import PictureLimits
from edge_service.vision import formats
from edge_service.vision.decode import decode, inspect
from edge_service.vision.formats.bits import Bits
from edge_service.vision.formats.boxes import Property, read_still, write_still
from shared.errors import TooLarge, UnreadablePicture, UnsupportedPicture
from tests.support.edge import pixels
from tests.support.hostile_pictures import heif_grid

LIMITS = PictureLimits()
HEIC = {path.stem: path.read_bytes() for path in (Path(__file__).parent / "heic").glob("*.heic")}
PICTURE = Image.fromarray(pixels("collins/portrait.png")).resize((96, 64))
decodes_heic = pytest.mark.skipif("HEIC" not in formats.FORMATS, reason="the optional package pi-heif is not installed")


def avif(image: Image.Image = PICTURE, **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, "AVIF", **{"quality": 95} | options)
    return target.getvalue()


def read(data: bytes) -> tuple[int, int]:
    """Width and height by the header, whether or not the format is decoded here."""
    header = formats.read_heif(data)
    return header.width, header.height


def changed(file: bytes, data: bytes) -> bytes:
    """A file whose picture's data are these."""
    still = read_still(file)
    still.primary.data = memoryview(data)
    return b"".join(write_still(still, b"avif" if still.primary.kind == b"av01" else b"heic"))


def data_of(file: bytes) -> bytes:
    return bytes(read_still(file).primary.data)


FILES = {"AVIF": avif(), "HEIC": HEIC["small"]}
GRIDS = {name: heif_grid(file, 3, 2, width=240, height=100) for name, file in FILES.items()}


@decodes_heic
@pytest.mark.parametrize(("name", "size", "off"), [("small", (96, 64), 3), ("odd", (97, 65), 6), ("deep", (96, 64), 6)])
def test_heic_gives_the_pixels_that_went_in(name: str, size: tuple[int, int], off: float) -> None:
    expected = np.asarray(Image.fromarray(pixels("collins/portrait.png")).resize(size))
    found = decode(HEIC[name], LIMITS)
    assert (found.shape, found.dtype) == (expected.shape, np.uint8)
    assert np.abs(found.astype(int) - expected).mean() <= off


@decodes_heic
def test_a_transparent_heic_lies_on_white() -> None:
    found = decode(HEIC["alpha"], LIMITS)
    assert found[0].mean() > 250
    assert np.abs(found[-1].astype(int) - np.asarray(PICTURE)[-1]).mean() < 10


def test_a_transparent_avif_lies_on_white() -> None:
    clear = PICTURE.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(PICTURE.size))
    white = Image.new("RGBA", PICTURE.size, (255, 255, 255, 255))
    expected = np.asarray(Image.alpha_composite(white, clear).convert("RGB")).astype(int)
    assert np.abs(decode(avif(clear), LIMITS) - expected).mean() < 4
    tiles = decode(heif_grid(avif(clear), 2, 1), LIMITS)
    assert np.abs(tiles - np.concatenate([expected, expected], axis=1)).mean() < 4


@pytest.mark.parametrize("name", [pytest.param("HEIC", marks=decodes_heic), "AVIF"])
def test_a_picture_of_tiles_is_put_together(name: str) -> None:
    tile, found = decode(FILES[name], LIMITS), decode(GRIDS[name], LIMITS)
    assert found.shape == (100, 240, 3)
    expected = np.tile(tile, (2, 3, 1))[:100, :240].astype(int)
    assert np.abs(found - expected).mean() < 0.5  # halved color is blended where tiles meet


@pytest.mark.parametrize("name", FILES)
def test_the_header_says_the_size(name: str) -> None:
    assert read(FILES[name]) == (96, 64)
    assert read(GRIDS[name]) == (240, 100)


@pytest.mark.parametrize("name", FILES)
def test_a_size_that_is_not_the_coded_pictures_hides_nothing(name: str) -> None:
    for stated in ((64, 64), (96, 63), (4000, 4000), (0, 64)):
        sides = b"".join(side.to_bytes(4, "big") for side in stated)
        lying = FILES[name].replace(b"ispe" + bytes(4) + bytes([0, 0, 0, 96, 0, 0, 0, 64]), b"ispe" + bytes(4) + sides)
        assert lying != FILES[name]
        with pytest.raises(UnreadablePicture):
            read(lying)


def test_a_bomb_is_refused_from_its_header() -> None:
    tile = avif(Image.new("RGB", (512, 512)), speed=10)
    bomb = heif_grid(tile, 20, 20)
    assert len(bomb) < 400_000
    with pytest.raises(TooLarge) as refused:
        inspect(bomb, LIMITS)
    assert refused.value.reason == "too_many_pixels"
    with pytest.raises(UnreadablePicture):
        read(heif_grid(avif(), 40, 20))  # 800 tiles


def test_a_picture_is_coded_in_one_frame_and_has_one_header() -> None:
    data = data_of(FILES["AVIF"])
    header = data[: 2 + data[1]] if data[0] >> 3 == 1 else data[2 : 4 + data[3]]
    frame = data[data.index(header) + len(header) :]
    assert read(changed(FILES["AVIF"], header + frame)) == (96, 64)
    for broken in (header + frame * 2, header * 2 + frame, frame, header, frame + header, b"", data[:-1]):
        with pytest.raises((UnreadablePicture, UnsupportedPicture)):
            read(changed(FILES["AVIF"], broken))
    layered = bytes([frame[0] | 4]) + b"\0" + frame[1:]
    with pytest.raises(UnsupportedPicture):
        read(changed(FILES["AVIF"], header + layered))


def test_an_hevc_picture_is_one_and_its_parameters_stand_apart() -> None:
    data = data_of(HEIC["small"])
    parameters = b"\0\0\0\4" + bytes([33 << 1, 1, 0, 0])
    another_layer = b"\0\0\0\4" + bytes([19 << 1 | 1, 1, 128, 0])
    not_alone = b"\0\0\0\4" + bytes([1 << 1, 1, 128, 0])
    for broken in (data * 2, parameters + data, data + another_layer, data + not_alone, b"", data[:-1], data + b"\0\0"):
        with pytest.raises((UnreadablePicture, UnsupportedPicture)):
            read(changed(HEIC["small"], broken))


@pytest.mark.parametrize("name", FILES)
def test_a_grid_has_as_many_tiles_as_its_picture_needs(name: str) -> None:
    for columns, rows, width, height in ((3, 2, 192, 100), (3, 2, 300, 100), (3, 2, 240, 64), (3, 2, 240, 200)):
        with pytest.raises(UnreadablePicture):
            read(heif_grid(FILES[name], columns, rows, width=width, height=height))
    still = read_still(GRIDS[name])
    for tiles in ([still.primary.tiles[0]] * 6, still.primary.tiles[:5], []):
        still.primary.tiles[:] = tiles
        with pytest.raises((UnreadablePicture, UnsupportedPicture)):
            read(b"".join(write_still(still, name.lower().encode())))


@pytest.mark.parametrize("name", FILES)
def test_tiles_that_share_their_bytes_are_refused(name: str) -> None:
    """Else a file of a few kilobytes could hold hundreds of tiles."""
    whole = GRIDS[name]
    tiles = read_still(whole).primary.tiles
    places = [whole.index(bytes(tiles[0].data)) + at * len(tiles[0].data) for at in range(len(tiles))]
    shared = whole[: places[1]]
    for place in places[1:]:
        shared = shared.replace(place.to_bytes(4, "big"), places[0].to_bytes(4, "big"))
    size = (8 + 12 + len(tiles[0].data)).to_bytes(4, "big")
    at = shared.index(b"mdat")
    shared = shared[: at - 4] + size + shared[at:]
    with pytest.raises(UnreadablePicture):
        read(shared)


def test_what_decides_no_pixel_is_not_given_to_the_decoder() -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    laden = avif(exif=exif.tobytes(), xmp=b"y" * 60_000, icc_profile=b"z" * 60_000)
    assert len(laden) > 180_000
    assert len(inspect(laden, LIMITS).file()) == len(inspect(FILES["AVIF"], LIMITS).file())
    assert (decode(laden, LIMITS) == decode(FILES["AVIF"], LIMITS)).all()


@pytest.mark.parametrize("essential", [True, False])
def test_a_property_that_must_be_known_and_is_not_is_refused(essential: bool) -> None:
    still = read_still(FILES["AVIF"])
    still.primary.properties.append(Property(b"auxC", memoryview(b"\0\0"), essential))
    file = b"".join(write_still(still, b"avif")).replace(b"auxC\0\0", b"lsel\0\0")
    if not essential:
        assert read(file) == (96, 64)
        return
    with pytest.raises(UnsupportedPicture):
        read(file)


def test_other_codecs_and_a_film_are_refused() -> None:
    for other in (b"vvc1", b"jpeg", b"iden", b"unci"):
        with pytest.raises(UnsupportedPicture):
            read(FILES["AVIF"].replace(b"av01", other))
    film = b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + b"\0\0\0\x08moov"
    with pytest.raises(UnsupportedPicture):
        decode(film, LIMITS)


def test_a_format_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "FORMATS", ("JPEG", "PNG", "WEBP", "AVIF"))
    with pytest.raises(UnsupportedPicture, match="does not take HEIC") as refused:
        decode(HEIC["small"], LIMITS)
    assert refused.value.reason == "format_not_installed"
    assert decode(FILES["AVIF"], LIMITS).shape == (64, 96, 3)


def test_numbers_of_any_length_are_read_and_endless_ones_refused() -> None:
    assert [Bits(bytes([code])).golomb() for code in (0b10000000, 0b01000000, 0b01100000, 0b00100000)] == [0, 1, 2, 3]
    for endless in (b"", bytes(4), bytes(64)):
        with pytest.raises(UnreadablePicture):
            Bits(endless).golomb()


def test_an_item_without_a_tile_is_written_and_read_alike() -> None:
    still = read_still(FILES["AVIF"])
    again = read_still(b"".join(write_still(still, b"avif")))
    assert bytes(again.primary.data) == bytes(still.primary.data)
    assert again.primary.size() == (96, 64)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    file=st.sampled_from([*FILES.values(), *GRIDS.values(), HEIC["odd"], HEIC["alpha"], HEIC["deep"]]),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=8),
    early=st.booleans(),
)
def test_bytes_changed_or_cut_off_are_decoded_or_refused(
    file: bytes, cut: float, flips: list[tuple[float, int]], early: bool
) -> None:
    broken = bytearray(file)
    for place, change in flips:  # most of them among the boxes
        broken[int(place * (min(600, len(broken)) if early else len(broken)))] ^= change
    data = bytes(broken[: round(len(broken) * cut)] if cut < 0.5 else broken)
    try:
        found = decode(data, PictureLimits(max_pixels=200_000))
    except (TooLarge, UnsupportedPicture, UnreadablePicture):
        return
    assert found.shape[2] == 3
