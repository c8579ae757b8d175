"""The time by which templates age.

It does not go back, and a jump of the machine's clock erases nobody at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from shared.errors import RecordDamaged
from shared.logs import get_logger
from shared.wire.common import moment_text

_log = get_logger(__name__)

# How far a recorded time may be ahead of the machine's clock and still come from a clock that was set back. Beyond it
# damage is as likely, and to go by it would stop all matching where templates expire.
_MOST_AHEAD = timedelta(days=366)


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class _Settled:
    """A time that is believed, and what the monotonic clock showed then."""

    at: datetime
    monotonic: float


class RecordClock:
    """Two times: what has expired must not match, and what is erased does not come back.

    ``now`` is the latest of the machine's clock, the recorded time and the settled time: matching and stamping go by
    it. ``settled`` is what erasing goes by. It runs with the monotonic clock, follows the machine's clock forward over
    less than ``jump``, and over more only when that has run on steadily for ``settle_seconds``. It never goes back
    while the process runs: where the machine's clock is set back, templates age on.

    The recorded time may be wrong, as any stored value: nothing is erased by one that is ahead by more than
    ``jump`` before the machine's clock has got there. One that is more than a year ahead is refused.

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
        # The latest time that was read from the record; it runs on with the monotonic clock.
        self._recorded: _Settled | None = None
        # The machine's clock, less the monotonic one, when it was first seen to have jumped; and when that was.
        self._jumped: tuple[datetime, float] | None = None

    def begin(self, seen: datetime) -> None:
        """Takes up the recorded time, at a start.

        Raises:
            RecordDamaged: it is more than a year ahead of the machine's clock.
        """
        wall = self._wall()
        self._settled = _Settled(seen if seen - wall <= self.jump else wall, self._monotonic())
        self.observe(seen)

    def now(self) -> datetime:
        """What has expired by this time matches nobody."""
        return max(self._wall(), self.latest())

    def settled(self) -> datetime:
        """What has expired by this time may be erased."""
        return self._run_on(self._settled)

    def latest(self) -> datetime:
        """What is to be recorded: the later of the settled and the recorded time."""
        settled, recorded = self.settled(), self._recorded
        return settled if recorded is None else max(settled, self._run_on(recorded))

    def _run_on(self, since: _Settled) -> datetime:
        return since.at + timedelta(seconds=self._monotonic() - since.monotonic)

    def observe(self, seen: datetime) -> None:
        """Compares the clocks; to be called every now and then.

        Args:
            seen: the recorded time, which another process may have written.

        Raises:
            RecordDamaged: it is more than a year ahead of the machine's clock and of the settled time.
        """
        wall, monotonic = self._wall(), self._monotonic()
        settled = self.settled()
        known = max(wall, settled)
        self._take_recorded(seen, known)
        if seen - known <= self.jump:
            settled = max(settled, seen)
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

    def _take_recorded(self, seen: datetime, known: datetime) -> None:
        if seen - known > _MOST_AHEAD:
            raise RecordDamaged(
                f"The row time_seen of the table record_value says {moment_text(seen)}, more than a year after this "
                f"machine's clock ({moment_text(self._wall())}): either the clock is wrong, or the row is damaged. "
                "Set the clock right, or restore the record from a backup."
            )
        before = self.latest()
        if seen <= before:
            return
        if seen - known > self.jump and before - known <= self.jump:
            ahead = int((seen - known).total_seconds())
            _log.warning(
                "recorded_time_is_ahead_of_the_clock", row="time_seen of the table record_value", seconds=ahead
            )
        self._recorded = _Settled(seen, self._monotonic())
