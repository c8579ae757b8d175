"""Whole numbers as JSON has them: 128 and 128.0 are the same number there, and some encoders write the second."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator


def _without_point(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


_AS_JSON_HAS_IT = BeforeValidator(_without_point)

Whole = Annotated[int, _AS_JSON_HAS_IT]
"""For models that are strict, which else refuse 128.0. A text, a truth value and 128.5 are refused as ever."""

One = Annotated[Literal[1], _AS_JSON_HAS_IT]
"""The version of what has one version only."""
