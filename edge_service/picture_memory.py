"""One budget of memory for all pictures that are decoded at the same time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from edge_service.settings import PictureLimits
from shared.errors import Overloaded, TooLarge
from shared.logs import get_logger
from shared.security.process_limits import memory_limit_bytes

_log = get_logger(__name__)
# What the edge takes without any picture: 0.33 GB after large ones (docs/operating.md), and bodies of requests that
# are being received or wait for a worker, of which the application takes 0.27 GB at most.
_RESERVED_BYTES: Final = 600_000_000
# The rest is not given away whole: heaps keep some of what was freed, and the kernel counts its own buffers too.
_SHARE: Final = 0.8
# Enough for a picture of some ten megapixels, whatever the limit says.
_LEAST_BYTES: Final = 100_000_000


class PictureMemory:
    """Lets in pictures as long as what decoding and searching them takes fits the budget.

    A picture that does not fit at the moment waits for a while, behind those that came before it: small ones would
    otherwise keep a large one out for good.

    Args:
        total_bytes: for all pictures together.
        wait_seconds: how long a picture may wait.
    """

    def __init__(self, total_bytes: int, wait_seconds: float) -> None:
        self.total_bytes = total_bytes
        self._wait_seconds = wait_seconds
        self._used = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def used_bytes(self) -> int:
        """What the pictures inside take."""
        return self._used

    @property
    def waiting(self) -> int:
        """How many pictures wait."""
        return len(self._waiting)

    @contextmanager
    def reserve(self, size_bytes: int) -> Iterator[None]:
        """Holds memory for one picture for as long as its pixels live.

        Args:
            size_bytes: most that it takes at any moment.

        Raises:
            TooLarge: more than the whole budget.
            Overloaded: there was not enough for too long; nothing is held.
        """
        if size_bytes > self.total_bytes:
            raise TooLarge(
                f"Decoding this picture takes {size_bytes // 1_000_000} MB of memory, and this edge may use "
                f"{self.total_bytes // 1_000_000} MB for pictures. Send a smaller one.",
                reason="too_much_memory",
                limit_bytes=self.total_bytes,
            )
        self._enter(size_bytes)
        try:
            yield
        finally:
            with self._changed:
                self._used -= size_bytes
                self._changed.notify_all()

    def _enter(self, size_bytes: int) -> None:
        ticket = object()
        until = time.monotonic() + self._wait_seconds
        with self._changed:
            self._waiting.append(ticket)
            try:
                while self._waiting[0] is not ticket or self._used + size_bytes > self.total_bytes:
                    left = until - time.monotonic()
                    if left <= 0:
                        raise Overloaded(
                            "The edge has no memory left for a picture of this size at the moment; try again soon."
                        )
                    self._changed.wait(left)
                self._used += size_bytes
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()


def open_picture_memory(limits: PictureLimits) -> PictureMemory:
    """The budget that the settings name, or a share of the memory that this process may use."""
    total = limits.all_memory_bytes
    if not total:
        allowed = memory_limit_bytes()
        rest = None if allowed is None else int(_SHARE * (allowed - _RESERVED_BYTES))
        # Where no limit can be found: as in the compose file, for five of the largest pictures.
        total = 5 * limits.max_memory_bytes if rest is None else max(rest, _LEAST_BYTES)
        if total < limits.max_memory_bytes:
            _log.warning("little_memory_for_pictures", bytes=total, needed=limits.max_memory_bytes)
    return PictureMemory(total, limits.memory_wait_s)
