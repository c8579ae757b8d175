"""What a process may use: its control groups, its affinity, its limits; pretended, and real where this machine lets."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.security.process_limits import MOST_CPUS, memory_limit_bytes, usable_cpus

GIB = 2**30
V2 = "0::{path}\n"
V2_MOUNT = "31 23 0:28 {shown} /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup rw\n"
V1 = "4:memory:{path}\n2:cpu,cpuacct:{path}\n1:name=systemd:/other\n0::/\n"
V1_MOUNT = (
    "32 31 0:29 {shown} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:32 {shown} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
)


@pytest.fixture(autouse=True)
def _large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 96 processors and 64 GiB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(96)), raising=False)
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 64 * GIB // 4096, "SC_PAGE_SIZE": 4096}.__getitem__)


def system(root: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """A file system with these control files under ``/sys/fs/cgroup``."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/self/mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts)
    for name, text in files.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return root


def version_2(root: Path, files: dict[str, str], *, path: str = "/", shown: str = "/") -> Path:
    return system(root, V2.format(path=path), V2_MOUNT.format(shown=shown), files)


def version_1(root: Path, files: dict[str, str], *, path: str = "/", shown: str = "/") -> Path:
    return system(root, V1.format(path=path), V1_MOUNT.format(shown=shown), files)


def test_without_limits_the_processors_are_counted_up_to_a_cap(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path) == MOST_CPUS == 16
    assert memory_limit_bytes(tmp_path) == 64 * GIB


def test_processors_that_the_process_is_not_scheduled_on_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3, 5, 7})
    assert usable_cpus(tmp_path) == 3


@pytest.mark.parametrize(("there_are", "expected"), [(10, 10), (96, MOST_CPUS), (None, 1)])
def test_a_system_without_affinity_tells_how_many_processors_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there_are: int | None, expected: int
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: there_are)
    assert usable_cpus(tmp_path) == expected


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("400000 50000", 8),
        ("max 100000", MOST_CPUS),
        ("nonsense", MOST_CPUS),
        ("100000 0", MOST_CPUS),
    ],
)
def test_a_quota_of_version_2_bounds_the_processors(tmp_path: Path, quota: str, expected: int) -> None:
    assert usable_cpus(version_2(tmp_path, {"cpu.max": quota})) == expected


@pytest.mark.parametrize(
    ("quota", "period", "expected"),
    [("200000", "100000", 2), ("150000", "100000", 2), ("-1", "100000", MOST_CPUS), ("100000", "0", MOST_CPUS)],
)
def test_a_quota_of_version_1_bounds_the_processors(tmp_path: Path, quota: str, period: str, expected: int) -> None:
    files = {"cpu,cpuacct/cpu.cfs_quota_us": quota, "cpu,cpuacct/cpu.cfs_period_us": period}
    assert usable_cpus(version_1(tmp_path, files)) == expected


@pytest.mark.parametrize("limited", ["a", "a/b", "a/b/c"])
def test_a_limit_of_any_group_above_holds(tmp_path: Path, limited: str) -> None:
    files = {"a/b/c/cpu.max": "max 100000", "a/b/c/memory.max": "max"}
    files |= {f"{limited}/cpu.max": "300000 100000", f"{limited}/memory.max": str(GIB)}
    root = version_2(tmp_path, files, path="/a/b/c")
    assert (usable_cpus(root), memory_limit_bytes(root)) == (3, GIB)


def test_groups_beside_the_processes_own_do_not_hold(tmp_path: Path) -> None:
    root = version_2(tmp_path, {"a/b/cpu.max": "100000 100000", "a/cpu.max": "max 100000"}, path="/a/c")
    assert usable_cpus(root) == MOST_CPUS


@pytest.mark.parametrize("path", ["/docker/4711", "/docker/4711/inner", "/../elsewhere", "/elsewhere"])
def test_a_container_that_sees_its_path_on_the_host_finds_its_limits(tmp_path: Path, path: str) -> None:
    files = {"cpu.max": "200000 100000", "memory.max": str(3 * GIB)}
    root = version_2(tmp_path, files, path=path, shown="/docker/4711")
    assert (usable_cpus(root), memory_limit_bytes(root)) == (2, 3 * GIB)


def test_memory_is_bounded_in_version_1(tmp_path: Path) -> None:
    files = {"memory/a/memory.limit_in_bytes": "9223372036854771712", "memory/memory.limit_in_bytes": str(3 * GIB)}
    assert memory_limit_bytes(version_1(tmp_path, files, path="/a")) == 3 * GIB


def test_no_limit_of_a_group_is_more_than_the_machine_has(tmp_path: Path) -> None:
    assert memory_limit_bytes(version_2(tmp_path, {"memory.max": str(1024 * GIB)})) == 64 * GIB


def test_a_limit_on_the_address_space_bounds_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (2 * GIB, 4 * GIB))
    assert memory_limit_bytes(tmp_path) == 2 * GIB


def test_where_nothing_is_known_of_memory_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_name: str) -> int:
        raise ValueError

    monkeypatch.setattr(os, "sysconf", unknown)
    assert memory_limit_bytes(tmp_path) is None


@pytest.fixture
def real_groups() -> Iterator[list[Path]]:
    """Control groups of this machine: at most 1 of its processors, and 512 MiB."""
    base = Path("/sys/fs/cgroup")
    unified = (base / "cgroup.controllers").exists()
    places = [base] if unified else [base / "cpu", base / "memory"]
    groups = [place / f"patronus-test-{os.getpid()}" for place in places]
    made = []
    try:
        for group in groups:
            group.mkdir()
            made.append(group)
        if unified:
            (groups[0] / "cpu.max").write_text("100000 100000")
            (groups[0] / "memory.max").write_text(str(GIB // 2))
        else:
            (groups[0] / "cpu.cfs_quota_us").write_text("100000")
            (groups[1] / "memory.limit_in_bytes").write_text(str(GIB // 2))
    except OSError as error:
        for group in made:
            group.rmdir()
        pytest.skip(f"control groups cannot be made here: {error.strerror}")
    yield groups
    for group in made:
        group.rmdir()


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_real_control_groups_bound_a_process(real_groups: list[Path]) -> None:
    program = "from shared.security.process_limits import *; input(); print(usable_cpus(), memory_limit_bytes())"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        for group in real_groups:
            (group / "cgroup.procs").write_text(str(process.pid))
        out, _ = process.communicate("\n", timeout=60)
    assert out.split() == ["1", str(GIB // 2)]
