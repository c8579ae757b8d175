"""Run by ``test_telemetry.py`` in a process of its own: loads and runs a model where sockets and new files are traps.

Arguments: ``service`` to load it as the edge does, ``bare`` to load it with ONNX Runtime as its makers ship it.
A seccomp filter makes the kernel end the process with SIGSYS at the first socket, opened-for-writing file, or folder.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
import time

KILL, ALLOW = 0x80000000, 0x7FFF0000
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
# Numbers of the system calls on x86-64: those that are traps, and the place of the flags of those that may only read.
TRAPPED = {"socket": 41, "mkdir": 83, "creat": 85, "rename": 82, "mkdirat": 258, "renameat": 264, "renameat2": 316,
           "openat2": 437, "io_uring_setup": 425}  # fmt: skip
OPENING = {"open": (2, 1), "openat": (257, 2)}


def program() -> bytes:
    """The filter, in BPF."""

    def op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("<HBBI", code, yes, no, value)

    lines = [op(LOAD, 0)]
    for number in TRAPPED.values():
        lines += [op(EQUAL, number, 0, 1), op(RETURN, KILL)]
    for number, flags_at in OPENING.values():
        lines += [op(EQUAL, number, 0, 4), op(LOAD, 16 + 8 * flags_at), op(ANY_BIT, WRITING, 0, 1)]
        lines += [op(RETURN, KILL), op(RETURN, ALLOW)]
    return b"".join([*lines, op(RETURN, ALLOW)])


def set_traps() -> None:
    """For this process and every thread that it will start; exits with 77 where the kernel does not offer it."""
    if platform.machine() != "x86_64":
        sys.exit(77)

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    code = program()
    kept = ctypes.create_string_buffer(code)
    libc = ctypes.CDLL(None, use_errno=True)
    described = Program(len(code) // 8, ctypes.cast(kept, ctypes.c_void_p))
    no_new_privileges, seccomp, filtered = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(seccomp, filtered, ctypes.byref(described), 0, 0):
        sys.exit(77)


def run_as_the_service_does() -> None:
    import numpy as np

    from edge_service.models.store import locate
    from edge_service.settings import InferenceSettings
    from edge_service.vision.sessions import OrtSession

    session = OrtSession(locate("face-embedder"), InferenceSettings())
    session.run({session.input_names[0]: np.zeros((1, 3, 112, 112), np.float32)})


def run_bare() -> None:
    import numpy as np
    import onnxruntime as ort

    from edge_service.models.store import locate

    session = ort.InferenceSession(locate("face-embedder").read(), providers=["CPUExecutionProvider"])
    session.run(None, {session.get_inputs()[0].name: np.zeros((1, 3, 112, 112), np.float32)})


if __name__ == "__main__":
    # Modules that look for a place for temporary files when they are imported have done so before the traps are set.
    from edge_service.models.manifest import load_manifest

    assert load_manifest()
    if "watched" not in sys.argv:
        set_traps()
    {"service": run_as_the_service_does, "bare": run_bare, "write": lambda: open("x", "w")}[sys.argv[1]]()  # noqa: SIM115, PTH123
    time.sleep(1.2)
    os._exit(0)
