"""Runs an edge and a cloud as processes on this machine, for ``make run``, the demo, tests and measurements."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from shared.errors import SetupError
from shared.processes import child_process

_START_SECONDS = 60.0
# A service that is asked to end has this long; then it is killed. Its own graceful shutdown takes 8 s at most.
_STOP_SECONDS = 15.0


class Pair:
    """The two services as separate processes, as they would run on two machines.

    Both end when this process does, however it ends.

    Args:
        stop_requested: polled several times a second; ``start`` and ``wait`` raise KeyboardInterrupt once it is true.
            For a caller whose signal handlers raise no exception.
    """

    def __init__(self, stop_requested: Callable[[], bool] = lambda: False) -> None:
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._stop_requested = stop_requested

    def start(self, name: str, module: str, url: str, environment: dict[str, str]) -> None:
        """Starts a service and waits until it is ready.

        Raises:
            SetupError: it ended, or did not answer in time. Its own message is on standard error.
            KeyboardInterrupt: this process was asked to end.
        """
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # reaches `stop`, as Ctrl-C does
        self._check_stop_requested()
        with httpx.Client(trust_env=False, timeout=2) as client:
            if _is_ok(client, url + "/healthz"):
                raise SetupError(
                    f"Something answers at {url} already; stop it, or choose other ports with "
                    "PATRONUS_CLOUD__PORT and PATRONUS_EDGE__PORT."
                )
            # A session of its own: Ctrl-C reaches this process alone, which then stops the two in order.
            process = subprocess.Popen(  # noqa: S603 - this interpreter, and a module that callers name
                child_process.command(module, ["serve"]),
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
            self._running[name] = process
            deadline = time.monotonic() + _START_SECONDS
            while not _is_ok(client, url + "/readyz"):
                self._check_stop_requested()
                if process.poll() is not None:
                    raise SetupError(f"The {name} did not start; its reason stands above.")
                if time.monotonic() > deadline:
                    raise SetupError(f"The {name} did not answer at {url} within {_START_SECONDS:g} seconds.")
                time.sleep(0.05)

    def process_id(self, name: str) -> int:
        """The process id of a running service."""
        return self._running[name].pid

    def wait(self) -> None:
        """Returns when a service ends by itself.

        Raises:
            SetupError: says which.
            KeyboardInterrupt: this process was asked to end.
        """
        while True:
            self._check_stop_requested()
            for name, process in self._running.items():
                status = process.poll()
                if status is not None and status <= 0:  # 0: asked by a signal, it ended well
                    how = f"killed ({signal.Signals(-status).name})" if status else "stopped (SIGTERM)"
                    raise SetupError(f"The {name} was {how}; both services end here.")
                if status is not None:
                    raise SetupError(f"The {name} ended by itself; its reason stands above.")
            time.sleep(0.2)

    def stop(self) -> None:
        """Stops both: the edge first, so that its cloud is there while it ends."""
        for name in reversed(list(self._running)):
            self.stop_one(name)

    def stop_one(self, name: str) -> None:
        """Asks one service to end, and kills it if it does not."""
        process = self._running.pop(name)
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def _check_stop_requested(self) -> None:
        if self._stop_requested():
            raise KeyboardInterrupt


def _is_ok(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def free_port() -> int:
    """A TCP port of the loopback interface that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def running_pair(home: Path, settings: dict[str, str] | None = None) -> Iterator[tuple[str, Path]]:
    """Runs a pair with its own keys and data, on free ports.

    Args:
        home: folder for keys and data.
        settings: more environment variables for both services.

    Yields:
        The edge's address and its API key file.

    Raises:
        SetupError: a service did not start.
    """
    ports = free_port(), free_port()
    cloud, edge = (f"http://127.0.0.1:{port}" for port in ports)
    environment = {
        "PATRONUS_HOME": str(home),
        "PATRONUS_EDGE__LOG_LEVEL": "error",
        "PATRONUS_CLOUD__LOG_LEVEL": "error",
        **(settings or {}),
        "PATRONUS_CLOUD__PORT": str(ports[0]),
        "PATRONUS_EDGE__PORT": str(ports[1]),
        "PATRONUS_EDGE__CLOUD__URL": cloud,
    }
    pair = Pair()
    try:
        pair.start("cloud", "cloud_service", cloud, environment)
        pair.start("edge", "edge_service", edge, environment)
        yield edge, home / "edge" / "api_key"
    finally:
        pair.stop()
