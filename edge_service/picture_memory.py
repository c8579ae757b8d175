"""Limits the memory of decoded pictures, and returns large blocks to the system."""

from __future__ import annotations

import ctypes
import ctypes.util
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
# Not all of the rest: heaps keep some freed memory, and the kernel counts its own buffers too.
_SHARE: Final = 0.8
# Enough for a picture of some ten megapixels, whatever the limit says.
_LEAST_BYTES: Final = 100_000_000
# glibc's mallopt(3).
_M_MMAP_THRESHOLD: Final = -3
# Blocks from here on are mapped, and unmapped when freed. By itself glibc raises this limit to 32 MiB with use and
# keeps freed blocks in its heaps: after pictures of 40 megapixels the process stayed at 600 MB, with this at 330. At
# 1 MiB it stayed at 215, but each inference then remaps its buffers and takes 1.4 times as long; at 8 MiB no longer.
_MAPPED_BYTES: Final = 8 * 1024 * 1024


class PictureMemory:
    """Admits pictures while the memory to decode and search them fits the budget.

    A picture that does not fit now waits, in order of arrival: small pictures would otherwise starve a large one.

    Args:
        total_bytes: for all pictures together.
        wait_seconds: how long a picture may wait.

    ``used_bytes`` is the memory reserved now.
    """

    def __init__(self, total_bytes: int, wait_seconds: float) -> None:
        self.total_bytes = total_bytes
        self._wait_seconds = wait_seconds
        self.used_bytes = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def waiting(self) -> int:
        """Number of pictures that wait."""
        return len(self._waiting)

    @contextmanager
    def reserve(self, size_bytes: int) -> Iterator[None]:
        """Reserves memory for one picture while its pixels live.

        Args:
            size_bytes: its peak.

        Raises:
            TooLarge: more than the whole budget.
            Overloaded: there was not enough for too long; nothing is reserved.
        """
        if size_bytes > self.total_bytes:
            raise TooLarge(
                f"Decoding this picture takes {size_bytes // 1_000_000} MB of memory, and this edge may use "
                f"{self.total_bytes // 1_000_000} MB for pictures. Send a smaller one.",
                reason="too_much_memory",
                limit_bytes=self.total_bytes,
            )
        self._wait_for_room(size_bytes)
        try:
            yield
        finally:
            with self._changed:
                self.used_bytes -= size_bytes
                self._changed.notify_all()

    def _wait_for_room(self, size_bytes: int) -> None:
        ticket = object()
        until = time.monotonic() + self._wait_seconds
        with self._changed:
            self._waiting.append(ticket)
            try:
                while self._waiting[0] is not ticket or self.used_bytes + size_bytes > self.total_bytes:
                    left = until - time.monotonic()
                    if left <= 0:
                        raise Overloaded(
                            "The edge has no memory left for a picture of this size at the moment; try again soon."
                        )
                    self._changed.wait(left)
                self.used_bytes += size_bytes
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()


def open_picture_memory(limits: PictureLimits) -> PictureMemory:
    """The budget from the settings, or a share of the memory that this process may use."""
    total = limits.all_memory_bytes
    if not total:
        allowed = memory_limit_bytes()
        rest = None if allowed is None else int(_SHARE * (allowed - _RESERVED_BYTES))
        # Where no limit can be found: as in the compose file, for five of the largest pictures.
        total = 5 * limits.max_memory_bytes if rest is None else max(rest, _LEAST_BYTES)
        if total < limits.max_memory_bytes:
            _log.warning("little_memory_for_pictures", bytes=total, needed=limits.max_memory_bytes)
    return PictureMemory(total, limits.memory_wait_s)


def unmap_large_blocks() -> bool:
    """Makes the C library unmap large blocks, such as decoded pictures, once they are freed.

    Returns:
        Whether the C library supports it; glibc does.
    """
    library = ctypes.util.find_library("c")
    mallopt = getattr(ctypes.CDLL(library), "mallopt", None) if library else None
    return mallopt is not None and mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES) == 1
