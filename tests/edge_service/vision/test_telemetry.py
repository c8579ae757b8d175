"""Running a model opens no socket and writes no file; a seccomp filter of the kernel watches."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "support" / "silent_run.py"
CHECKOUT = Path(__file__).parents[3]


def run(what: str, environment: dict[str, str]) -> int:
    """The exit status; negative: the signal that ended it."""
    command = [sys.executable, str(SCRIPT), what]
    home = environment["HOME"]
    paths = {"PYTHONPATH": str(CHECKOUT)}
    ended = subprocess.run(
        command, env=environment | paths, cwd=home, capture_output=True, text=True, timeout=90, check=False
    )
    if ended.returncode == 77:
        pytest.skip("this kernel or machine does not offer the seccomp filter that the test watches with")
    assert ended.returncode <= 0, ended.stderr
    return ended.returncode


def test_the_service_runs_a_model_without_a_socket_or_a_file(
    models_folder: Path, clean_environment: dict[str, str]
) -> None:
    assert run("service", clean_environment) == 0
    assert list(Path(clean_environment["HOME"]).iterdir()) == []


def test_the_trap_catches_a_file(models_folder: Path, clean_environment: dict[str, str]) -> None:
    assert run("write", clean_environment) == -signal.SIGSYS


def test_the_trap_catches_the_runtime_as_its_makers_ship_it(
    models_folder: Path, clean_environment: dict[str, str]
) -> None:
    """The control: without the service's care, ONNX Runtime walks into the trap; else the first test proves nothing."""
    import onnxruntime

    if tuple(int(part) for part in onnxruntime.__version__.split(".")[:2]) < (1, 29):
        pytest.skip("this onnxruntime has no telemetry to catch")
    assert run("bare", clean_environment) == -signal.SIGSYS
