"""Peak memory of a test run: of all its processes together, workers and the services that they started."""

from __future__ import annotations

import ctypes
import os
import re
import threading
import uuid
from contextlib import suppress
from pathlib import Path

_MARK = "PATRONUS_TEST_RUN_ID"
# Reading the size of a large process takes milliseconds, in which it stands still.
_INTERVAL_SECONDS = 5.0


class PeakMemory:
    """Sums the memory of a run's processes every 5 seconds (Linux); a shared page counts in parts (PSS).

    A process belongs to the run when its environment carries the run's id, which every child inherits.
    """

    def __init__(self) -> None:
        self.run = os.environ.setdefault(_MARK, uuid.uuid4().hex)
        self.peak_bytes, self.peak_processes = 0, 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends sampling."""
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(_INTERVAL_SECONDS):
            sizes = self._sizes()
            if sum(sizes) > self.peak_bytes:
                self.peak_bytes, self.peak_processes = sum(sizes), len(sizes)

    def _sizes(self) -> list[int]:
        mark, found = f"{_MARK}={self.run}".encode(), []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # the process has ended, or belongs to another user
                if folder.name == str(os.getpid()) or mark in (folder / "environ").read_bytes():
                    size = re.search(r"^Pss:\s+(\d+) kB", (folder / "smaps_rollup").read_text(), re.MULTILINE)
                    found.append(int(size[1]) * 1024 if size else 0)
        return found


def give_back() -> None:
    """Returns free memory to the system, where the C library can (glibc): it keeps what training has freed."""
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
