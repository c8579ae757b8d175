"""A relay that keeps what crosses, and the two services on either side of it."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from deploy.pair import Pair, free_port

PICTURES = Path(__file__).parents[1] / "pictures"


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
