"""``make run``: both services in the foreground, and what it says when one of them is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
from processes import wait_until_ready

from lab.pair import free_port


def test_a_service_that_is_killed_is_named_with_its_signal_and_the_other_ends_too(tmp_path: Path) -> None:
    ports = {"CLOUD": free_port(), "EDGE": free_port()}
    environment = {f"PATRONUS_{service}__PORT": str(port) for service, port in ports.items()}
    environment |= {"PATRONUS_HOME": str(tmp_path / "home")}
    with subprocess.Popen(
        [sys.executable, "-m", "deploy.run_pair"],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        with httpx.Client(base_url=f"http://127.0.0.1:{ports['EDGE']}") as edge:
            wait_until_ready(running, edge)
        address = tmp_path / "home" / "edge" / "address"
        assert address.read_text() == f"http://127.0.0.1:{ports['EDGE']}\n"
        address.write_text("http://127.0.0.1:1\n")  # as a second edge that was started on the same folder
        os.kill(_child(running.pid, "cloud_service"), signal.SIGKILL)
        _, words = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "The cloud was killed (SIGKILL); both services end here." in words
    assert address.read_text() == "http://127.0.0.1:1\n"  # it is not ours to remove


def _child(parent: int, module: str) -> int:
    """The process that a process started with this module."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_text()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[1]) == parent and module in command:
            return int(folder.name)
    raise AssertionError(f"{module} does not run")
