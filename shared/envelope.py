"""Templates and rotations as the edge sends them: little-endian floats in base64."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from shared.contract import MAX_DIM
from shared.errors import InvalidTemplate, Unprocessable
from shared.names import HexDigest
from shared.strict_types import JsonInteger, One, StrictModel

# A float32 unit vector of 4,096 values is off by less than 1e-5; what is further off was never normalised.
UNIT_TOLERANCE = 1e-4
# Two orthogonal matrices multiplied in float64 are off by some d * 1e-16. What is further off would stretch angles, and
# so change decisions.
ORTHOGONAL_TOLERANCE: Final = 1e-9
_FLOAT64_BYTES: Final = 8
_FLOAT32_BYTES = 4
_CANONICAL_PATTERN: Final = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$"


def decode_canonical(text: str) -> bytes:
    """Decodes base64 in its canonical form.

    Canonical: padded, no other characters, no bits left over (RFC 4648, 3.2 and 3.5).

    Raises:
        ValueError: it is not how these bytes are encoded.
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("not base64") from None
    # The decoder ignores the bits of the last character that belong to no byte, so the last bytes are encoded again.
    rest = len(raw) % 3
    if len(text) != 4 * ((len(raw) + 2) // 3) or (rest and base64.b64encode(raw[-rest:]) != text[-4:].encode("ascii")):
        raise ValueError("not canonical base64")
    return raw


def _floats(what: str, data: str, kind: str, count: int, error: Callable[[str], Unprocessable]) -> NDArray[Any]:
    """The values in the data of something; ``error`` makes what is raised where it holds others."""
    try:
        raw = decode_canonical(data)
    except ValueError:
        raise error(f"The {what}'s data is not base64 in its canonical form.") from None
    size = count * np.dtype(kind).itemsize
    if len(raw) != size:
        raise error(f"The {what} holds {len(raw)} bytes; {count} {kind} values are {size}.")
    return np.frombuffer(raw, np.dtype(kind).newbyteorder("<")).astype(kind)


class TemplateEnvelope(StrictModel):
    """A protected template on the wire.

    ``data`` is canonical base64 (standard alphabet, padded) of ``dim`` little-endian float32 values of a unit vector.
    """

    version: One = 1
    contract: HexDigest = Field(description="digest of the contract under which the template was made")
    dim: JsonInteger = Field(ge=2, le=MAX_DIM)
    dtype: Literal["float32"] = "float32"
    data: Annotated[
        str,
        Field(
            max_length=4 * ((MAX_DIM * _FLOAT32_BYTES + 2) // 3),
            repr=False,
            description="base64 of `dim` little-endian float32 values, which make a unit vector",
            # For the document only: `open` checks it, with an error of its own.
            json_schema_extra={"contentEncoding": "base64", "pattern": _CANONICAL_PATTERN, "minLength": 12},
        ),
    ]

    @classmethod
    def pack(cls, template: NDArray[np.float32], contract_digest: str) -> TemplateEnvelope:
        """Packs a protected template.

        Args:
            template: (d,) float32, a unit vector.
            contract_digest: the digest of the contract it was made under.

        Raises:
            InvalidTemplate: not one finite float32 unit vector.
        """
        check_template(template)
        data = base64.b64encode(np.ascontiguousarray(template, dtype="<f4").tobytes()).decode("ascii")
        try:
            return cls(contract=contract_digest, dim=int(template.shape[0]), data=data)
        except ValidationError:
            raise InvalidTemplate(
                "The template's length or contract digest is not one an envelope can carry."
            ) from None

    def open(self) -> NDArray[np.float32]:
        """The template inside: (dim,) float32, a unit vector.

        Raises:
            InvalidTemplate: not base64, of another length than ``dim`` says, not finite, or not a unit vector.
        """
        template = _floats("template", self.data, "float32", self.dim, InvalidTemplate)
        check_template(template)
        return template


def check_template(template: NDArray[np.float32]) -> None:
    """Refuses what is not one finite float32 unit vector.

    Raises:
        InvalidTemplate: says which of these it is not, never the values.
    """
    if template.ndim != 1 or template.dtype != np.float32:
        raise InvalidTemplate("A template is one row of float32 values.")
    wide = template.astype(np.float64)
    norm = math.sqrt(wide @ wide)  # not finite where a value is not; never over the largest float64
    if not math.isfinite(norm):
        raise InvalidTemplate("The template holds a value that is not finite; send finite numbers only.")
    if abs(norm - 1) > UNIT_TOLERANCE:
        raise InvalidTemplate("The template is not a unit vector; normalise it before it is sent.")


class RotationMatrix(StrictModel):
    """An orthogonal matrix M; a template T becomes M T.

    ``data`` is base64 (standard alphabet, padded) of ``dim`` times ``dim`` little-endian float64 values, row by row.
    It is secret: anyone with it and the templates of one key can compute those of the other. It is held in memory only,
    and never logged.
    """

    dim: JsonInteger = Field(ge=2, le=MAX_DIM)
    dtype: Literal["float64"] = "float64"
    data: Annotated[str, Field(max_length=4 * ((MAX_DIM * MAX_DIM * _FLOAT64_BYTES + 2) // 3), repr=False)]

    @classmethod
    def pack(cls, matrix: NDArray[np.float64]) -> RotationMatrix:
        """Packs a (d, d) float64 matrix.

        Raises:
            Unprocessable: it is not finite, or not orthogonal.
        """
        _check_rotation(matrix)
        data = base64.b64encode(np.ascontiguousarray(matrix, dtype="<f8").tobytes()).decode("ascii")
        return cls(dim=len(matrix), data=data)

    def open(self) -> NDArray[np.float64]:
        """The matrix inside: (dim, dim) float64, orthogonal.

        Raises:
            Unprocessable: not base64, of another size than ``dim`` says, not finite, or not orthogonal.
        """
        values = _floats("matrix", self.data, "float64", self.dim * self.dim, _not_a_rotation)
        matrix = values.reshape(self.dim, self.dim)
        _check_rotation(matrix)
        return matrix


def _check_rotation(matrix: NDArray[np.float64]) -> None:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.dtype != np.float64:
        raise _not_a_rotation("A rotation is a square matrix of float64 values.")
    if not np.isfinite(matrix).all() or np.abs(matrix).max() > 1 + ORTHOGONAL_TOLERANCE:
        raise _not_a_rotation("The matrix holds a value that no orthogonal matrix has.")
    if np.abs(matrix @ matrix.T - np.eye(len(matrix))).max() > ORTHOGONAL_TOLERANCE:
        raise _not_a_rotation("The matrix is not orthogonal: it would change the angles between templates.")


def _not_a_rotation(detail: str) -> Unprocessable:
    return Unprocessable(detail, reason="not_a_rotation")
