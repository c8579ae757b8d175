"""Only complete, still, bounded JPEG, PNG, WebP and AVIF pictures are decoded, upright and with their true colors."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from edge_service.settings import PictureLimits
from edge_service.vision.decode import decode
from shared.errors import TooLarge, UnreadablePicture, UnsupportedPicture
from tests.support.edge import encoded, pixels, sample

LIMITS = PictureLimits()
SMALL = PictureLimits(max_pixels=200_000)
ORIENTATION = 0x0112


def small(form: str = "PNG", **options: Any) -> bytes:
    """Collins at 96 x 64: no side equals another, so that a wrong turn shows."""
    image = Image.fromarray(pixels("collins/portrait.png")).resize((96, 64))
    return encoded(np.asarray(image), form, **options)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    """A PNG file with these compressed bytes as its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, form, **options)
    return target.getvalue()


@pytest.mark.parametrize(
    ("form", "options", "off"),
    [
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 8),
        ("JPEG", {"quality": 95}, 8),
        ("AVIF", {"quality": 95}, 8),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}, 1),
    ],
)
def test_every_format_gives_the_pixels_that_went_in(form: str, options: dict[str, Any], off: float) -> None:
    expected = np.asarray(Image.fromarray(pixels("collins/portrait.png")).resize((96, 64)))
    found = decode(small(form, **options), LIMITS)
    assert (found.shape, found.dtype, found.flags.c_contiguous) == ((64, 96, 3), np.uint8, True)
    assert np.abs(found.astype(int) - expected).mean() <= off


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "PPM", "ICO", "TGA"])
def test_other_formats_are_refused_whatever_they_hold(form: str) -> None:
    with pytest.raises(UnsupportedPicture, match="JPEG, PNG, WebP or AVIF"):
        decode(small(form), LIMITS)


@pytest.mark.parametrize("data", [b"hello, this is text " * 50, b"\x00" * 4096, b"%PDF-1.7 " * 99, b"<svg/>", b"\xff"])
def test_what_is_no_picture_is_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedPicture):
        decode(data, LIMITS)


def test_an_empty_file_is_said_to_be_empty() -> None:
    with pytest.raises(UnreadablePicture) as caught:
        decode(b"", LIMITS)
    assert caught.value.reason == "empty"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_picture_that_was_cut_off_is_damaged(form: str, share: float) -> None:
    whole = small(form)
    with pytest.raises(UnreadablePicture) as caught:
        decode(whole[: int(len(whole) * share)], LIMITS)
    assert caught.value.reason == "damaged"


def test_one_pixel_is_a_picture() -> None:
    assert decode(encoded(np.zeros((1, 1, 3), np.uint8)), LIMITS).shape == (1, 1, 3)


