"""A JPEG that lacks only its end marker is taken; one that lacks a single bit of its pixels is not."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from edge_house import pixels
from PIL import Image

from edge_service.settings import PictureLimits
from edge_service.vision.decode import decode
from shared.errors import UnreadablePicture

LIMITS = PictureLimits()
# Sides that are no multiples of a block's leave parts of blocks unseen, and so does halved color.
SIZES = [(96, 64), (97, 65), (17, 9)]
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "the finest": {"quality": 100, "subsampling": 0},
    "its own tables": {"optimize": True},
    "progressive": {"progressive": True},
    "progressive, the finest": {"progressive": True, "quality": 100, "subsampling": 0},
    "restarts": {"restart_marker_blocks": 1},
    "progressive with restarts": {"progressive": True, "restart_marker_blocks": 5},
}


def pictures(size: tuple[int, int]) -> list[Image.Image]:
    """A face, noise, one color, and grey."""
    face = Image.fromarray(pixels("collins/portrait.png")).resize(size)
    noise = np.random.default_rng(4).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return [face, Image.fromarray(noise), Image.new("RGB", size, (90, 120, 30)), face.convert("L")]


def saved(image: Image.Image, **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, "JPEG", **options)
    return target.getvalue()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_jpeg_that_lacks_its_last_two_bytes_or_one_of_them_is_whole(way: dict[str, Any]) -> None:
    for size in SIZES:
        for image in pictures(size):
            data = saved(image, **way)
            whole = decode(data, LIMITS)
            for cut in (1, 2):
                assert (decode(data[:-cut], LIMITS) == whole).all()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_wherever_a_jpeg_is_cut_off_no_pixel_differs_or_it_is_refused(way: dict[str, Any]) -> None:
    for size in SIZES:
        for image in pictures(size):
            data = saved(image, **way)
            whole = decode(data, LIMITS)
            refused = 0
            for cut in [*range(3, 40), *range(40, len(data) - 100, 97)]:
                try:
                    found = decode(data[:-cut], LIMITS)
                except UnreadablePicture:
                    refused += 1
                else:
                    assert (found == whole).all(), (size, image.mode, cut)
            assert refused > 30


def test_a_progressive_jpeg_without_its_last_scan_is_refused() -> None:
    data = saved(Image.fromarray(pixels("collins/portrait.png")), progressive=True)
    last = data.rindex(b"\xff\xda")
    for end in (last, last - 1, data.rindex(b"\xff\xc4")):
        with pytest.raises(UnreadablePicture):
            decode(data[:end], LIMITS)
