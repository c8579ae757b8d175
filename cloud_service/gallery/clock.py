"""The time by which templates age: it does not go back, and a jump of the machine's clock erases nobody at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from shared.logs import get_logger

_log = get_logger(__name__)


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class _Settled:
    """A time that is believed, and what the monotonic clock showed then."""

    at: datetime
    monotonic: float


class RecordClock:
    """Tells two times, because what has expired must not match, and what was erased does not come back.

    ``now`` is the later of the machine's clock and the settled time: matching and stamping go by it. ``settled`` is
    what erasing goes by. It runs with the monotonic clock, follows the machine's clock forward over less than ``jump``,
    and over more only when that has run on steadily for ``settle_seconds``. It never goes back: where the machine's
    clock is set back, templates age on.

    Args:
        jump: how far the machine's clock may be ahead and still be believed at once.
        settle_seconds: how long it must run on before a larger jump is believed.
        wall: the machine's clock, an aware moment.
        monotonic: seconds that only grow.
    """

    def __init__(
        self,
        jump: timedelta,
        settle_seconds: float,
        wall: Callable[[], datetime] = _utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.jump = jump
        self._settle_seconds = settle_seconds
        self._wall = wall
        self._monotonic = monotonic
        self._settled = _Settled(wall(), monotonic())
        # The machine's clock, less the monotonic one, when it was first seen to have jumped; and when that was.
        self._jumped: tuple[datetime, float] | None = None

    def begin(self, seen: datetime) -> None:
        """Takes up the latest settled time of the record, at a start."""
        self._settled = _Settled(seen, self._monotonic())
        self.look(seen)

    def now(self) -> datetime:
        """What has expired by this time matches nobody."""
        return max(self._wall(), self.settled())

    def settled(self) -> datetime:
        """What has expired by this time may be erased."""
        settled = self._settled
        return settled.at + timedelta(seconds=self._monotonic() - settled.monotonic)

    def look(self, seen: datetime) -> None:
        """Compares the clocks; to be called every now and then.

        Args:
            seen: the latest settled time of the record, which another process may have written.
        """
        wall, monotonic = self._wall(), self._monotonic()
        settled = max(self.settled(), seen)
        if wall - settled <= self.jump:
            if settled - wall > self.jump:
                _log.warning("clock_is_behind_the_record", seconds=int((settled - wall).total_seconds()))
            self._settled = _Settled(max(wall, settled), monotonic)
            self._jumped = None
            return
        began = wall - timedelta(seconds=monotonic)
        if self._jumped is None or abs(began - self._jumped[0]) > self.jump:
            self._jumped = began, monotonic
            _log.warning("clock_is_ahead_of_the_record", seconds=int((wall - settled).total_seconds()))
        elif monotonic - self._jumped[1] >= self._settle_seconds:
            self._settled = _Settled(wall, monotonic)
            self._jumped = None
            _log.info("clock_is_believed_again")
            return
        self._settled = _Settled(settled, monotonic)
