"""Runs a module that ends when the process that started it does.

``python -m shared.processes.child_process MODULE ARGUMENT...``.

Standard input must be a pipe that only the parent holds open. The system closes it when the parent ends, even by
SIGKILL. So no service stays behind and holds its port and its folder.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Final

# The services end within 8 s of graceful shutdown.
_STOP_SECONDS: Final = 12.0


def command(module: str, arguments: Sequence[str]) -> list[str]:
    """The command that runs a module this way; start it with ``stdin=subprocess.PIPE``."""
    return [sys.executable, "-m", "shared.processes.child_process", module, *arguments]


def _end_with_parent() -> None:
    """Waits until standard input closes, then sends SIGTERM to this process, and SIGKILL if it goes on."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_STOP_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Runs the module named by the first argument as ``__main__``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
