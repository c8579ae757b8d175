"""An ONNX embedder of one's own: the file, by its digest, and a small JSON beside it that says what it takes.

``mine.onnx`` goes with ``mine.embedder.json``::

    {"dim": 512, "channels": "RGB", "mean": 127.5, "scale": 0.0078125}
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from edge_service.settings import InferenceSettings
from edge_service.vision.align import ARCFACE, Alignment, align
from edge_service.vision.embed import EMBEDDERS
from edge_service.vision.sessions import OrtSession
from shared.errors import SetupError

_ALIGNMENTS: Final = {spec.alignment.name: spec.alignment for spec in EMBEDDERS.values()}


class Preprocessing(BaseModel):
    """What an embedder takes: (n, 3, side, side) float32, (value - mean) * scale of pixels 0 to 255.

    The lab's faces are aligned to the ArcFace 5-point template at 112 x 112. They are rotated and scaled from there
    onto another template, with black where that reaches over the 112 x 112, and then resized where the side is another.

    Attributes:
        dim: the length of its embeddings; None: whatever it gives.
        alignment: the template, by the name that the edge has for it.
        side: height and width, in pixels; None: the template's own.
        channels: their order.
        mean: subtracted, one number or one a channel in the file's order.
        scale: multiplied, the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: Annotated[int, Field(gt=0)] | None = None
    alignment: str = ARCFACE.name
    side: Annotated[int, Field(ge=16, le=1024)] | None = None
    channels: Literal["RGB", "BGR"] = "RGB"
    mean: float | tuple[float, float, float] = 0.0
    scale: float | tuple[float, float, float] = 1.0

    @field_validator("alignment")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in _ALIGNMENTS:
            raise ValueError(f"known are {', '.join(_ALIGNMENTS)}")
        return name

    @property
    def template(self) -> Alignment:
        """Where faces are to be."""
        return _ALIGNMENTS[self.alignment]

    @property
    def pixels(self) -> int:
        """Height and width."""
        return self.side or self.template.side

    def __str__(self) -> str:
        name = self.alignment if self.template is ARCFACE else f"{self.alignment} from {ARCFACE.name}"
        return f"{name}/side {self.pixels}/{self.channels.lower()}/mean {self.mean}/scale {self.scale}"


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """A file that was read, and what was said of it.

    Attributes:
        path: where it lay.
        data: its bytes.
        sha256: of the bytes, in hex.
        preprocessing: from the JSON beside it. Where there is none, RGB 0 to 255, aligned as the edge does it for an
            embedder of this name, if it has one.
    """

    path: Path
    data: bytes
    sha256: str
    preprocessing: Preprocessing

    @classmethod
    def open(cls, path: Path) -> OnnxFile:
        """Reads both files.

        Raises:
            SetupError: there is no such file, or the JSON is not valid.
        """
        try:
            data = path.read_bytes()
        except OSError as problem:
            raise SetupError(
                f"{path} cannot be read ({problem.strerror}); name an .onnx file.", reason="model-missing"
            ) from problem
        return cls(path, data, hashlib.sha256(data).hexdigest(), _preprocessing(path))

    def session(self) -> OrtSession:
        """The file in ONNX Runtime.

        Raises:
            SetupError: the runtime refuses it.
        """
        return _FileSession(self.data, self.path.name)


class _FileSession(OrtSession):
    """A session on bytes that no manifest names."""

    def __init__(self, data: bytes, name: str) -> None:
        self._open(data, InferenceSettings(), f"the model {name}; export it again as float32 with a free batch.")


def prepare(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Faces as a file takes them.

    Args:
        pixels: (n, 112, 112, 3) uint8 RGB.
        preprocessing: of the file.

    Returns:
        (n, 3, side, side) float32.
    """
    faces = aligned_to(pixels, preprocessing.template).astype(np.float32)
    if preprocessing.pixels != faces.shape[1]:
        size = (preprocessing.pixels, preprocessing.pixels)
        faces = np.stack([cv2.resize(face, size, interpolation=cv2.INTER_LINEAR) for face in faces])
    if preprocessing.channels == "BGR":
        faces = faces[..., ::-1]
    mean, scale = (np.asarray(value, np.float32) for value in (preprocessing.mean, preprocessing.scale))
    faces = (faces - mean) * scale
    return np.ascontiguousarray(faces.transpose(0, 3, 1, 2), dtype=np.float32)


def aligned_to(pixels: NDArray[np.uint8], template: Alignment) -> NDArray[np.uint8]:
    """Faces moved from the ArcFace template onto another, by the edge's own code.

    Args:
        pixels: (n, 112, 112, 3) uint8 RGB.
        template: where the landmarks belong.

    Returns:
        (n, side, side, 3) uint8 RGB.
    """
    if template is ARCFACE:
        return pixels
    landmarks = ARCFACE.points.astype(np.float32)
    return np.stack([align(face, landmarks, template) for face in pixels])


def _preprocessing(path: Path) -> Preprocessing:
    said = path.with_suffix(".embedder.json")
    if not said.is_file():
        served = EMBEDDERS.get(path.stem)
        return Preprocessing() if served is None else Preprocessing(dim=served.dim, alignment=served.alignment.name)
    try:
        return Preprocessing.model_validate_json(said.read_bytes())
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "the whole"
        known = ", ".join(Preprocessing.model_fields)
        raise SetupError(f"{said} is not valid at {where} ({first['msg']}); it may have {known}.") from problem
