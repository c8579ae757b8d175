"""Runs commands of ``patronus`` under bad circumstances, each in a fork of a process that has loaded everything.

Reads cases as JSON from standard input and writes what became of them as JSON to standard output. A process of its own:
a fork of pytest would hold whatever its threads hold.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import sys
import traceback
from typing import Any

from shared.command import build, run

for _loaded in (
    "cloud_service.app",
    "cloud_service.audit.check",
    "cloud_service.record.backup",
    "cloud_service.record.check",
    "edge_service.app",
    "edge_service.cli.edge_client",
    "edge_service.cli.migration",
    "edge_service.cli.protect_file",
    "edge_service.cli.rekey",
    "edge_service.picture_memory",
    "edge_service.protection.key_transfer",
    "encodings.idna",  # for host names; a fork that gave up its rights could not read it any more
    "shared.http.serving",
):
    importlib.import_module(_loaded)

_SECONDS = 60
_NOBODY = 65534
_UNFLUSHED = 120  # what Python ends with where standard output cannot be flushed

APP = build()


def outcome(case: dict[str, Any]) -> dict[str, Any]:
    """Its exit status, and what it wrote: into pipes, which have room for it, and which no full disk fills."""
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
    os.environ.update(case["environment"])
    sys.argv = ["patronus", *case["arguments"]]
    try:
        run(APP)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    except BaseException:  # what Python would do with it
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    gc.disable()  # it would touch, and so copy, all pages in each fork
    json.dump([outcome(case) for case in json.load(sys.stdin)], sys.stdout)
