"""``patronus keys forget`` destroys no key that a gallery of the cloud still needs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_service.protection.keys import KeyStore
from shared.processes.pair import Pair, free_port
from tests.support.servers import PICTURES

OBAMA = [str(PICTURES / "obama" / name) for name in ("portrait.jpg", "speech.jpg")]


class Edges:
    """A cloud, and edges with key folders of their own of which one runs at a time."""

    def __init__(self, home: Path, models: Path) -> None:
        self.home = home
        self.processes = Pair()
        self.cloud = f"http://127.0.0.1:{free_port()}"
        self._port = free_port()
        self._runs = False
        self._environment = {"PATRONUS_HOME": str(home), "PATRONUS_MODELS": str(models)}
        port = {"PATRONUS_CLOUD__PORT": self.cloud.rsplit(":", 1)[1]}
        self.processes.start("cloud", "cloud_service", self.cloud, self._environment | port)

    def run(self, name: str) -> None:
        """Starts an edge, in place of the one that runs."""
        self.stop()
        environment = self._of(name) | {"PATRONUS_EDGE__PORT": str(self._port)}
        self.processes.start("edge", "edge_service", f"http://127.0.0.1:{self._port}", environment)
        self._runs = True

    def stop(self) -> None:
        """Stops the edge that runs."""
        if self._runs:
            self.processes.stop_one("edge")
            self._runs = False

    def patronus(self, name: str, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        """A command on an edge's machine."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PATRONUS_")}
        environment = kept | self._of(name) | {"PATRONUS_EDGE_URL": f"http://127.0.0.1:{self._port}"} | more
        command = [sys.executable, "-c", "from shared.command import main; main()", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def done(self, name: str, *arguments: object) -> None:
        ended = self.patronus(name, *arguments)
        assert ended.returncode == 0, (arguments, ended)

    def _of(self, name: str) -> dict[str, str]:
        folder = {"PATRONUS_EDGE__HOME": str(self.home / name), "PATRONUS_EDGE__CLOUD__URL": self.cloud}
        return self._environment | folder


@pytest.fixture(scope="module")
def edges(tmp_path_factory: pytest.TempPathFactory, models_folder: Path) -> Iterator[Edges]:
    edges = Edges(tmp_path_factory.mktemp("home"), models_folder)
    try:
        yield edges
    finally:
        edges.processes.stop()


@pytest.mark.slow(reason="a cloud, six starts of edges and some twenty commands")
def test_keys_that_galleries_need_are_not_forgotten(edges: Edges, tmp_path: Path) -> None:
    passphrase, carried = tmp_path / "passphrase", tmp_path / "imported.json"
    passphrase.write_text("correct horse battery")
    passphrase.chmod(0o600)
    edges.run("other")
    edges.done("other", "gallery", "create", "another-edges")
    edges.done("other", "gallery", "create", "imported")
    edges.done("other", "keys", "export", "imported", carried, "--passphrase-file", passphrase)
    KeyStore(edges.home / "edge")
    edges.done("edge", "keys", "import", carried, "--passphrase-file", passphrase)
    edges.run("edge")
    for gallery in ("first", "second"):
        edges.done("edge", "gallery", "create", gallery)
    edges.done("edge", "enroll", "second", "obama", OBAMA[0])
    edges.done("edge", "keys", "renew", "--yes")
    edges.run("edge")
    edges.done("edge", "gallery", "rekey", "first")

    def refused(needing: str) -> bool:
        ended = edges.patronus("edge", "keys", "forget", "--yes")
        assert ended.stdout == ""
        assert ended.stderr.count("\n") == 1
        assert "patronus gallery rekey NAME" in ended.stderr
        assert KeyStore(edges.home / "edge").has_old_keys()
        return ended.returncode == 1 and f"need an old one: {needing};" in ended.stderr

    assert refused("imported, second"), "each gallery whose key is this edge's only among the old ones"
    edges.done("edge", "gallery", "rekey", "imported")
    assert refused("second")
    edges.done("edge", "verify", "second", "obama", OBAMA[1])

    nowhere = f"http://127.0.0.1:{free_port()}"
    unasked = edges.patronus("edge", "keys", "forget", "--yes", PATRONUS_EDGE__CLOUD__URL=nowhere)
    assert (unasked.returncode, unasked.stdout) == (1, "")
    assert f"the cloud at {nowhere} could not be asked" in unasked.stderr
    assert KeyStore(edges.home / "edge").has_old_keys()

    edges.done("edge", "gallery", "rekey", "second")
    edges.done("edge", "keys", "forget", "--yes")
    assert not KeyStore(edges.home / "edge").has_old_keys()
    edges.run("edge")
    edges.done("edge", "verify", "second", "obama", OBAMA[1])


@pytest.mark.slow(reason="a cloud and several starts of an edge")
def test_a_needed_key_is_forgotten_only_unchecked_and_comes_back_from_a_backup(edges: Edges) -> None:
    edges.run("careless")
    edges.done("careless", "gallery", "create", "lost")
    edges.done("careless", "keys", "renew", "--yes")
    refused = edges.patronus("careless", "keys", "forget", "--yes")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "need an old one: lost;" in refused.stderr
    edges.done("careless", "keys", "forget", "--yes", "--unchecked")
    edges.run("careless")
    ended = edges.patronus("careless", "enroll", "lost", "obama", OBAMA[0])
    assert ended.returncode == 1
    assert "if it was forgotten here, restore this edge from a backup" in ended.stderr
