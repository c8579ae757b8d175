"""The envelope carries one finite unit vector under one contract, exactly, and nothing else."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from shared.envelope import TemplateEnvelope
from shared.errors import InvalidTemplate

DIGEST = "a" * 64


def unit(dim: int, seed: int = 0) -> NDArray[np.float32]:
    row = np.random.default_rng(seed).standard_normal(dim)
    return (row / np.linalg.norm(row)).astype(np.float32)


def packed(values: Any, dim: int | None = None, **changed: Any) -> TemplateEnvelope:
    raw = np.asarray(values, dtype="<f4")
    data = base64.b64encode(raw.tobytes()).decode()
    return TemplateEnvelope(**{"contract": DIGEST, "dim": dim or len(raw), "data": data} | changed)


@given(st.integers(2, 4096), st.integers(0, 2**32))
def test_a_template_comes_out_bit_for_bit_as_it_went_in(dim: int, seed: int) -> None:
    template = unit(dim, seed)
    on_the_wire = TemplateEnvelope.pack(template, DIGEST).model_dump_json()
    found = TemplateEnvelope.model_validate_json(on_the_wire)
    assert found.contract == DIGEST
    np.testing.assert_array_equal(found.open(), template)
    assert found.open().dtype == np.float32


def test_the_bytes_are_little_endian_float32() -> None:
    envelope = TemplateEnvelope.pack(np.array([1, 0], np.float32), DIGEST)
    assert base64.b64decode(envelope.data) == b"\x00\x00\x80\x3f\x00\x00\x00\x00"
    big_endian = np.array([0, 1], ">f4")
    assert TemplateEnvelope.pack(big_endian.astype("<f4"), DIGEST).open().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([float("nan"), 0], "not finite"),
        ([float("inf"), 0], "not finite"),
        ([1, 1], "not a unit vector"),
        ([0, 0], "not a unit vector"),
        ([1.001, 0], "not a unit vector"),
        ([3e38, 3e38], "not a unit vector"),
    ],
)
def test_what_is_no_unit_vector_goes_neither_in_nor_out(values: list[float], says: str) -> None:
    with pytest.raises(InvalidTemplate, match=says):
        TemplateEnvelope.pack(np.array(values, np.float32), DIGEST)
    with pytest.raises(InvalidTemplate, match=says):
        packed(values).open()


def test_rounding_is_no_reason_for_a_refusal() -> None:
    assert packed([1 + 5e-5, 0]).open()[0] > 1


@pytest.mark.parametrize("template", [unit(4).astype(np.float64), unit(4).reshape(2, 2), np.eye(2, dtype=np.float32)])
def test_only_one_row_of_float32_is_packed(template: Any) -> None:
    with pytest.raises(InvalidTemplate, match="one row of float32"):
        TemplateEnvelope.pack(template, DIGEST)


def test_a_vector_too_long_or_a_wrong_digest_is_not_packed() -> None:
    for template, digest in ((unit(5000), DIGEST), (unit(4), "A" * 64), (unit(4), "")):
        with pytest.raises(InvalidTemplate, match="length or contract"):
            TemplateEnvelope.pack(template, digest)


@pytest.mark.parametrize("dim", [3, 5, 128])
def test_the_length_is_what_the_envelope_says(dim: int) -> None:
    with pytest.raises(InvalidTemplate, match="16 bytes"):
        packed(unit(4), dim=dim).open()


@pytest.mark.parametrize("data", ["!!!!", "AAA", "AAAA AAAA===", "ÄÄÄÄ", "AAAAAAA_", "A" * 7, " AAAAAAAAAAA="])
def test_what_is_not_base64_is_refused(data: str) -> None:
    with pytest.raises(InvalidTemplate):
        TemplateEnvelope(contract=DIGEST, dim=2, data=data).open()


@given(st.text(max_size=64), st.integers(2, 20))
def test_any_text_is_refused_in_order(data: str, dim: int) -> None:
    with pytest.raises(InvalidTemplate):
        TemplateEnvelope(contract=DIGEST, dim=dim, data=data).open()


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"dtype": "float16"},
        {"dim": 1},
        {"dim": 4097},
        {"dim": "4"},
        {"dim": 4.5},
        {"contract": "a" * 63},
        {"contract": "G" * 64},
        {"data": 7},
        {"data": "A" * 30_000},
        {"key": "x"},
    ],
)
def test_an_envelope_of_another_form_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        packed(unit(4), **change)


def test_an_envelope_shows_no_template() -> None:
    envelope = TemplateEnvelope.pack(unit(4), DIGEST)
    assert envelope.data not in repr(envelope)
    with pytest.raises(InvalidTemplate) as caught:
        packed([0.123456, 0.5]).open()
    assert "0.12" not in str(caught.value)
