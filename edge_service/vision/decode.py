"""Decodes a picture file into upright RGB pixels; its content decides the format."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image

from edge_service.settings import PictureLimits
from edge_service.vision.formats import PictureHeader, read_header
from edge_service.vision.formats.header import damaged
from shared.errors import TooLarge, UnreadablePicture

Pixels = NDArray[np.uint8]
# Rows of the stored picture, from one up to another, as an image in one of Pillow's modes.
_Rows = Callable[[int, int], Image.Image]

# EXIF orientation to the transposition that makes the picture upright.
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDES_SWAPPED: Final = {5, 6, 7, 8}
_ROWS_FROM_THE_END: Final = {3, 4, 6, 7}
_WIDE_GRAY: Final = ("I", "I;16", "I;16B", "I;16L", "I;16N")
# Pixels that are converted at a time: a MiB, which stays in the processor's caches.
_BLOCK_PIXELS: Final = 256 * 1024
_NO_MEMORY: Final = -4  # OpenCV's StsNoMem
_END_OF_JPEG: Final = b"\xff\xd9"
_ENDINGS: Final = ((0xAA, 89), (0x55, 0), (0xC3, 57))
# Put in place of data that may be missing from a JPEG. Without it libjpeg reads zeros. The first filling begins with a
# one, so the first missing bit already gives another code or value. They cover several blocks and hold no marker.
# Rounding may hide the last scan of a progressive picture, so there all three are tried.
_FILLINGS: Final = tuple(bytes((first + step * place) % 0xFF for place in range(64)) for first, step in _ENDINGS)

# The header is checked below, with an error; Pillow's own check is a process-wide warning.
Image.MAX_IMAGE_PIXELS = None
# A worker is one thread.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def decode(data: bytes, limits: PictureLimits) -> Pixels:
    """Decodes a picture.

    Args:
        data: a whole JPEG, PNG, WebP, AVIF or HEIC file.
        limits: bytes, sides, pixels and memory allowed, checked on the header, before any pixel is decoded.

    Returns:
        (h, w, 3) uint8, RGB, 0 to 255, upright by its EXIF orientation; transparency lies on white.

    Raises:
        TooLarge: more bytes, pixels or memory than allowed.
        UnsupportedPicture: not one of the formats.
        UnreadablePicture: empty, damaged, too narrow, or animated.
    """
    return decode_pixels(inspect(data, limits))


def inspect(data: bytes, limits: PictureLimits) -> PictureHeader:
    """Reads a picture's header and checks it against the limits, without decoding pixels.

    Raises:
        TooLarge: more bytes, pixels or memory than allowed.
        UnsupportedPicture: not one of the formats.
        UnreadablePicture: empty, damaged, too narrow, or animated.
    """
    if not data:
        raise UnreadablePicture(
            "The picture is empty; send the bytes of a JPEG, PNG, WebP or AVIF file.", reason="empty"
        )
    check_bytes(len(data), limits)
    header = read_header(data)
    _check(header, limits)
    return header


def check_bytes(count: int, limits: PictureLimits) -> None:
    """Refuses a file of more bytes than allowed.

    Raises:
        TooLarge: it is one.
    """
    if count > limits.max_bytes:
        raise TooLarge(
            f"The picture is over the limit of {limits.max_bytes} bytes; send a smaller one.",
            reason="too_many_bytes",
            limit_bytes=limits.max_bytes,
        )


def decode_pixels(header: PictureHeader) -> Pixels:
    """Decodes a picture whose header was checked, within ``header.peak_bytes`` of memory.

    Returns:
        As ``decode``.

    Raises:
        TooLarge: the system has no memory for it.
        UnreadablePicture: damaged.
    """
    try:
        if header.blocks is not None:
            if not _may_lack_data(header):
                return _decoded(header, _jpeg_pixels(header) if header.turbo_reads else None)
            endings = {_checksum(header.blocks, filling) for filling in (b"", *_FILLINGS[: header.fillings])}
            if len(endings) > 1:
                raise damaged()
        return _decoded(header)
    except MemoryError:
        raise TooLarge(
            "The picture is too large to decode here; send a smaller one.", reason="too_much_memory"
        ) from None


def _check(header: PictureHeader, limits: PictureLimits) -> None:
    width, height = header.width, header.height
    most = min(limits.max_pixels, header.most_pixels)
    if header.pixels > most:
        raise TooLarge(
            f"The picture has {width} x {height} pixels; for this kind of {header.format} the limit is {most} in all. "
            "Send a smaller one.",
            reason="too_many_pixels",
            limit_pixels=most,
        )
    if max(width, height) > limits.max_side:
        raise TooLarge(
            f"The picture has {width} x {height} pixels; the limit of a side is {limits.max_side}. Cut it.",
            reason="side_too_long",
            limit_pixels=limits.max_side,
        )
    if max(width, height) > limits.max_aspect * min(width, height) and max(width, height) > limits.max_aspect:
        raise UnreadablePicture(
            f"The picture has {width} x {height} pixels; one side may be at most {limits.max_aspect} times the other. "
            "Cut it to the people in it.",
            reason="too_narrow",
        )
    if header.peak_bytes > limits.max_memory_bytes:
        raise TooLarge(
            f"Decoding this picture takes {header.peak_bytes // 1_000_000} MB of memory; the limit is "
            f"{limits.max_memory_bytes // 1_000_000} MB. Send a smaller one, or a JPEG that is not progressive.",
            reason="too_much_memory",
            limit_bytes=limits.max_memory_bytes,
        )


def _may_lack_data(header: PictureHeader) -> bool:
    """Whether a JPEG's data may end before its last pixel. False is certain.

    Where data ends early, libjpeg completes the current group of blocks and leaves all later groups empty, which is
    medium gray. The probe's header claims one more row of groups than there is data for. If the data is complete, the
    first group of that row is not empty. Decoding at an eighth of the size shows this at little cost.
    """
    probe = header.probe
    if probe is None:
        return True
    image = _opened(probe, _END_OF_JPEG, eighth=True)
    across, down = header.group
    top = probe.height // 8 - down
    found = np.asarray(image.crop((0, top, across, top + down)))
    return bool(((found == 128) | (found == 127)).all())  # 127: Pillow inverts CMYK


def _checksum(header: PictureHeader, filling: bytes = b"") -> int:
    """The checksum of all pixels of a JPEG, with a filling after its data.

    libjpeg fills missing data with gray and reports nothing. The pixels of a truncated picture depend on the filling;
    those of a complete one do not.
    """
    rows = _pillow_rows(header, filling)
    block = max(1, _BLOCK_PIXELS // header.width)
    checksum = 0
    for first in range(0, header.height, block):
        checksum = zlib.crc32(rows(first, min(first + block, header.height)).tobytes(), checksum)
    return checksum


def _jpeg_pixels(header: PictureHeader) -> Pixels | None:
    """The stored picture of a JPEG without missing data: (height, width, 3), RGB; None where libjpeg would warn of it.

    The same pixels as Pillow's in a quarter of the time: Pillow keeps four bytes a pixel and copies them twice.
    OpenCV prints libjpeg's warnings, such as of bytes after the last pixel, to standard error.
    """
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(header.file(_END_OF_JPEG), colorspace="RGB", strict=True)
    except ValueError:  # a warning or an error; Pillow tells which
        return None
    return pixels if pixels.shape == (header.height, header.width, 3) else None


def _decoded(header: PictureHeader, stored: Pixels | None = None) -> Pixels:
    """Upright pixels; of the stored ones, where they are there already."""
    if stored is not None and header.orientation == 1:
        return stored
    rows = _ROWS.get(header.format, _pillow_rows)(header) if stored is None else _rows_of_pixels(stored)
    swapped = header.orientation in _SIDES_SWAPPED
    shape = (header.width, header.height) if swapped else (header.height, header.width)
    pixels = np.empty((*shape, 3), np.uint8)
    transposition = _UPRIGHT.get(header.orientation)
    block = max(1, _BLOCK_PIXELS // header.width)
    for first in range(0, header.height, block):
        after = min(first + block, header.height)
        rgb = _to_rgb(rows(first, after))
        if transposition is not None:
            rgb = rgb.transpose(transposition)
        if header.orientation in _ROWS_FROM_THE_END:
            first, after = header.height - after, header.height - first  # noqa: PLW2901
        if swapped:
            pixels[:, first:after] = np.asarray(rgb)
        else:
            pixels[first:after] = np.asarray(rgb)
    return pixels


def _pillow_rows(header: PictureHeader, filling: bytes = b"") -> _Rows:
    end = _END_OF_JPEG if header.format == "JPEG" else b""
    return _rows_of(_opened(header, filling + end), header)


def _opened(header: PictureHeader, end: bytes, *, eighth: bool = False) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of oddities that Pillow reads all the same
        try:
            image = Image.open(io.BytesIO(header.file(end)), formats=[header.format])
            if eighth:
                image.draft(None, (1, 1))
            image.load()
        except MemoryError:
            raise
        except Exception:  # Pillow's parsers raise anything on hostile bytes
            raise damaged() from None
    return image


def _webp_rows(header: PictureHeader) -> _Rows:
    """Decodes by OpenCV, whose WebP decoder takes half the memory of Pillow's."""
    try:
        image = cv2.imdecode(np.frombuffer(header.file(), np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if error.code == _NO_MEMORY:
            raise MemoryError from None
        raise damaged() from None
    if image is None or image.shape[:2] != (header.height, header.width):
        raise damaged()
    to_rgb = cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return lambda first, after: Image.fromarray(cv2.cvtColor(image[first:after], to_rgb))


def _rows_of_pixels(pixels: Pixels) -> _Rows:
    return lambda first, after: Image.fromarray(pixels[first:after])


def _heic_rows(header: PictureHeader) -> _Rows:
    """Decodes by libheif, from the optional package pi-heif."""
    import pi_heif  # noqa: PLC0415 - where it is not installed, no HEIC comes here

    pi_heif.options.DECODE_THREADS = 1
    try:
        # A copy: the bytes that pi-heif shows last only as long as its own object.
        image = pi_heif.open_heif(io.BytesIO(header.file()), convert_hdr_to_8bit=True).to_pillow()
    except MemoryError:
        raise
    except Exception:  # of a damaged file
        raise damaged() from None
    return _rows_of(image, header)


def _rows_of(image: Image.Image, header: PictureHeader) -> _Rows:
    if image.size != (header.width, header.height):
        raise damaged()
    return lambda first, after: image.crop((0, first, header.width, after))


_ROWS: Final[dict[str, Callable[[PictureHeader], _Rows]]] = {"WEBP": _webp_rows, "HEIC": _heic_rows}


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in _WIDE_GRAY:
        return Image.fromarray(np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
