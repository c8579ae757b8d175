"""The pictures that the edge and what it is compared with are given."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

from PIL import Image

_FOLDER: Final = Path(__file__).resolve().parents[2] / "pictures"
BOUNDARY: Final = "patronus-bench"
FORM: Final = f"multipart/form-data; boundary={BOUNDARY}"


def pictures() -> dict[str, bytes]:
    """JPEG files by their size: a door camera's, and a portrait."""
    portrait = Image.open(io.BytesIO((_FOLDER / "obama" / "speech.jpg").read_bytes())).convert("RGB")
    height = portrait.width * 3 // 4
    camera = portrait.crop((0, 100, portrait.width, 100 + height)).resize((640, 480))
    return {f"{each.width}x{each.height}": _jpeg(each) for each in (camera, portrait.resize((1000, 1250)))}


def enrolled() -> bytes:
    """Another picture of the same person."""
    return (_FOLDER / "obama" / "portrait.jpg").read_bytes()


def form(picture: bytes) -> bytes:
    """A form with the picture, of the media type ``FORM``."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="face.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return head.encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode()


def _jpeg(picture: Image.Image) -> bytes:
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=90)
    return written.getvalue()
