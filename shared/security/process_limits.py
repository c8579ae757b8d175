"""Processors and memory that this process may use. Both services ask only here.

A container on a large host sees all of the host's processors and all its memory; what it may use of them is
in its control groups. Read are version 2 (``cpu.max``, ``memory.max``) and version 1 (``cpu.cfs_quota_us``,
``memory.limit_in_bytes``) of the process's own group and of every group above it that can be seen from here.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

# Processors that are made use of unless a setting asks for more. Each one costs an edge four threads (a worker, one for
# each of the two models, one for OpenCV) and the memory of a picture at work. With 16 a service stays well under the
# 256 threads and processes that the compose file allows it.
MOST_CPUS: Final = 16

_ROOT: Final = Path("/")
# Of a line of mountinfo: the fifth field is where the file system is mounted.
_FIELDS: Final = 5


def usable_cpus(root: Path = _ROOT) -> int:
    """How many processors this process may keep busy: at least 1, at most ``MOST_CPUS``.

    The smallest of the processors it may be scheduled on and of all quotas, which are rounded up: of a quota of 1.5
    processors one thread would leave a third unused.

    Args:
        root: where ``proc`` and the mounted control groups are looked for; another one in tests.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    available = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(MOST_CPUS, available, *_cpu_quotas(root)))


def memory_limit_bytes(root: Path = _ROOT) -> int | None:
    """How many bytes of memory this process may use: the smallest limit found, or None.

    Counted are the limits of its control groups, the machine's memory, and the limit on its address space
    (``RLIMIT_AS``) where there is one.

    Args:
        root: where ``proc`` and the mounted control groups are looked for; another one in tests.
    """
    limits = [_number(group / "memory.max") for group in _groups(root)]
    limits += [_number(group / "memory.limit_in_bytes") for group in _groups(root, "memory")]
    limits.append(_machine_memory_bytes())
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        limits.append(address_space)
    return min((limit for limit in limits if limit is not None), default=None)


def limit_native_threads() -> None:
    """Bounds the threads of numpy and FAISS; must be called before either is imported.

    Left alone they start one for each processor of the machine. numpy's OpenBLAS gets one thread: its others spin
    while they wait, and beside anything else on few processors each product takes ten times as long. FAISS's OpenMP
    gets as many as may be kept busy. What the environment says already stays.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cpus()))


def _cpu_quotas(root: Path) -> Iterator[int]:
    pairs = [_text(group / "cpu.max").partition(" ")[::2] for group in _groups(root)]  # "150000 100000", "max 100000"
    pairs += [(_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")) for group in _groups(root, "cpu")]
    for quota, period in pairs:
        if quota.isdigit() and period.isdigit() and int(period):
            yield -(-int(quota) // int(period))


def _groups(root: Path, controller: str = "") -> Iterator[Path]:
    """This process's group and those above it, as folders; see cgroups(7).

    Args:
        root: of the file system.
        controller: of version 1; version 2 has one hierarchy for all, whose name is empty.
    """
    own = None
    for line in _text(root / "proc/self/cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controller in controllers.split(","):
            own = PurePosixPath(path)
    if own is None:
        return
    for line in _text(root / "proc/self/mountinfo").splitlines():
        mount, _, details = line.partition(" - ")
        fields, kinds = mount.split(" "), details.split(" ")
        if kinds[0] != ("cgroup" if controller else "cgroup2") or len(fields) < _FIELDS:
            continue
        if controller and controller not in kinds[-1].split(","):
            continue
        shown, mounted = (PurePosixPath(field.replace("\\040", " ")) for field in fields[3:_FIELDS])
        # A container without a namespace of its own sees its path on the host, and its own group mounted as the root.
        inner = own.relative_to(shown) if own.is_relative_to(shown) else PurePosixPath()
        if ".." in inner.parts:  # moved out of what can be seen from here
            inner = PurePosixPath()
        top = root / mounted.relative_to("/")
        yield top / inner
        yield from (top / above for above in inner.parents)
        return


def _number(file: Path) -> int | None:
    """What a control file holds; None for "max", for -1, and where there is none."""
    text = _text(file)
    return int(text) if text.isdigit() else None


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):  # not Linux, not mounted, or not for us to read
        return ""


def _machine_memory_bytes() -> int | None:
    try:
        pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # a system that does not know the name
        return None
    return pages * page_bytes if pages > 0 else None
