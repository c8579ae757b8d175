"""Every command block of the documentation runs against a real pair, or says why it does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from shared.processes.pair import running_pair
from shared.security.secret_files import read_secret
from tests.docs.pages import PAGES, ROOT, RUN, Block, blocks


@dataclass
class Reader:
    """Somebody who follows a page: a home folder, a checkout, and a pair that runs with default settings."""

    user_home: Path
    checkout: Path
    edge: str
    cloud: str
    models: Path

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """A script as typed in the checkout; addresses of the pages are those of the pair."""
        script = script.replace("http://127.0.0.1:8000", self.edge).replace("http://127.0.0.1:8001", self.cloud)
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.user_home),
            "PATRONUS_MODELS": str(self.models),
            "no_proxy": "127.0.0.1",
        }
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.checkout,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,  # a first start of a command on a busy machine included
            check=False,
        )


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory, models_folder: Path) -> Iterator[tuple[Path, str, str]]:
    """A user's home folder with a running pair in ``.patronus``, and the addresses of edge and cloud."""
    user_home = tmp_path_factory.mktemp("user")
    (user_home / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")
    home = user_home / ".patronus"
    with running_pair(home, {"PATRONUS_MODELS": str(models_folder)}) as (edge, _):
        yield user_home, edge, json.loads((home / "edge" / "cloud.json").read_text())["url"]


@pytest.fixture
def reader(pair: tuple[Path, str, str], models_folder: Path, tmp_path: Path) -> Iterator[Reader]:
    """A reader at an empty pair, in a folder that has what a checkout has."""
    user_home, edge, cloud = pair
    for entry in ROOT.iterdir():
        if not entry.name.startswith("."):
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    rng = np.random.default_rng(5)
    embeddings = rng.normal(size=(6, 128)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.savez(tmp_path / "embeddings.npz", embeddings=embeddings, subjects=np.array(list("aabbcc")))
    yield Reader(user_home, tmp_path, edge, cloud, models_folder)
    key = read_secret(user_home / ".patronus" / "edge" / "api_key").decode().strip()
    with httpx.Client(base_url=edge, headers={"Authorization": f"Bearer {key}"}, trust_env=False) as client:
        for gallery in client.get("/v1/galleries").raise_for_status().json()["items"]:
            client.delete(f"/v1/galleries/{gallery['gallery']}").raise_for_status()


def _run(reader: Reader, page: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    to_run = _to_run(page)
    assert to_run, f"no command block of {page.name} is run"
    for block in to_run:
        if block.setup:
            before = reader.run(block.setup)
            assert before.returncode == 0, f"{block}: set-up: {before.stdout}{before.stderr}"
        ended = reader.run(block.script)
        assert ended.returncode == 0, f"{block}: status {ended.returncode}\n{ended.stdout}{ended.stderr}"
        rest = ended.stdout
        for text in block.expect:
            assert text in rest, f"{block}: no {text!r} in\n{ended.stdout}"
            rest = rest.split(text, maxsplit=1)[1]


def _to_run(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language in RUN and block.skip is None]


def test_the_commands_of_the_readme_run(reader: Reader) -> None:
    _run(reader, ROOT / "README.md")


@pytest.mark.slow(reason="runs dozens of commands of the documentation")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "README.md" and _to_run(page)], ids=lambda page: str(page.stem)
)
def test_the_commands_of_a_page_run(page: Path, reader: Reader) -> None:
    _run(reader, page)


def test_a_failing_command_is_noticed(reader: Reader) -> None:
    assert reader.run("patronus verify nowhere obama tests/pictures/obama/speech.jpg").returncode == 1
    assert reader.run("curl http://127.0.0.1:8000/v1/galleries").returncode != 0
