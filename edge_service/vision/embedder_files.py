"""An ONNX embedder of one's own: the file, by its digest, and a small JSON beside it that says what it takes.

``mine.onnx`` goes with ``mine.embedder.json``::

    {"dim": 512, "channels": "RGB", "mean": 127.5, "scale": 0.0078125}
"""

from __future__ import annotations

import hashlib
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from edge_service.models.own_folder import AddedDigests, description_file
from edge_service.settings import InferenceSettings
from edge_service.vision.align import ALIGNMENTS, ARCFACE, Alignment
from edge_service.vision.sessions import OrtSession
from shared.contract import MAX_DIM
from shared.errors import SetupError
from shared.strict_types import JsonInteger

# The largest face embedders are transformers of a few hundred megabytes; a session holds the file and its weights.
MAX_BYTES: Final = 2**30
_MAX_DESCRIPTION_BYTES: Final = 2**16
# How ONNX names the file that holds a tensor's weights, if that is another one: the first member of a
# StringStringEntryProto (field 1, 8 bytes, "location"). ONNX Runtime would read it from the working directory. A
# reader of protobuf also takes numbers that are written longer than they need to be.
_WEIGHTS_ELSEWHERE: Final = re.compile(rb"(?:\x0a|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)location")
_FLOAT: Final = "tensor(float)"
_SAMPLE: Final = '{"dim": 512, "channels": "RGB", "mean": 127.5, "scale": 0.00784313725}'

Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]


class EmbedderDescription(BaseModel):
    """What an embedder takes: (n, 3, side, side) float32, (value - mean) * scale of pixels 0 to 255.

    Attributes:
        dim: the length of its embeddings; None: whatever it gives.
        alignment: the template, by the name that contracts have for it.
        side: height and width, in pixels; None: the template's own. Faces are aligned at the template's own, then
            resized.
        channels: their order.
        mean: subtracted, one number or one a channel in the file's order.
        scale: multiplied, the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: Annotated[JsonInteger, Field(gt=0, le=MAX_DIM)] | None = None
    alignment: str = ARCFACE.name
    side: Annotated[JsonInteger, Field(ge=16, le=1024)] | None = None
    channels: Literal["RGB", "BGR"] = "RGB"
    mean: Number | tuple[Number, Number, Number] = 0.0
    scale: Number | tuple[Number, Number, Number] = 1.0

    @field_validator("alignment")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in ALIGNMENTS:
            raise ValueError(f"known are {', '.join(ALIGNMENTS)}")
        return name

    @field_validator("scale")
    @classmethod
    def _not_zero(cls, scale: float | tuple[float, float, float]) -> float | tuple[float, float, float]:
        if not np.all(scale):
            raise ValueError("a scale is not 0")
        return scale

    @property
    def template(self) -> Alignment:
        """Where faces are to be."""
        return ALIGNMENTS[self.alignment]

    @property
    def pixels(self) -> int:
        """Height and width."""
        return self.side or self.template.side

    @property
    def pinned(self) -> str:
        """The description as contracts have it: what is usual by name, and other numbers by their digest."""
        numbers = np.array([np.broadcast_to(values, 3) for values in (self.mean, self.scale)], "<f4")
        plain = self.pixels == self.template.side and not numbers[0].any() and (numbers[1] == 1).all()
        order = self.channels.lower()
        if plain:
            return f"{self.alignment}/{order}/0-255"
        return f"{self.alignment}/{self.pixels}/{order}/{hashlib.sha256(numbers.tobytes()).hexdigest()[:16]}"

    def prepared(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Faces as the network takes them.

        Args:
            faces: (n, h, h, 3) uint8 RGB, aligned onto the template, h its side.

        Returns:
            (n, 3, side, side) float32.
        """
        values, size = faces.astype(np.float32), (self.pixels, self.pixels)
        if len(faces) and self.pixels != faces.shape[1]:
            values = np.stack([cv2.resize(face, size, interpolation=cv2.INTER_LINEAR) for face in values])
        if self.channels == "BGR":
            values = values[..., ::-1]
        if np.any(self.mean) or not np.all(np.equal(self.scale, 1)):
            mean, scale = (np.asarray(value, np.float32) for value in (self.mean, self.scale))
            values = (values - mean) * scale
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)

    def __str__(self) -> str:
        name = self.alignment if self.template is ARCFACE else f"{self.alignment} from {ARCFACE.name}"
        return f"{name}/side {self.pixels}/{self.channels.lower()}/mean {self.mean}/scale {self.scale}"


