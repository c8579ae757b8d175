"""Writers go one at a time, and none waits without end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from shared.errors import Overloaded


class WriteLock:
    """Held by one thread at a time, as a context.

    Args:
        patience_seconds: the longest that one waits for it.
    """

    def __init__(self, patience_seconds: float) -> None:
        self._lock = threading.Lock()
        self._patience = patience_seconds

    def __enter__(self) -> Self:
        """Waits for it.

        Raises:
            Overloaded: others had it for too long.
        """
        if not self._lock.acquire(timeout=self._patience):
            raise Overloaded("Others are writing, and it takes long; try again in a moment.")
        return self

    def __exit__(self, *_ended: object) -> None:
        self._lock.release()

    @contextmanager
    def however_long(self) -> Iterator[None]:
        """Waits for it until it comes: for an end that must not be refused."""
        with self._lock:
            yield
