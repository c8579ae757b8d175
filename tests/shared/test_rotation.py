"""What turns templates from one key to another travels whole, and nothing travels that is not a rotation."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from shared.envelope import RotationMatrix
from shared.errors import Unprocessable

Q = np.linalg.qr(np.random.default_rng(1).standard_normal((64, 64)))[0]


def test_it_arrives_bit_by_bit_and_shows_nothing() -> None:
    packed = RotationMatrix.pack(Q)
    assert np.array_equal(RotationMatrix.model_validate_json(packed.model_dump_json()).open(), Q)
    assert packed.data[:20] not in repr(packed)
    assert packed.data[:20] not in str(packed)


@pytest.mark.parametrize(
    "matrix",
    [Q * (1 + 1e-8), Q[:10], Q[0], Q.astype(np.float32), Q + np.nan, Q + np.inf, np.zeros((4, 4)), np.ones((4, 4)) / 2],
)
def test_what_is_not_orthogonal_is_not_packed(matrix: NDArray[np.float64]) -> None:
    with pytest.raises(Unprocessable):
        RotationMatrix.pack(matrix)


@pytest.mark.parametrize("length", [0, 8, 8 * 64 * 64 - 8, 8 * 64 * 64 + 8])
def test_what_is_of_another_length_is_refused(length: int) -> None:
    data = base64.b64encode((Q.tobytes() + bytes(8))[:length]).decode()
    with pytest.raises(Unprocessable):
        RotationMatrix(dim=64, data=data).open()


@pytest.mark.parametrize("change", [{"dtype": "float32"}, {"dim": 1}, {"dim": 5000}, {"dim": "64"}, {"more": 1}])
def test_what_is_of_another_form_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RotationMatrix.model_validate({"dim": 64, "dtype": "float64", "data": ""} | change)
