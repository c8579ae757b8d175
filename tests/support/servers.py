"""Services in processes of their own: waiting for one, and an edge and a cloud with a relay between them."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.processes.pair import Pair, free_port
from shared.security.secret_files import read_secret

PICTURES = Path(__file__).parents[1] / "pictures"
_START_SECONDS = 60


def wait_until_ready(process: subprocess.Popen[Any], client: httpx.Client, path: str = "/readyz") -> None:
    """Returns when the service behind the client can do its work (``/healthz``: when it answers).

    Fails when it ends, or takes too long.
    """
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "it did not start"
        try:
            if client.get(path).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail("it did not become ready")


@dataclass
class Relay:
    """Passes TCP on to a port and keeps every byte of both directions."""

    target: int
    port: int = field(default_factory=free_port)
    to_cloud: bytearray = field(default_factory=bytearray)
    to_edge: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:  # the cloud is away: so is this connection
                near.close()
                continue
            for source, sink, kept in ((near, far, self.to_cloud), (far, near, self.to_edge)):
                threading.Thread(target=self._pass_on, args=(source, sink, kept), daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        try:
            while data := source.recv(65536):
                kept += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one of the two was cut off
        finally:
            source.close()

    def close(self) -> None:
        self._listener.close()


@dataclass
class RunningPair:
    """Where a pair is, and how to call it."""

    home: Path
    relay: Relay
    edge: httpx.Client
    cloud: httpx.Client
    processes: Pair
    cloud_environment: dict[str, str]

    def restart_cloud(self) -> None:
        self.processes.stop_one("cloud")
        self.start_cloud()

    def start_cloud(self) -> None:
        self.processes.start("cloud", "cloud_service", str(self.cloud.base_url).rstrip("/"), self.cloud_environment)


@contextlib.contextmanager
def running_pair(home: Path, models_folder: Path, **edge_settings: str) -> Iterator[RunningPair]:
    """An edge and a cloud with a relay between them.

    Args:
        home: an empty folder for both.
        models_folder: with the face models.
        edge_settings: further settings of the edge, such as ``PATRONUS_EDGE__CONSOLE``.
    """
    cloud, edge = free_port(), free_port()
    environment = {"PATRONUS_HOME": str(home), "PATRONUS_MODELS": str(models_folder)}
    at_cloud = environment | {"PATRONUS_CLOUD__PORT": str(cloud)}
    cloud_url, edge_url = f"http://127.0.0.1:{cloud}", f"http://127.0.0.1:{edge}"
    relay = Relay(cloud)
    at_edge = environment | {
        "PATRONUS_EDGE__PORT": str(edge),
        "PATRONUS_EDGE__CLOUD__URL": f"http://127.0.0.1:{relay.port}",
        **edge_settings,
    }
    processes = Pair()
    try:
        processes.start("cloud", "cloud_service", cloud_url, at_cloud)
        processes.start("edge", "edge_service", edge_url, at_edge)
        with _client(edge_url, home / "edge") as to_edge, _client(cloud_url, home / "cloud") as to_cloud:
            yield RunningPair(home, relay, to_edge, to_cloud, processes, at_cloud)
    finally:
        processes.stop()
        relay.close()


def _client(url: str, folder: Path) -> httpx.Client:
    key = read_secret(folder / "api_key").decode().strip()
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=30)
