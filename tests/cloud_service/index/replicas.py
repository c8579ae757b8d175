"""Several cloud services in processes of their own that share a record and an index, behind one address."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from tests.support.milvus_server import free_port
from tests.support.servers import wait_until_ready

ROOT = Path(__file__).resolve().parents[3]


class RoundRobin:
    """A proxy: each connection goes to the next of several ports on loopback, or to the one after if nobody listens."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._turn = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> RoundRobin:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_ended: Any) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = int(server.sockets[0].getsockname()[1])
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in self._ports:
            self._turn += 1
            with suppress(OSError):
                upstream = await asyncio.open_connection("127.0.0.1", self._ports[self._turn % len(self._ports)])
                await asyncio.gather(_pump(reader, upstream[1]), _pump(upstream[0], writer))
                return
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while part := await reader.read(65_536):
            writer.write(part)
            await writer.drain()
    with suppress(OSError):
        writer.close()


class Replica:
    """A cloud service in a process of its own."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.port = free_port()
        self._home = home
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATRONUS_HOME": str(home), **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Replica:
        command = [sys.executable, "-m", "cloud_service", "serve", "--port", str(self.port)]
        with (self._home / f"{self.port}.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False) as client:
            wait_until_ready(self._process, client)
        return self

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None
