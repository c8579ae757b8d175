"""Large blocks go back to the system when they are freed."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Blocks of 16 MiB are freed once, upon which glibc keeps such blocks in its heap; a small one on top holds it there.
PROGRAM = """
import ctypes, sys
from edge_service.picture_memory import unmap_large_blocks
if sys.argv[1] == "given back" and not unmap_large_blocks():
    raise SystemExit("not glibc")
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
def block(size):
    at = library.malloc(size)
    ctypes.memset(at, 1, size)
    return at
library.free(block(30 << 20))
large = [block(16 << 20) for _ in range(8)]
top = block(1 << 20)
for at in large:
    library.free(at)
print(int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20)
"""


def megabytes_left(how: str) -> int:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=60, check=False
    )
    if "not glibc" in ended.stderr:
        pytest.skip("this C library has no mallopt")
    return int(ended.stdout)


def test_freed_large_blocks_leave_the_process() -> None:
    kept, given_back = megabytes_left("kept"), megabytes_left("given back")
    assert given_back < 64
    assert kept > given_back + 64, "without the setting they stay, so the test can fail"
