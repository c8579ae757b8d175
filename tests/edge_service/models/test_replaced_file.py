"""A file appears whole or not at all, and a process that is killed leaves nothing beside it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_service.models.files import replaced_file

# Where there are no files without a name, as on macOS.
WITHOUT = "import os; del os.O_TMPFILE"
PROGRAM = """
import sys, time
from pathlib import Path
from edge_service.models.files import replaced_file
with replaced_file(Path(sys.argv[1])) as file:
    file.write(b"templates" * 10_000)
    file.flush()
    print("half", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("before", [None, b"old"])
@pytest.mark.parametrize(("first", "ended_by"), [("", "SIGTERM"), ("", "SIGKILL"), (WITHOUT, "SIGTERM")])
def test_a_killed_writer_leaves_nothing(tmp_path: Path, first: str, ended_by: str, before: bytes | None) -> None:
    target = tmp_path / "out.npz"
    if before is not None:
        target.write_bytes(before)
    command = [sys.executable, "-c", f"{first}\n{PROGRAM}", str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "half\n"
        writer.send_signal(signal.Signals[ended_by])
    assert writer.returncode != 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == (
        {} if before is None else {"out.npz": before}
    )


@pytest.mark.parametrize("unnamed", [True, False])
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_takes_its_place_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, *, unnamed: bool
) -> None:
    if not unnamed:
        monkeypatch.delattr("os.O_TMPFILE", raising=False)
    target, handler = tmp_path / "out", signal.getsignal(signal.SIGTERM)
    for content in (b"one", b"two"):
        with replaced_file(target, mode) as file:
            file.write(content)
            assert not target.exists() or target.read_bytes() != content
        assert target.read_bytes() == content
        assert target.stat().st_mode & 0o777 == mode
    with contextlib.suppress(ZeroDivisionError), replaced_file(target) as file:
        file.write(b"x" * (10_000 // 0))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out", b"two")]
    assert signal.getsignal(signal.SIGTERM) is handler
