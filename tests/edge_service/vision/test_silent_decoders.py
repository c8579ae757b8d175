"""Nothing of a damaged picture is printed: a service's log is one JSON object a line."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_service.settings import PictureLimits
from edge_service.vision.decode import decode
from shared.errors import TooLarge, UnreadablePicture, UnsupportedPicture
from tests.support.edge import encoded, pixels

LIMITS = PictureLimits()


def saved(image: Image.Image, **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, "JPEG", **options)
    return target.getvalue()


def small(form: str, **options: Any) -> bytes:
    image = Image.fromarray(pixels("collins/portrait.png")).resize((96, 64))
    return encoded(np.asarray(image), form, **options)


def damaged_jpegs() -> dict[str, bytes]:
    """JPEG files with data of which libjpeg warns."""
    plain, restarts = small("JPEG", quality=90), small("JPEG", quality=90, restart_marker_blocks=3)
    gray = saved(Image.open(io.BytesIO(plain)).convert("L"))
    middle = len(plain) - 300
    restart = restarts.index(b"\xff\xd3", restarts.index(b"\xff\xda"))
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x07"
    return {
        "bytes before the end": plain[:-2] + b"ABCD" * 10 + plain[-2:],
        "gray, bytes before the end": gray[:-2] + b"ABCD" * 10 + gray[-2:],
        "zeros within": plain[:middle] + bytes(40) + plain[middle + 40 :],
        "ones within": plain[:middle] + b"\xfe" * 40 + plain[middle + 40 :],
        "cut off": plain[:middle] + plain[-2:],
        "another restart": restarts[: restart + 1] + b"\xd6" + restarts[restart + 2 :],
        "bytes before a restart": restarts[:restart] + b"ABCD" * 10 + restarts[restart:],
        "unknown colors": plain[:2] + adobe + plain[2:],
        "progressive, bytes before the end": small("JPEG", progressive=True)[:-2] + b"ABCD" * 10 + b"\xff\xd9",
    }


@pytest.mark.parametrize("name", damaged_jpegs())
def test_nothing_of_a_damaged_jpeg_is_printed(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(UnreadablePicture):
        decode(damaged_jpegs()[name], LIMITS)
    assert capfd.readouterr() == ("", "")


def test_bytes_before_the_end_of_a_jpeg_change_no_pixel() -> None:
    found = decode(damaged_jpegs()["bytes before the end"], LIMITS)
    np.testing.assert_array_equal(found, decode(small("JPEG", quality=90), LIMITS))


@pytest.mark.parametrize("cut", range(20, 400, 19))
def test_nothing_of_a_damaged_webp_is_printed(cut: int, capfd: pytest.CaptureFixture[str]) -> None:
    webp = bytearray(small("WEBP", lossless=cut % 2 == 0))
    webp[cut : cut + 3] = b"\xff\x00\xff"
    with contextlib.suppress(UnreadablePicture, UnsupportedPicture, TooLarge):
        decode(bytes(webp), LIMITS)
    assert capfd.readouterr() == ("", "")
