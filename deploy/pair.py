"""An edge and a cloud as processes of their own on this machine: for ``make run``, demonstrations and measurements."""

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

from deploy import child_process
from shared.errors import SetupError

_START_SECONDS = 60.0
_STOP_SECONDS = 15.0
"""After which a service that was asked to end is killed. Its own limits, 8 s of graceful shutdown among them, are
shorter."""


class Pair:
    """The two services as processes of their own, as they would run on two machines.

    They end when this process does, however it ends.

    Args:
        asked_to_end: whether the start or the wait is to be given up, by KeyboardInterrupt; asked several times a
            second. For who handles signals without exceptions.
    """

    def __init__(self, asked_to_end: Callable[[], bool] = lambda: False) -> None:
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._asked_to_end = asked_to_end

    def start(self, name: str, module: str, url: str, environment: dict[str, str]) -> None:
        """Starts a service and waits until it is ready.

        Raises:
            SetupError: it ended, or did not answer in time; its own words are on standard error.
            KeyboardInterrupt: this process was asked to end.
        """
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that `stop` is come to, as after Ctrl-C
        self._go_on()
        with httpx.Client(trust_env=False, timeout=2) as client:
            if _answers(client, url + "/healthz"):
                raise SetupError(
                    f"Something answers at {url} already; stop it, or choose other ports with "
                    "PATRONUS_CLOUD__PORT and PATRONUS_EDGE__PORT."
                )
            # A session of its own: Ctrl-C reaches this process alone, which then stops the two in order.
            process = subprocess.Popen(
                child_process.command(module, ["serve"]),
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
            self._running[name] = process
            deadline = time.monotonic() + _START_SECONDS
            while not _answers(client, url + "/readyz"):
                self._go_on()
                if process.poll() is not None:
                    raise SetupError(f"The {name} did not start; its reason stands above.")
                if time.monotonic() > deadline:
                    raise SetupError(f"The {name} did not answer at {url} within {_START_SECONDS:g} seconds.")
                time.sleep(0.05)

    def process_id(self, name: str) -> int:
        """Of a service that runs."""
        return self._running[name].pid

    def wait(self) -> None:
        """Returns when a service ends by itself.

        Raises:
            SetupError: says which.
            KeyboardInterrupt: this process was asked to end.
        """
        while True:
            self._go_on()
            for name, process in self._running.items():
                status = process.poll()
                if status is not None and status < 0:
                    raise SetupError(f"The {name} was killed ({signal.Signals(-status).name}); both services end here.")
                if status is not None:
                    raise SetupError(f"The {name} ended by itself; its reason stands above.")
            time.sleep(0.2)

    def stop(self) -> None:
        """Stops both, the edge first, so that it never sees the cloud go."""
        for name in reversed(list(self._running)):
            self.stop_one(name)

    def stop_one(self, name: str) -> None:
        """Stops one service: asks it to end, and ends it if it does not."""
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

    def _go_on(self) -> None:
        if self._asked_to_end():
            raise KeyboardInterrupt


def _answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def free_port() -> int:
    """A port of the loopback interface that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def running_pair(home: Path, settings: dict[str, str] | None = None) -> Iterator[tuple[str, Path]]:
    """A pair with keys and data of its own, on free ports, for a measurement or a demonstration.

    Args:
        home: for keys and data.
        settings: further ones, as environment variables.

    Yields:
        The edge's address, and the file of its API key.

    Raises:
        SetupError: a service did not start.
    """
    cloud, edge = free_port(), free_port()
    environment = {
        "PATRONUS_HOME": str(home),
        "PATRONUS_EDGE__LOG_LEVEL": "error",
        "PATRONUS_CLOUD__LOG_LEVEL": "error",
        **(settings or {}),
    }
    ports = {"PATRONUS_CLOUD__PORT": str(cloud), "PATRONUS_EDGE__PORT": str(edge)}
    at_cloud = {"PATRONUS_EDGE__CLOUD__URL": f"http://127.0.0.1:{cloud}"}
    pair = Pair()
    try:
        pair.start("cloud", "cloud_service", f"http://127.0.0.1:{cloud}", environment | ports)
        pair.start("edge", "edge_service", f"http://127.0.0.1:{edge}", environment | ports | at_cloud)
        yield f"http://127.0.0.1:{edge}", home / "edge" / "api_key"
    finally:
        pair.stop()
