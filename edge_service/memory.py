"""Memory of large pictures goes back to the system when they are done with."""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import Final

# glibc's mallopt(3).
_M_MMAP_THRESHOLD: Final = -3
# Blocks from here on are mapped, and unmapped when freed. By itself glibc raises this limit to 32 MiB with use and
# keeps freed blocks in its heaps: after pictures of 40 megapixels the process stayed at 600 MB, with this at 330. At
# 1 MiB it stayed at 215, but each inference then maps its buffers anew and takes 1.4 times as long; at 8 MiB no longer.
_BYTES: Final = 8 * 1024 * 1024


def give_back_large_blocks() -> bool:
    """Has large blocks of memory, decoded pictures among them, unmapped as soon as they are freed.

    Returns:
        Whether the C library can do that; glibc can.
    """
    library = ctypes.util.find_library("c")
    mallopt = getattr(ctypes.CDLL(library), "mallopt", None) if library else None
    return mallopt is not None and mallopt(_M_MMAP_THRESHOLD, _BYTES) == 1
