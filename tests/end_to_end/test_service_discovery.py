"""Every command finds the services of ``make run`` by PATRONUS_HOME alone, without its other settings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from shared.processes.pair import free_port
from tests.support.servers import PICTURES, wait_until_ready

PORTRAIT = str(PICTURES / "obama" / "portrait.jpg")


def patronus(home: Path, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PATRONUS_")}
    environment = kept | {"PATRONUS_HOME": str(home)} | more
    command = [sys.executable, "-c", "from shared.command import main; main()", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@dataclass
class Files:
    embeddings: Path
    passphrase: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("files")
    rows = np.random.default_rng(12).normal(size=(3, 128)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.savez(folder / "in.npz", embeddings=rows, subjects=np.array(["a", "b", "c"]))
    (folder / "passphrase").write_text("correct horse battery")
    (folder / "passphrase").chmod(0o600)
    return Files(folder / "in.npz", folder / "passphrase")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, models_folder: Path) -> Iterator[Path]:
    """The home of a pair on other than the default ports, whose cloud keeps its data elsewhere."""
    home = tmp_path_factory.mktemp("home")
    ports = {"CLOUD": free_port(), "EDGE": free_port()}
    environment = {f"PATRONUS_{service}__PORT": str(port) for service, port in ports.items()}
    environment |= {"PATRONUS_HOME": str(home), "PATRONUS_CLOUD__HOME": str(home / "elsewhere")}
    environment |= {"PATRONUS_MODELS": str(models_folder)}
    with subprocess.Popen(
        [sys.executable, "-m", "deploy.run_pair"], env=os.environ | environment, stdout=subprocess.DEVNULL
    ) as running:
        with httpx.Client(base_url=f"http://127.0.0.1:{ports['EDGE']}", trust_env=False) as edge:
            wait_until_ready(running, edge)
        assert patronus(home, "gallery", "create", "mine").returncode == 0
        yield home
        running.terminate()
        running.wait(60)
    left = {path.name for path in (home / "edge").iterdir()}
    assert not left & {"address", "cloud.json"}, "the files for discovery are removed at the end"


@pytest.mark.slow(reason="runs some twenty commands: 20 s")
def test_every_command_that_talks_to_a_service_finds_it(home: Path, files: Files, tmp_path: Path) -> None:
    for arguments in (
        ("enroll", "mine", "obama", PORTRAIT),
        ("verify", "mine", "obama", PORTRAIT),
        ("gallery", "list", "--json"),
        ("migrate", "mine", files.embeddings),
        ("protect", files.embeddings, tmp_path / "out.npz", "--gallery", "mine"),
        ("keys", "export", "mine", tmp_path / "mine.key.json", "--passphrase-file", files.passphrase),
    ):
        ended = patronus(home, *arguments)
        assert (ended.returncode, ended.stderr.strip()) == (0, ""), (arguments, ended)


@pytest.mark.slow(reason="many commands, each a process")
def test_an_address_that_is_set_wins_and_is_named_where_no_cloud_answers(
    home: Path, files: Files, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    protect = ("protect", files.embeddings, tmp_path / "out.npz", "--gallery", "mine")
    named = {"PATRONUS_EDGE__CLOUD__URL": url}
    named["PATRONUS_EDGE__CLOUD__API_KEY_FILE"] = str(home / "elsewhere" / "api_key")
    ended = patronus(home, *protect, **named)
    assert (ended.returncode, ended.stdout) == (1, ""), "no library writes there"
    assert ended.stderr.startswith(f"No cloud answers at {url} (set by PATRONUS_EDGE__CLOUD__URL).")
    assert len(ended.stderr.splitlines()) == 1
    export = ("keys", "export", "mine", tmp_path / "mine.key.json", "--passphrase-file", files.passphrase)
    ended = patronus(home, *export, **named)
    assert (ended.returncode, len(ended.stdout.splitlines()), len(ended.stderr.splitlines())) == (1, 0, 1)
    assert url in ended.stderr
    assert "PATRONUS_EDGE__CLOUD__URL" in ended.stderr
    assert not (tmp_path / "mine.key.json").exists()
    ended = patronus(home, *export, "--unchecked", **named)
    assert (ended.returncode, len(ended.stdout.splitlines()), ended.stderr) == (0, 1, "")
    wrong_key = tmp_path / "api_key"
    wrong_key.write_text("patronus_wrong")
    wrong_key.chmod(0o600)
    ended = patronus(home, *protect, PATRONUS_EDGE__CLOUD__API_KEY_FILE=str(wrong_key))
    assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 1)
    assert "does not accept this edge's API key" in ended.stderr
    assert "It was asked at http://127.0.0.1:" in ended.stderr
    ended = patronus(home, *protect, PATRONUS_EDGE__CLOUD__CA="/nowhere.pem")
    assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 1)


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_closed_standard_output_is_reported_in_one_sentence(home: Path, as_json: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [sys.executable, "-c", "from shared.command import main; main()", "gallery", "list", *as_json],
            env=os.environ | {"PATRONUS_HOME": str(home)},
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, "Standard output cannot be written (Broken pipe).\n")
