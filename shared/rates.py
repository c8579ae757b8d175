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
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reading: Rate = "200/second"
    """Listings and looks at one thing."""
    matching: Rate = "200/second;20000/hour"
    """Probes that are verified or identified, and pictures that are looked at. The first keeps one key from taking all
    of a small machine. The second is some five a second all day, or twenty doors in a rush: a stolen key tries half a
    million probes a day with it, not tens of millions, and is seen at it."""
    writing: Rate = "200/second"
    """Enrollments, erasures, and all else."""
