"""The most expensive accepted pictures take bounded time, and no more memory than was charged."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_service.settings import PictureLimits
from edge_service.vision.decode import decode, inspect
from shared.errors import TooLarge, UnreadablePicture, UnsupportedPicture
from tests.support.hostile_pictures import (
    PROGRESSIVE,
    RGBA,
    jpeg,
    long_exif,
    png,
    png_chunk,
    progressive_scans,
    segment,
    sides,
    webp,
)

TOOL = ("-m", "tests.load.picture_costs")
LIMITS = PictureLimits()
MOST_EXPENSIVE = [
    "PNG, RGBA, 8 bits, interlaced",
    "PNG, RGB, 8 bits, of 1,250 x 20,000",
    "JPEG, grey",
    "JPEG, grey, orientation 6",
    "JPEG, full color, orientation 6",
    "JPEG, progressive, full color, 12 scans",
    "WebP, RGBA, lossless",
    "AVIF, RGB, tiles",
    "AVIF, RGBA, tiles",
]
MADE_TO_BE_SLOW = {
    "PNG, 3,900 profiles": "decoded",
    "PNG, 15 MB behind the last row": "damaged",
    "WebP, 6,324 x 6,324, RGBA": "too_many_pixels",
    "JPEG, an EXIF segment of 5,400 long values": "decoded",
}


def costs(*names: str) -> dict[str, dict[str, float | str]]:
    """What pictures take in a process of its own, whose peak of memory is nobody else's."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of memory can be set back on Linux only")
    ended = subprocess.run([sys.executable, *TOOL, *names], capture_output=True, text=True, timeout=120, check=True)
    return {found["name"]: found for found in map(json.loads, ended.stdout.splitlines())}


@pytest.mark.slow(reason="decodes six pictures of up to 40 megapixels in a process of its own")
def test_the_most_expensive_pictures_take_no_more_memory_and_time_than_promised() -> None:
    tables = "WebP, 65,536 groups of code tables"
    found = costs(*MOST_EXPENSIVE, tables)
    made_for_it = found.pop(tables)
    assert made_for_it["peak_mb"] <= made_for_it["charged_mb"], made_for_it
    assert {name: each["outcome"] for name, each in found.items()} == dict.fromkeys(MOST_EXPENSIVE, "decoded")
    peaks = {name: (each["peak_mb"], each["charged_mb"]) for name, each in found.items()}
    assert all(peak <= charged <= 400 for peak, charged in peaks.values()), peaks
    seconds = {name: each["cpu_s"] for name, each in found.items()}
    assert max(seconds.values()) <= 3.5, seconds  # 1.3 at most on a quiet machine; beside other work over twice that


def test_files_that_are_made_to_be_slow_are_refused_or_cost_nothing() -> None:
    found = costs(*MADE_TO_BE_SLOW)
    assert {name: each["outcome"] for name, each in found.items()} == MADE_TO_BE_SLOW
    assert max(each["cpu_s"] for each in found.values()) < 0.3, found
    assert max(each["peak_mb"] for each in found.values()) < 30, found


@pytest.mark.parametrize(
    "picture",
    [
        png(6000, 4000, RGBA, 8),
        png(6000, 4000, RGBA, 16),
        png(6000, 4000, RGBA, 16, interlaced=True),
        webp(6000, 4000),
        jpeg(8000, 5000),
        jpeg(6000, 4000, kind=PROGRESSIVE, scans=progressive_scans(3, 12)),
        png(16, 500),
    ],
    ids=[
        "PNG of 24 megapixels",
        "PNG of 24 in 16 bits",
        "interlaced PNG of 24",
        "WebP of 24",
        "JPEG of 40",
        "progressive JPEG of 24",
        "a narrow one",
    ],
)
def test_what_is_promised_to_be_taken_is_let_in(picture: bytes) -> None:
    assert inspect(picture, LIMITS).peak_bytes <= LIMITS.max_memory_bytes


@pytest.mark.parametrize(
    ("picture", "error", "reason"),
    [
        (png(1, 36_001), TooLarge, "side_too_long"),
        (png(10, 321), UnreadablePicture, "too_narrow"),
        (jpeg(7700, 5190, kind=PROGRESSIVE, scans=progressive_scans(3, 5)), TooLarge, "too_many_pixels"),
        (jpeg(7700, 5190, kind=PROGRESSIVE, sampling=(0x11,) * 4, scans=progressive_scans(4, 5)), TooLarge, None),
        (jpeg(6000, 4000, kind=PROGRESSIVE, scans=progressive_scans(3, 15)), UnreadablePicture, "too_many_scans"),
        (png(6000, 4400), TooLarge, "too_many_pixels"),
        (webp(6000, 5000), TooLarge, "too_many_pixels"),
        (jpeg(64, 64, kind=0xC9), UnsupportedPicture, "unknown_format"),
    ],
    ids=["side", "aspect", "progressive", "CMYK", "scans", "PNG", "WebP", "arithmetic"],
)
def test_what_would_cost_more_is_refused_from_its_header(picture: bytes, error: type, reason: str | None) -> None:
    with pytest.raises(error) as refused:
        inspect(picture, LIMITS)
    assert reason in {None, refused.value.reason}


def test_a_canvas_that_is_not_its_images_does_not_hide_the_images_size() -> None:
    image = webp(16_000, 16_000)[12:]
    canvas = b"VP8X\x0a\0\0\0\x10\0\0\0" + (99).to_bytes(3, "little") * 2
    disguised = b"RIFF" + (4 + len(canvas) + len(image)).to_bytes(4, "little") + b"WEBP" + canvas + image
    with pytest.raises(UnreadablePicture):
        inspect(disguised, LIMITS)


@pytest.mark.parametrize(
    ("plain", "added"),
    [
        (jpeg(64, 48), b"".join(segment(marker, b"x" * 60_000) for marker in (0xE2, 0xE1, 0xED, 0xFE, 0xE0, 0xEE))),
        (
            png(64, 48),
            b"".join(png_chunk(kind, b"x" * 60_000) for kind in (b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"eXIf")),
        ),
    ],
    ids=["JPEG", "PNG"],
)
def test_profiles_texts_and_previews_are_not_given_to_the_decoder(plain: bytes, added: bytes) -> None:
    at = 2 if plain.startswith(b"\xff\xd8") else 33
    laden = plain[:at] + added + plain[at:]
    assert len(inspect(laden, LIMITS).file()) == len(inspect(plain, LIMITS).file())
    assert (decode(laden, LIMITS) == decode(plain, LIMITS)).all()


def test_an_exif_segment_of_many_long_values_costs_what_its_bytes_cost() -> None:
    assert inspect(jpeg(64, 64, extra=long_exif()), LIMITS).orientation == 1


def test_a_picture_of_many_blocks_of_rows_is_put_upright_as_one_of_few() -> None:
    """Rows are converted in blocks; each must come to lie where it belongs."""
    width, height = sides(900_000)
    ramp = np.add.outer(np.arange(height) * 255 // height, np.arange(width) * 40 // width).clip(0, 255)
    stored = Image.fromarray(np.dstack([ramp, ramp[::-1], ramp[:, ::-1]]).astype(np.uint8))
    expected = {
        3: Image.Transpose.ROTATE_180,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
    }
    for orientation, turn in expected.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        target = io.BytesIO()
        stored.save(target, "PNG", exif=exif.tobytes(), compress_level=1)
        assert (decode(target.getvalue(), LIMITS) == np.asarray(stored.transpose(turn))).all()
