"""A rotation on the wire: what turns templates that one key sealed into templates that another one sealed."""

from __future__ import annotations

import base64
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from shared.contract import MAX_DIM
from shared.envelope import decode_canonical
from shared.errors import Unprocessable
from shared.strict_types import JsonInteger

# Two orthogonal matrices multiplied in float64 are off by some d * 1e-16. What is further off would stretch angles, and
# so change decisions.
ORTHOGONAL_TOLERANCE: Final = 1e-9
_FLOAT64_BYTES: Final = 8


class RotationMatrix(BaseModel):
    """An orthogonal matrix M; a template T becomes M T.

    ``data`` is base64 (standard alphabet, padded) of ``dim`` times ``dim`` little-endian float64 values, row by row.
    It is secret: who has it and one side of a change of key has the other. It is held in memory only, and never logged.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dim: JsonInteger = Field(ge=2, le=MAX_DIM)
    dtype: Literal["float64"] = "float64"
    data: Annotated[str, Field(max_length=4 * ((MAX_DIM * MAX_DIM * _FLOAT64_BYTES + 2) // 3), repr=False)]

    @classmethod
    def pack(cls, matrix: NDArray[np.float64]) -> RotationMatrix:
        """Packs a (d, d) float64 matrix.

        Raises:
            Unprocessable: it is not finite, or not orthogonal.
        """
        _check(matrix)
        data = base64.b64encode(np.ascontiguousarray(matrix, dtype="<f8").tobytes()).decode("ascii")
        return cls(dim=len(matrix), data=data)

    def open(self) -> NDArray[np.float64]:
        """The matrix inside: (dim, dim) float64, orthogonal.

        Raises:
            Unprocessable: not base64, of another size than ``dim`` says, not finite, or not orthogonal.
        """
        try:
            raw = decode_canonical(self.data)
        except ValueError:
            raise _refused("The matrix's data is not base64 in its canonical form.") from None
        if len(raw) != self.dim * self.dim * _FLOAT64_BYTES:
            raise _refused(f"The matrix does not hold {self.dim} times {self.dim} float64 values.")
        matrix = np.frombuffer(raw, dtype="<f8").astype(np.float64).reshape(self.dim, self.dim)
        _check(matrix)
        return matrix


def _check(matrix: NDArray[np.float64]) -> None:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.dtype != np.float64:
        raise _refused("A rotation is a square matrix of float64 values.")
    if not np.isfinite(matrix).all() or np.abs(matrix).max() > 1 + ORTHOGONAL_TOLERANCE:
        raise _refused("The matrix holds a value that no orthogonal matrix has.")
    if np.abs(matrix @ matrix.T - np.eye(len(matrix))).max() > ORTHOGONAL_TOLERANCE:
        raise _refused("The matrix is not orthogonal: it would change the angles between templates.")


def _refused(detail: str) -> Unprocessable:
    return Unprocessable(detail, reason="not_a_rotation")