BOMBS = {
    "a header without pixels": png(30_000, 30_000, 8, 2, zlib.compress(bytes(64))),
    "the widest header there is": png(2**31 - 1, 2**31 - 1, 8, 2, zlib.compress(bytes(64))),
    "real zeros, packed": png(30_000, 30_000, 1, 0, zlib.compress(bytes(3751 * 30_000), 9)),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_from_its_header(bomb: bytes) -> None:
    assert len(bomb) < 200_000
    with pytest.raises(TooLarge, match="limit is 25000000") as caught:
        decode(bomb, LIMITS)
    assert caught.value.reason == "too_many_pixels"


def test_refusing_a_bomb_takes_no_memory() -> None:
    """In a process of its own, whose peak of memory is nobody else's."""
    program = (
        "import resource, sys\n"
        "from edge_service.settings import PictureLimits\n"
        "from edge_service.vision.decode import decode\n"
        "from shared.errors import TooLarge\n"
        "bomb = sys.stdin.buffer.read()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    decode(bomb, PictureLimits())\nexcept TooLarge:\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    for bomb in BOMBS.values():
        ended = subprocess.run([sys.executable, "-c", program], input=bomb, capture_output=True, timeout=60, check=True)
        assert int(ended.stdout) < 4096, "KiB more than before"


def test_the_limits_are_exact() -> None:
    picture = encoded(np.zeros((40, 50, 3), np.uint8))
    exact = {"max_bytes": 1024, "max_pixels": 2000}
    assert decode(picture, PictureLimits(**exact)).shape == (40, 50, 3)
    with pytest.raises(TooLarge) as pixels_over:
        decode(picture, PictureLimits(**exact | {"max_pixels": 1999}))
    padded = picture + bytes(1025 - len(picture))
    with pytest.raises(TooLarge) as bytes_over:
        decode(padded, PictureLimits(**exact))
    assert (pixels_over.value.reason, bytes_over.value.reason) == ("too_many_pixels", "too_many_bytes")


@pytest.mark.parametrize("form", ["PNG", "WEBP", "AVIF"])
def test_an_animation_is_refused(form: str) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green", "blue")]
    moving = saved(frames[0], form, save_all=True, append_images=frames[1:], duration=100)
    with pytest.raises(UnreadablePicture) as caught:
        decode(moving, LIMITS)
    assert caught.value.reason == "animated"


def test_a_phones_multi_picture_file_gives_its_first_picture() -> None:
    first, second = Image.new("RGB", (40, 30), (200, 30, 30)), Image.new("RGB", (20, 10), (30, 30, 200))
    several = saved(first, "MPO", save_all=True, append_images=[second])
    found = decode(several, LIMITS)
    assert found.shape == (30, 40, 3)
    assert np.abs(found.mean(axis=(0, 1)) - [200, 30, 30]).max() < 3


@pytest.mark.parametrize("orientation", [1, 6, 8])
@pytest.mark.parametrize("size", [(96, 64), (97, 65), (640, 427)])
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"subsampling": 0}),
        ("RGB", {"subsampling": 1}),
        ("RGB", {"subsampling": 2}),
        ("RGB", {"keep_rgb": True}),
        ("RGB", {"subsampling": 2, "restart_marker_rows": 1}),
        ("L", {}),
    ],
    ids=["444", "422", "420", "stored as RGB", "restarts", "gray"],
)
def test_a_jpeg_has_the_pixels_that_pillow_reads(
    mode: str, options: dict[str, Any], size: tuple[int, int], orientation: int
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = Image.fromarray(pixels("collins/portrait.png")).resize(size).convert(mode)
    data = saved(image, "JPEG", quality=90, exif=exif, **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    np.testing.assert_array_equal(decode(data, LIMITS), np.asarray(expected))


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    for colour in ([200, 40, 40], [40, 200, 40], [250, 250, 250], [10, 10, 10]):
        flat = Image.fromarray(np.full((16, 16, 3), colour, np.uint8)).convert("CMYK")
        found = decode(saved(flat, "JPEG", quality=95), LIMITS)
        assert np.abs(found.mean(axis=(0, 1)) - colour).max() < 5


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    levels = np.array([[0x0000, 0x4000, 0x8000, 0xC000, 0xFFFF]], dtype=">u2")
    grey = png(5, 1, 16, 0, zlib.compress(b"\x00" + levels.tobytes()))
    found = decode(grey, LIMITS)
    assert np.abs(found[0, :, 0].astype(int) - [0, 64, 128, 192, 255]).max() <= 1
    assert (found[:, :, :1] == found).all()


def test_sixteen_bit_colour_is_scaled() -> None:
    values = np.array([[0xFFFF, 0x8000, 0x0000]], dtype=">u2")
    found = decode(png(1, 1, 16, 2, zlib.compress(b"\x00" + values.tobytes())), LIMITS)
    assert np.abs(found[0, 0].astype(int) - [255, 128, 0]).max() <= 1


def translucent(mode: str) -> Image.Image:
    """Half transparent black on the left, solid black on the right."""
    rgba = np.zeros((4, 8, 4), np.uint8)
    rgba[:, 4:, 3] = 255
    return Image.fromarray(rgba).convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_lies_on_white(mode: str) -> None:
    found = decode(saved(translucent(mode), "PNG"), LIMITS)
    assert (found[:, :4] == 255).all()
    assert (found[:, 4:] == 0).all()


def test_a_transparent_webp_lies_on_white() -> None:
    found = decode(saved(translucent("RGBA"), "WEBP", lossless=True), LIMITS)
    assert (found[:, :4] == 255).all()
    assert (found[:, 4:] == 0).all()


def test_a_transparent_entry_of_a_palette_lies_on_white() -> None:
    image = Image.new("P", (8, 4))
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.paste(1, (4, 0, 8, 4))
    found = decode(saved(image, "PNG", transparency=0), LIMITS)
    assert (found[:, :4] == 255).all()
    assert (found[:, 4:] == [10, 20, 30]).all()


def test_a_half_transparent_pixel_is_half_white() -> None:
    found = decode(saved(Image.new("RGBA", (2, 2), (0, 0, 0, 128)), "PNG"), LIMITS)
    assert np.abs(found.astype(int) - 127).max() <= 1


def test_a_colour_named_transparent_lies_on_white() -> None:
    image = Image.new("RGB", (4, 4), (1, 2, 3))
    image.paste((9, 9, 9), (2, 0, 4, 4))
    found = decode(saved(image, "PNG", transparency=(1, 2, 3)), LIMITS)
    assert (found[:, :2] == 255).all()
    assert (found[:, 2:] == 9).all()


# How a camera that was held so stores an upright picture: the inverse of the turn that its orientation asks for.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG", "AVIF"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_gives_the_same_upright_picture(orientation: int, form: str) -> None:
    upright = Image.fromarray(pixels("collins/portrait.png")).resize((96, 64))
    turn = STORED[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"PNG": {}, "WEBP": {"lossless": True}}.get(form, {"quality": 95})
    data = saved(upright if turn is None else upright.transpose(turn), form, exif=exif.tobytes(), **options)
    found = decode(data, LIMITS)
    assert found.shape == (64, 96, 3)
    assert np.abs(found.astype(int) - np.asarray(upright)).mean() < (8 if form in {"JPEG", "AVIF"} else 0.01)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\x00\x00garbage",
        b"Exif\x00\x00II*\x00\xff\xff\xff\xff",
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x02\x00\x00\x00\x04AAAA\x00\x00\x00\x00",
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x63\x00\x00\x00\x00\x00\x00",
        b"Exif\x00\x00",
    ],
    ids=["garbage", "wild offset", "text for a number", "orientation 99", "nothing"],
)
def test_damaged_metadata_do_not_spoil_a_picture(exif: bytes) -> None:
    plain = small("JPEG", quality=95)
    marked = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    assert (decode(marked, LIMITS) == decode(plain, LIMITS)).all()


