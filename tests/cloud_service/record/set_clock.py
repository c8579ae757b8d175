"""A clock whose hands a test moves."""

from __future__ import annotations

from datetime import datetime, timedelta

from cloud_service.clock import RecordClock


class Hands:
    """The machine's clock and the monotonic one. They run together only by ``pass_by``."""

    def __init__(self, wall: datetime) -> None:
        self.wall = wall
        self.seconds = 1000.0

    def pass_by(self, time: timedelta) -> None:
        """Time passes."""
        self.wall += time
        self.seconds += time.total_seconds()

    def clock(self) -> RecordClock:
        """A record's clock with the service's own limits, which looks at these hands."""
        return RecordClock(timedelta(minutes=5), 3600, lambda: self.wall, lambda: self.seconds)
