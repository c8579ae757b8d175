"""Strict models; whole numbers in JSON, in paths and in queries; moments; and what programs give to library and client.

In JSON 128 and 128.0 are the same number, and some encoders write the second. In paths and queries a number is text,
and there is one way to write it. A moment is text with its time zone, and no number of seconds or milliseconds. A
program that gives an argument of a wrong type gets a ``TypeError`` of one sentence, which names the argument and what
it takes; a wrong value is a ``PatronusError``.
"""

from __future__ import annotations

import operator
import os
import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from shared.errors import SetupError


class StrictModel(BaseModel):
    """Base of what is part of a digest or of a template: constant, and no value is coerced."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _without_point(value: object) -> object:
    if isinstance(value, bool):  # which Python takes for 0 and 1
        raise ValueError("this is a whole number, not true or false")
    return int(value) if isinstance(value, float) and value.is_integer() else value


_AS_JSON_HAS_IT = BeforeValidator(_without_point)

# For models that are strict, which else refuse 128.0. A text, a truth value and 128.5 are refused as ever.
JsonInteger = Annotated[int, _AS_JSON_HAS_IT]

_DIGITS: Final = re.compile("0|[1-9][0-9]*")


def _plain_digits(value: object) -> object:
    if isinstance(value, str) and not _DIGITS.fullmatch(value):
        raise ValueError("write a whole number in plain digits, such as 100")
    return value


# For paths and queries, where a number is text: `100`, and not `+100`, `0100`, `100.0`, `1_00` or blanks. It stands
# last in an `Annotated`: limits that follow it would be missing from the OpenAPI document.
PLAIN_DIGITS: Final = BeforeValidator(_plain_digits)


def _true_or_false(value: object) -> object:
    if isinstance(value, str) and value not in {"true", "false"}:
        raise ValueError("write true or false")
    return value


# For truth values in queries: `true` and `false`, and not `1`, `yes` or `on`.
TRUE_OR_FALSE: Final = BeforeValidator(_true_or_false)

# RFC 3339, section 5.6.
_DATE_TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)


def _date_time(value: object) -> object:
    if isinstance(value, datetime):
        return value
    with suppress(ValueError):  # such as of 31 February
        if isinstance(value, str) and _DATE_TIME.fullmatch(value):
            return datetime.fromisoformat(value.upper())  # read here: a strict model takes no text for a date
    raise ValueError("write a date, a time and its zone as RFC 3339 does, such as 2027-01-31T18:00:00+01:00")


# In JSON. Without this, pydantic also takes numbers, as seconds or milliseconds since 1970, and texts of numbers.
Moment = Annotated[datetime, BeforeValidator(_date_time)]

# The version of what has one version only.
One = Annotated[Literal[1], _AS_JSON_HAS_IT]


def wrong_type(what: str, wanted: str, given: object) -> TypeError:
    """The error for an argument of a wrong type. It does not show the value, which may be a secret.

    Args:
        what: the argument.
        wanted: what it takes, with its article.
        given: what was given.
    """
    return TypeError(f"{what} is {wanted}, not {'None' if given is None else type(given).__name__}")


def whole_number(what: str, given: object) -> int:
    """A whole number of any type that stands for one, such as NumPy's.

    Raises:
        TypeError: it is none; true and false are none either.
    """
    if not isinstance(given, bool):
        with suppress(TypeError):
            return operator.index(given)  # type: ignore[arg-type]
    raise wrong_type(what, "a whole number", given)


def file_path(what: str, given: object) -> Path:
    """A path that an operating system can open.

    Raises:
        TypeError: it is no path.
        SetupError: no file can have this name.
    """
    if not isinstance(given, str | os.PathLike):
        raise wrong_type(what, "a path", given)
    path = Path(os.fsdecode(given))
    try:
        possible = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:  # half a surrogate pair
        possible = False
    if not possible:
        raise SetupError(f"No file can have the name {str(path)!r}; name another for {what}.")
    return path
