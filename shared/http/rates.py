"""How often a key may call: the words for it, and the defaults of a service."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, StringConstraints

_ONE: Final = r"[1-9][0-9]{0,8}/(second|minute|hour|day)"
UNLIMITED: Final = "unlimited"
RATE_PATTERN: Final = rf"^({UNLIMITED}|{_ONE}(;{_ONE}){{0,3}})$"

Rate = Annotated[str, StringConstraints(pattern=RATE_PATTERN)]
"""``50/second``, or several that all hold: ``50/second;20000/hour``; or ``unlimited``."""


class RateSettings(BaseModel):
    """How often one API key may call, by what it asks for, unless it was made with a rate of its own.

    Counted over a sliding window, in the memory of this process: several replicas let through as many times as much.
    That one key does not take all of a small machine is seen to elsewhere, by places (`shared/http/load_shedding.py`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reading: Rate = UNLIMITED
    """Listings and looks at one thing."""
    matching: Rate = "20000/hour"
    """Probes that are verified or identified, and pictures that are looked at: what a thief of a key tries faces with.
    Five a second all day, in bursts as they come, or twenty doors in a rush: no door is locked out by it, and a thief
    needs days for the millions that a search takes, and is in the log."""
    writing: Rate = UNLIMITED
    """Enrollments, erasures, and all else."""