def test_a_progressive_jpeg_is_read_but_not_one_of_endless_scans() -> None:
    progressive = small("JPEG", progressive=True)
    assert decode(progressive, LIMITS).ndim == 3
    last_scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    with pytest.raises(UnreadablePicture) as refused:
        decode(progressive[:-2] + last_scan * 200 + progressive[-2:], LIMITS)
    assert refused.value.reason == "too_many_scans"


def test_what_a_phone_adds_after_the_picture_is_not_read_as_scans() -> None:
    random = np.random.default_rng(3).integers(0, 256, 7 << 20, dtype=np.uint8).tobytes()
    assert random.count(b"\xff\xda") > 100
    assert decode(sample("obama/speech.jpg") + random, PictureLimits()).shape == (1200, 626, 3)
    plain = small("JPEG")
    comment = b"\xff\xfe" + struct.pack(">H", 602) + b"\xff\xda" * 300
    assert (decode(plain[:2] + comment + plain[2:], LIMITS) == decode(plain, LIMITS)).all()


@pytest.mark.parametrize(
    "slow",
    [
        b"\xff\xd8" + b"\xff" * 14_900_000 + small("JPEG")[2:],
        b"\xff\xd8" + b"\xff\xfe\x00\x02" * 3_600_000 + small("JPEG")[2:],
        small("PNG")[:33] + chunk(b"aaAa", b"") * 1_200_000 + small("PNG")[33:],
    ],
    ids=["fill bytes", "segments", "chunks"],
)
def test_a_file_of_endless_markers_is_refused_before_it_costs_time(slow: bytes) -> None:
    began = time.process_time()
    with pytest.raises(UnreadablePicture):
        decode(slow, PictureLimits())
    assert time.process_time() - began < 0.5


FILES = [small("JPEG"), small("PNG"), small("WEBP"), small("AVIF"), sample("collins/portrait.png")[:20_000]]
hurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def refuses_or_decodes(data: bytes) -> None:
    """Nothing but an error of our own may come out."""
    try:
        found = decode(data, SMALL)
    except (TooLarge, UnsupportedPicture, UnreadablePicture):
        return
    assert found.shape[2] == 3


@hurried
@given(st.binary(max_size=2000))
def test_random_bytes_are_refused_in_order(data: bytes) -> None:
    refuses_or_decodes(data)


@hurried
@given(st.sampled_from([b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\x24\x00\x00\x00WEBPVP8 "]), st.binary())
def test_random_bytes_behind_a_true_beginning_are_refused_in_order(beginning: bytes, rest: bytes) -> None:
    refuses_or_decodes(beginning + rest)


@hurried
@given(
    file=st.sampled_from(FILES),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=8),
)
def test_a_real_picture_with_bytes_changed_or_cut_off_is_decoded_or_refused(
    file: bytes, cut: float, flips: list[tuple[float, int]]
) -> None:
    broken = bytearray(file)
    for place, change in flips:
        broken[int(place * len(broken))] ^= change
    refuses_or_decodes(bytes(broken[: round(len(broken) * cut)] if cut < 0.9 else broken))
