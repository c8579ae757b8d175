"""The set-up says what it is doing, how far it is, and in one sentence what to do when it fails."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from shared.processes.pair import free_port
from tests.support.tiny_model import tiny_wheel

ROOT = Path(__file__).resolve().parents[2]


def installed(wheels: Path, target: Path, package: str) -> subprocess.CompletedProcess[str]:
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    return subprocess.run(
        [ROOT / "deploy" / "install", sys.executable, "--target", target, package],
        env=os.environ | offline,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_an_installation_says_what_it_unpacks(tmp_path: Path) -> None:
    tiny_wheel(tmp_path, {"patronus_tiny/data": b"1"})
    done = installed(tmp_path, tmp_path / "target", "patronus-tiny")
    assert (done.returncode, done.stdout) == (0, "      unpacking 1 packages\n")
    assert (tmp_path / "target" / "patronus_tiny" / "data").read_bytes() == b"1"


def test_a_package_that_cannot_be_had_ends_with_what_to_do(tmp_path: Path) -> None:
    failed = installed(tmp_path, tmp_path / "target", "patronus-tiny")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "No matching distribution found for patronus-tiny" in failed.stderr
    assert failed.stderr.splitlines()[-1] == (
        "The packages could not be installed. Solve what pip reports above, then run the same command again."
    )


@pytest.mark.parametrize(
    ("goal", "steps"),
    [
        ("run", 4),
        ("demo", 4),
        ("test", 5),
        ("test-all", 6),
        ("test-browser", 5),
        ("lint", 3),
        ("lab", 3),
        ("models", 3),
    ],
)
def test_each_step_is_counted(goal: str, steps: int, tmp_path: Path) -> None:
    command = ["make", "--dry-run", "--directory", ROOT, goal, f"VENV={tmp_path / 'venv'}"]
    planned = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    counted = [tuple(map(int, found)) for found in re.findall(r"\[(\d)/(\d)\] ", planned)]
    assert counted == [(number, steps) for number in range(1, steps + 1)]


@pytest.mark.parametrize("service", ["edge", "cloud"])
def test_a_port_that_is_taken_is_told_before_anything_is_installed(service: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        ports = {"PATRONUS_EDGE__PORT": str(free_port()), "PATRONUS_CLOUD__PORT": str(free_port())}
        ports[f"PATRONUS_{service.upper()}__PORT"] = str(taken)
        command = ["make", "--directory", ROOT, "run", f"VENV={tmp_path / 'venv'}", f"PYTHON={sys.executable}"]
        failed = subprocess.run(
            command, env=os.environ | ports, capture_output=True, text=True, check=False, timeout=120
        )
    assert failed.returncode != 0
    assert f"Port {taken} of 127.0.0.1, for the {service}, is taken already; stop what listens there" in failed.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("port", ["0", "many", "99999999", ""])
def test_a_setting_that_is_no_port_is_left_to_the_service(port: str) -> None:
    free = {"PATRONUS_EDGE__PORT": port, "PATRONUS_CLOUD__PORT": str(free_port())}
    command = [sys.executable, ROOT / "deploy" / "ports"]
    done = subprocess.run(command, env=os.environ | free, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
