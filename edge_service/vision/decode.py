"""Bytes to upright RGB pixels, or a refusal that says why. Formats are told by content, never by name."""

from __future__ import annotations

import io
import warnings
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from edge_service.settings import PictureLimits
from edge_service.vision.structure import check_scans, count_scans
from shared.errors import TooLarge, UnreadablePicture, UnsupportedPicture

Pixels = NDArray[np.uint8]

FORMATS: Final = ("JPEG", "PNG", "WEBP")
_ORIENTATION_TAG: Final = 0x0112
# EXIF orientation to the turn that makes the picture upright.
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WIDE_GREY: Final = ("I", "I;16", "I;16B", "I;16L", "I;16N")

# The limit is checked below, on the header, as an error of ours; Pillow's own is a process-wide warning.
Image.MAX_IMAGE_PIXELS = None


def decode(data: bytes, limits: PictureLimits) -> Pixels:
    """Decodes a picture.

    Args:
        data: a whole JPEG, PNG or WebP file.
        limits: bytes and pixels allowed; pixels are checked on the header, before any is decoded.

    Returns:
        (h, w, 3) uint8, RGB, 0 to 255, upright by its EXIF orientation; transparency lies on white.

    Raises:
        TooLarge: more bytes or pixels than allowed.
        UnsupportedPicture: not one of the formats.
        UnreadablePicture: empty, damaged, or animated.
    """
    if not data:
        raise UnreadablePicture("The picture is empty; send the bytes of a JPEG, PNG or WebP file.", reason="empty")
    if len(data) > limits.max_bytes:
        raise TooLarge(
            f"The picture is over the limit of {limits.max_bytes} bytes; send a smaller one.",
            reason="too_many_bytes",
            limit_bytes=limits.max_bytes,
        )
    scans = count_scans(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata, which is not used
        with _open(data) as image:
            _check(image, limits)
            check_scans(scans, image.width * image.height)
            return _pixels(image)


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise UnsupportedPicture(
            "These bytes are not a JPEG, PNG or WebP picture; convert the picture to one of them.",
            reason="unknown_format",
        ) from None
    except Exception:  # Pillow's parsers raise what they please on hostile bytes
        raise _damaged() from None


def _check(image: Image.Image, limits: PictureLimits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise TooLarge(
            f"The picture has {width} x {height} pixels; the limit is {limits.max_pixels} in all. Send a smaller one.",
            reason="too_many_pixels",
            limit_pixels=limits.max_pixels,
        )
    # A JPEG with several frames is a phone's multi-picture file, whose first frame is the picture.
    if image.format in {"PNG", "WEBP"} and getattr(image, "is_animated", False):
        raise UnreadablePicture("The picture is animated; send one still frame of it.", reason="animated")


def _pixels(image: Image.Image) -> Pixels:
    try:
        turn = _UPRIGHT.get(_orientation(image))
        image.load()
        rgb = _to_rgb(image)
    except MemoryError:
        raise TooLarge(
            "The picture is too large to decode here; send a smaller one.", reason="too_many_pixels"
        ) from None
    except Exception:
        raise _damaged() from None
    if turn is not None:
        rgb = rgb.transpose(turn)
    return np.ascontiguousarray(np.asarray(rgb, dtype=np.uint8))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged metadata: the pixels may well be good
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in _WIDE_GREY:
        # In the type they come in: 40 megapixels as int64 would be 320 MB, several times over.
        return Image.fromarray(np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _damaged() -> UnreadablePicture:
    return UnreadablePicture("The picture is damaged or cut off; export or upload it again.", reason="damaged")
