"""Services start and verify a face on a Python from which everything that macOS lacks was removed."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from shared.processes.pair import running_pair
from shared.security.secret_files import read_secret
from tests.support.servers import PICTURES

# Python's `site` imports this before anything else. The names are those that the documentation of Python says are there
# on Linux and not on macOS; and there is no /proc, no /sys, and a C library without mallopt.
WITHOUT_LINUX = """
import select

del select.epoll  # before `selectors` looks for it

import ctypes.util, io, os, resource, signal, socket, sys

for module, names in {
    os: (
        "sched_getaffinity sched_setaffinity sched_getscheduler sched_setscheduler sched_getparam sched_setparam "
        "posix_fadvise posix_fallocate memfd_create eventfd eventfd_read eventfd_write pidfd_open setns unshare "
        "getrandom fdatasync splice copy_file_range getxattr setxattr listxattr removexattr "
        "O_TMPFILE O_PATH O_DIRECT O_NOATIME POSIX_FADV_DONTNEED POSIX_FADV_SEQUENTIAL preadv2 pwritev2 "
        "getresuid getresgid setresuid setresgid pipe2"
    ),
    signal: "pidfd_send_signal sigtimedwait sigwaitinfo SIGSTKFLT SIGPWR",
    socket: "AF_NETLINK AF_PACKET AF_VSOCK SO_BINDTODEVICE TCP_DEFER_ACCEPT TCP_QUICKACK TCP_USER_TIMEOUT TCP_CORK",
    resource: "prlimit RLIMIT_SIGPENDING RLIMIT_MSGQUEUE RLIMIT_RTPRIO RLIMIT_NICE",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)

opened = io.open

def without_proc(file, *options, **named):
    if isinstance(file, (str, os.PathLike)) and os.fspath(file).startswith(("/proc", "/sys")):
        raise FileNotFoundError(2, "No such file or directory", os.fspath(file))
    return opened(file, *options, **named)

import builtins
io.open = builtins.open = without_proc
ctypes.util.find_library = lambda name: None
print("nothing of Linux here", file=sys.stderr)
"""


@pytest.mark.slow(reason="starts a pair of its own")
def test_a_pair_starts_and_verifies_a_face_without_what_only_linux_has(
    tmp_path: Path, models_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT_LINUX)
    settings = {"PYTHONPATH": str(tmp_path / "site"), "PATRONUS_MODELS": str(models_folder)}
    one, other = ((PICTURES / "obama" / name).read_bytes() for name in ("portrait.jpg", "speech.jpg"))
    with running_pair(tmp_path / "home", settings) as (url, key_file):
        key = read_secret(key_file).decode().strip()
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as client:
            assert client.put("/v1/galleries/staff").status_code == 201
            subject = "/v1/galleries/staff/subjects/obama"
            assert client.post(f"{subject}/faces", files={"image": one}).status_code == 201
            answer = client.post(f"{subject}/verify", files={"image": other})
    assert (answer.status_code, answer.json()["decision"]) == (200, "match")
    assert capfd.readouterr().err.count("nothing of Linux here") == 2
