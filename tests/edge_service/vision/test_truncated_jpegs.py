"""A JPEG without its end marker is accepted; one without all of its pixels is refused, with or without the marker."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_service.settings import PictureLimits
from edge_service.vision.decode import decode, inspect
from shared.errors import UnreadablePicture
from tests.support.edge import pixels

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
ONE_SCAN = {name: way for name, way in WAYS.items() if "progressive" not in way}


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


@pytest.mark.parametrize("way", [*ONE_SCAN.values(), {"restart_marker_rows": 1}], ids=[*ONE_SCAN, "a restart each row"])
def test_an_end_marker_behind_a_cut_hides_nothing(way: dict[str, Any]) -> None:
    for size in SIZES:
        for image in pictures(size):
            data = saved(image, **way)
            whole = decode(data, LIMITS)
            assert (whole == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()
            for cut in [*range(3, 24), *range(24, len(data) - 100, 997)]:
                try:
                    found = decode(data[:-cut] + b"\xff\xd9", LIMITS)
                except UnreadablePicture:
                    continue
                assert (found == whole).all(), (size, image.mode, cut)


@pytest.mark.parametrize("way", [{}, {"subsampling": 0}, {"restart_marker_rows": 1}])
def test_half_of_a_photo_with_an_end_marker_is_refused(way: dict[str, Any]) -> None:
    data = saved(Image.fromarray(pixels("obama/speech.jpg")), quality=90, **way)
    for share in (0.1, 0.5, 0.99):
        with pytest.raises(UnreadablePicture):
            decode(data[: int(len(data) * share)] + b"\xff\xd9", LIMITS)


def test_a_progressive_jpeg_that_lacks_any_one_scan_is_refused() -> None:
    data = saved(Image.fromarray(pixels("collins/portrait.png")), progressive=True)
    starts = [found.start() for found in re.finditer(b"\xff\xda", data)]
    for start in starts:
        found = re.compile(rb"\xff[^\x00]").search(data, start + 2)
        assert found is not None
        with pytest.raises(UnreadablePicture):
            decode(data[:start] + data[found.start() :], LIMITS)
        with pytest.raises(UnreadablePicture):
            decode(data[:start] + b"\xff\xd9", LIMITS)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_header_of_far_more_blocks_than_the_data_can_hold_is_refused(*, progressive: bool) -> None:
    data = saved(pictures((64, 64))[0], progressive=progressive)
    frame = data.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    side = (4900).to_bytes(2, "big")
    with pytest.raises(UnreadablePicture):
        inspect(data[: frame + 5] + side + side + data[frame + 9 :], LIMITS)


@pytest.mark.parametrize("way", [*WAYS.values(), {"restart_marker_rows": 1}], ids=[*WAYS, "a restart each row"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_flat_pictures_and_flat_corners_are_whole(mode: str, way: dict[str, Any]) -> None:
    """Medium grey is what libjpeg fills missing blocks with."""
    for tone in ("white", "black", (128, 128, 128)):
        corner = pictures((97, 65))[0]
        corner.paste(Image.new("RGB", (50, 40), tone), (47, 25))
        for image in (corner.convert(mode), Image.new("RGB", (96, 64), tone).convert(mode)):
            data = saved(image, **way)
            assert (decode(data, LIMITS) == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()
