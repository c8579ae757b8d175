"""milvus-lite behind a port of its own, as a child that a test may stop, freeze and start again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from shared.processes.pair import free_port


class Milvus:
    """A server that somebody runs."""

    lite = False

    def __init__(self, url: str) -> None:
        self.url = url


class MilvusLite(Milvus):
    """A server of milvus-lite's on loopback."""

    lite = True

    def __init__(self, folder: Path) -> None:
        pytest.importorskip("milvus_lite", reason="milvus-lite is not installed")
        self.folder = folder
        self.port = free_port()
        super().__init__(f"http://127.0.0.1:{self.port}")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> MilvusLite:
        command = [sys.executable, "-m", "milvus_lite", "server", "--data-dir", str(self.folder)]
        self._process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHON_DOTENV_DISABLED": "1"},
        )
        for _ in range(300):
            assert self._process.poll() is None, "milvus-lite did not start"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.1)
        pytest.fail("milvus-lite did not listen")

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> MilvusLite:
        return self.start()

    def __exit__(self, *ended: Any) -> None:
        self.kill()
