"""Ages and moments as people write them on a command line: ``90d``, ``2027-01-31``."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from typing import Final

import typer

from shared.command import counted
from shared.wire.common import MAX_AGE

_UNITS: Final = {"day": 86_400, "hour": 3_600, "minute": 60, "second": 1}


_MOST_DIGITS: Final = 10


def seconds_of(age: str) -> int:
    """The seconds of ``90d``, ``12h``, ``30m`` or ``45s``.

    Raises:
        BadParameter: it is none of these, or over 100 years.
    """
    parts = re.fullmatch(r"([1-9][0-9]*)([dhms])", age)
    if parts is None:
        raise typer.BadParameter("an age is a number and a unit, such as 90d, 12h, 30m or 45s")
    unit = next(_UNITS[unit] for unit in _UNITS if unit.startswith(parts[2]))
    if len(parts[1]) > _MOST_DIGITS or int(parts[1]) * unit > MAX_AGE:
        raise typer.BadParameter(f"an age is at most 100 years, {MAX_AGE // _UNITS['day']}d")
    return int(parts[1]) * unit


def age_text(seconds: int) -> str:
    """An age in its largest unit that leaves nothing over, such as ``90 days``."""
    unit = next(unit for unit in _UNITS if seconds % _UNITS[unit] == 0)
    return counted(seconds // _UNITS[unit], unit)


def moment_of(text: str) -> datetime:
    """The moment that a date begins at in UTC; or a date, time and time zone (ISO 8601).

    Raises:
        BadParameter: it is neither.
    """
    try:
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            return datetime.combine(date.fromisoformat(text), time.min, UTC)
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise typer.BadParameter("a date is like 2027-01-31, or with a time and its zone like 2027-01-31T18:00:00+01:00")
