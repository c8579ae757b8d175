"""A real edge and a real cloud, as processes of their own, with a relay between them that keeps what crosses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from shared.processes.pair import Pair, free_port
from shared.security.secret_files import read_secret
from tests.support.servers import PICTURES, Relay, RunningPair


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory, models_folder: Path) -> Iterator[RunningPair]:
    """One for all tests of a worker: each test names galleries of its own."""
    home = tmp_path_factory.mktemp("home")
    cloud, edge = free_port(), free_port()
    environment = {"PATRONUS_HOME": str(home), "PATRONUS_MODELS": str(models_folder)}
    at_cloud = environment | {"PATRONUS_CLOUD__PORT": str(cloud)}
    cloud_url, edge_url = f"http://127.0.0.1:{cloud}", f"http://127.0.0.1:{edge}"
    relay = Relay(cloud)
    at_edge = environment | {
        "PATRONUS_EDGE__PORT": str(edge),
        "PATRONUS_EDGE__CLOUD__URL": f"http://127.0.0.1:{relay.port}",
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


@pytest.fixture
def picture() -> dict[str, bytes]:
    """The sample pictures, by ``person/picture``."""
    return {
        f"{path.parent.name}/{path.stem}": path.read_bytes()
        for path in PICTURES.glob("*/*")
        if path.suffix in {".jpg", ".png"}
    }