@dataclass(frozen=True, slots=True)
class EmbedderFile:
    """A file that was read, and what is said of it.

    Attributes:
        path: where it lay.
        data: its bytes.
        sha256: of the bytes, in hex.
        description: what is said of it.
        json: the bytes of the file that says it; none where a default does.
    """

    path: Path
    data: bytes = field(repr=False)
    sha256: str
    description: EmbedderDescription
    json: bytes = b""

    @classmethod
    def open(cls, path: Path, otherwise: EmbedderDescription | None = None) -> EmbedderFile:
        """Reads both files.

        Args:
            path: the .onnx file.
            otherwise: the description of a file without a JSON; None: one is needed.

        Raises:
            SetupError: there is no such file, it is too large, or the JSON is missing or not valid.
        """
        data = _read(path, MAX_BYTES, "name an .onnx file")
        said = description_file(path)
        digest = hashlib.sha256(data).hexdigest()
        if otherwise is not None and not said.exists():
            return cls(path, data, digest, otherwise)
        json = _read(said, _MAX_DESCRIPTION_BYTES, f"write one, such as {_SAMPLE}")
        return cls(path, data, digest, _description(json, said), json)

    @property
    def digests(self) -> AddedDigests:
        """Of both files."""
        return AddedDigests(sha256=self.sha256, description_sha256=hashlib.sha256(self.json).hexdigest())

    def session(self, settings: InferenceSettings | None = None) -> EmbedderSession:
        """The file in ONNX Runtime.

        Raises:
            SetupError: the runtime refuses it, or its input or output is not as described.
        """
        return EmbedderSession(self, settings or InferenceSettings())


class EmbedderSession(OrtSession):
    """A session on an embedder's file, whose input was compared with the description."""

    def __init__(self, file: EmbedderFile, settings: InferenceSettings) -> None:
        name = file.path.name
        if _WEIGHTS_ELSEWHERE.search(file.data):
            raise SetupError(
                f"{name} keeps weights in another file, which its digest does not cover; save it as one file, for "
                "example with onnx.save(onnx.load(FILE), NEW_FILE).",
                reason="weights-elsewhere",
            )
        self._open(file.data, settings, f"the model {name}; export it again as an ONNX file with float32 input.")
        inputs, outputs = self.signature()
        if len(inputs) != 1 or len(outputs) != 1:
            raise SetupError(
                f"{name} has {len(inputs)} inputs and {len(outputs)} outputs where an embedder has one input and one "
                "output; export the embedder alone.",
                reason="not-an-embedder",
            )
        [(kind, shape)], [(gives, _)] = inputs.values(), outputs.values()
        side = file.description.pixels
        if (kind, gives) != (_FLOAT, _FLOAT):
            raise SetupError(
                f"{name} takes {kind} and gives {gives}; export it with float32 input and output.",
                reason="type-differs",
            )
        wanted = (3, side, side)
        if len(shape) != 4 or any(axis not in (None, said) for axis, said in zip(shape[1:], wanted, strict=True)):
            raise SetupError(
                f"{name} does not take an input of {_axes((None, *wanted))}, as described, but of {_axes(shape)}; "
                "correct the side in the JSON beside it, or export it for such an input.",
                reason="input-differs",
            )
        if shape[0] not in (None, 1):
            raise SetupError(
                f"{name} takes exactly {shape[0]} faces at once; export it with a free batch, or with a batch of 1.",
                reason="batch-fixed",
            )
        self.one_at_a_time = shape[0] == 1


def _description(json: bytes, path: Path) -> EmbedderDescription:
    try:
        return EmbedderDescription.model_validate_json(json)
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "the whole"
        known = ", ".join(EmbedderDescription.model_fields)
        raise SetupError(f"{path} is not valid at {where} ({first['msg']}); it may have {known}.") from problem


def _read(path: Path, most: int, remedy: str) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise SetupError(f"{path} is not a file; {remedy}.", reason="model-missing")
        if found.st_size > most:
            raise SetupError(f"{path} has {found.st_size} bytes, over the limit of {most}; {remedy}.")
        return path.read_bytes()
    except OSError as problem:
        raise SetupError(f"{path} cannot be read ({problem.strerror}); {remedy}.", reason="model-missing") from problem


def _axes(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if axis is None else str(axis) for axis in shape) + ")"
