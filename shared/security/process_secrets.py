"""Keeps a process's memory, such as keys and pictures, out of core dumps and swap.

``keep_out_of_dumps`` is for every program that may hold a key. ``lock_memory`` is for those that hold the edge's keys.
What neither can do stands in docs/threat-model.md.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path
from typing import Final, Literal

# prctl(2), mlockall(2) and capabilities(7) of Linux.
_PR_SET_DUMPABLE: Final = 4
_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4
_CAP_IPC_LOCK: Final = 14


def keep_out_of_dumps() -> None:
    """Switches core dumps of this process off permanently.

    On Linux, other processes of the same user cannot inspect it either.

    The resource limit alone does not bind where the kernel hands dumps to a program (``core_pattern`` begins with
    ``|``), and a child inherits the limit only: a program that is started from here and holds keys calls this itself.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def lock_memory() -> Literal["all", "nothing"]:
    """Locks all memory of this process, now and later, where the system sets no limit to that.

    Under a limit it locks nothing: the kernel counts addresses, not pages in use, so every later allocation beyond the
    limit would fail. Each key would have to be locked instead, and Python copies bytes freely.

    Returns:
        How much of what the process has touched, and will touch, cannot be swapped out.
    """
    if sys.platform != "linux" or not _may_lock_all():
        return "nothing"
    # On fault: a page is locked when it is first used. Otherwise each thread's whole stack would become resident.
    done = ctypes.CDLL(None).mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0
    return "all" if done else "nothing"


def lock_pages(secret: bytes) -> bool:
    """Locks the pages of these bytes, not of copies, while the process lives.

    Returns:
        Whether the system allowed it. Nearly every one allows some pages.
    """
    mlock = ctypes.CDLL(None).mlock
    mlock.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
    return bool(mlock(secret, len(secret)) == 0)


def _may_lock_all() -> bool:
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        return True
    try:
        status = Path(f"/proc/{os.getpid()}/status").read_text()
    except OSError:
        return False
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _CAP_IPC_LOCK & 1)
