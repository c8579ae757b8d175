"""A second edge serves a gallery of the first only after its key was imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from edge_service.protection.keys import KeyStore
from shared.processes.pair import Pair, free_port
from shared.security.secret_files import read_secret
from tests.support.servers import PICTURES, RunningPair


def _keys(pair: RunningPair, edge_home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATRONUS_HOME": str(pair.home),
        "PATRONUS_EDGE__HOME": str(edge_home),
        "PATRONUS_EDGE__CLOUD__URL": str(pair.cloud.base_url),
    }
    command = [sys.executable, "-c", "from shared.command import main; main()", "keys", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    file = tmp_path / "passphrase"
    file.write_text("correct horse battery")
    file.chmod(0o600)
    return file


@pytest.mark.slow(reason="nine commands, each a process")
def test_a_key_is_exported_only_by_an_edge_that_has_it(pair: RunningPair, tmp_path: Path, passphrase: Path) -> None:
    pair.edge.put("/v1/galleries/ours").raise_for_status()
    first, other = pair.home / "edge", tmp_path / "other"

    KeyStore(other)
    refused = _keys(pair, other, "export", "ours", tmp_path / "a.json", "--passphrase-file", passphrase)
    assert (refused.returncode, "does not have the key" in refused.stderr) == (1, True)
    absent = _keys(pair, first, "export", "nowhere", tmp_path / "b.json", "--passphrase-file", passphrase)
    assert (absent.returncode, "no gallery" in absent.stderr) == (1, True)
    assert not list(tmp_path.glob("*.json"))

    absent = _keys(pair, first, "fingerprint", "nowhere")
    assert (absent.returncode, absent.stdout, "no gallery" in absent.stderr) == (1, "", True)
    foreign = _keys(pair, other, "fingerprint", "ours")
    assert (foreign.returncode, foreign.stdout, "does not have the key" in foreign.stderr) == (1, "", True)

    exported = _keys(pair, first, "export", "ours", tmp_path / "c.json", "--passphrase-file", passphrase)
    assert (exported.returncode, exported.stderr) == (0, "")


@pytest.mark.slow(reason="many commands, each a process")
def test_no_foreign_key_takes_the_place_of_the_key_that_made_a_gallery(
    pair: RunningPair, tmp_path: Path, passphrase: Path
) -> None:
    """The gallery's next change of key would move it onto the foreign one."""
    pair.edge.put("/v1/galleries/own").raise_for_status()
    first, other, carried = pair.home / "edge", tmp_path / "other", tmp_path / "own.json"
    theirs = KeyStore(other).gallery("own")
    _keys(pair, other, "export", "--unchecked", "own", carried, "--passphrase-file", passphrase)
    before = _keys(pair, first, "fingerprint", "own").stdout
    refused = _keys(pair, first, "import", carried, "--passphrase-file", passphrase)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "is under another key at the cloud" in refused.stderr
    assert "patronus keys import --replace" in refused.stderr
    assert _keys(pair, first, "fingerprint", "own").stdout == before != f"{theirs.fingerprint()}\n"
    assert theirs.fingerprint() not in _keys(pair, first, "list").stdout


def test_with_the_key_it_matches_what_the_first_edge_enrolled(
    pair: RunningPair, tmp_path: Path, passphrase: Path, models_folder: Path
) -> None:
    gallery, second = "/v1/galleries/shared", tmp_path / "second"
    pair.edge.put(gallery).raise_for_status()
    enrolled, probe = ((PICTURES / "obama" / name).read_bytes() for name in ("portrait.jpg", "speech.jpg"))
    pair.edge.post(f"{gallery}/subjects/obama/faces", files={"image": enrolled}).raise_for_status()

    port = free_port()
    environment = {
        "PATRONUS_HOME": str(pair.home),
        "PATRONUS_MODELS": str(models_folder),
        "PATRONUS_EDGE__HOME": str(second),
        "PATRONUS_EDGE__PORT": str(port),
        "PATRONUS_EDGE__CLOUD__URL": str(pair.cloud.base_url),
    }
    for with_key in (False, True):
        if with_key:
            carried = tmp_path / "shared.json"
            _keys(pair, pair.home / "edge", "export", "shared", carried, "--passphrase-file", passphrase)
            assert _keys(pair, second, "import", carried, "--passphrase-file", passphrase).returncode == 0
        edge = Pair()
        try:
            edge.start("edge", "edge_service", f"http://127.0.0.1:{port}", environment)
            key = read_secret(second / "api_key").decode().strip()
            headers = {"Authorization": f"Bearer {key}"}
            address = f"http://127.0.0.1:{port}{gallery}/subjects/obama/verify"
            answer = httpx.post(address, headers=headers, files={"image": probe}, trust_env=False, timeout=30)
        finally:
            edge.stop()
        if with_key:
            assert answer.json()["decision"] == "match"
        else:
            assert (answer.status_code, answer.json()["type"]) == (409, "urn:patronus:problem:contract-mismatch")
            assert "keys import" in answer.json()["detail"]
