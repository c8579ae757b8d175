"""Runs commands of ``patronus``, each in a fork of a process that has loaded everything.

``ForkedCommands`` starts that process, which reads a case as JSON from each line of its standard input and answers
with a line. It is not pytest's own process: a fork of pytest would hold whatever its threads hold.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from shared.command import main

_LOADED = (
    "cloud_service.app",
    "cloud_service.audit.check",
    "cloud_service.record.backup",
    "cloud_service.record.check",
    "edge_service.app",
    "shared.client.connection",
    "edge_service.cli.subjects.duplicates",
    "edge_service.cli.subjects.enrollment",
    "edge_service.cli.subjects.report",
    "edge_service.cli.migration",
    "edge_service.cli.output",
    "edge_service.cli.protect_file",
    "edge_service.picture_memory",
    "edge_service.protection.key_transfer",
    "encodings.idna",  # for host names; a fork that gave up its rights could not read it any more
    "lab.cli",
    "shared.http.serving",
)

_SECONDS = 60
_NOBODY = 65534
_UNFLUSHED = 120  # what Python ends with where standard output cannot be flushed


class ForkedCommands:
    """Runs commands as a shell does, without the second that Python takes to load them."""

    def __init__(self) -> None:
        program = [sys.executable, "-m", "tests.support.forked_commands"]
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(program, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, arguments: list[str], environment: dict[str, str], circumstance: str = "") -> dict[str, Any]:
        """Exit status, standard output and standard error of one command."""
        case = {"arguments": arguments, "environment": environment, "circumstance": circumstance}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate()


def outcome(case: dict[str, Any]) -> dict[str, Any]:
    """Runs a case; its output goes into pipes, which have room for it, and which no full disk fills."""
    out, err = os.pipe(), os.pipe()
    process = os.fork()
    if process == 0:
        status = _UNFLUSHED
        try:
            status = _in_the_fork(case, out, err)
            sys.stdout.flush()
        finally:
            os._exit(status)
    os.close(out[1])
    os.close(err[1])
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return {"status": status, "out": _read(out[0]), "err": _read(err[0])}


def _read(descriptor: int) -> str:
    with os.fdopen(descriptor, "rb") as file:
        return file.read().decode(errors="replace")


def _in_the_fork(case: dict[str, Any], out: tuple[int, int], err: tuple[int, int]) -> int:
    signal.alarm(_SECONDS)
    circumstance = case["circumstance"]
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out[1], 1)
    os.dup2(err[1], 2)
    for descriptor in (*out, *err):
        os.close(descriptor)
    if circumstance == "closed pipe":
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 1)
    elif circumstance == "full output":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    elif circumstance == "full disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    elif circumstance == "unreadable home" and os.geteuid() == 0:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    # As a new process makes them, which asks what they lead to.
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    for name in [name for name in os.environ if name.startswith("PATRONUS_")]:
        del os.environ[name]
    os.environ.update(case["environment"])
    sys.argv = ["patronus", *case["arguments"]]
    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    except BaseException:  # what Python would do with it
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    gc.disable()  # it would touch, and so copy, all pages in each fork
    for name in _LOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(outcome(json.loads(line))), flush=True)  # noqa: T201
