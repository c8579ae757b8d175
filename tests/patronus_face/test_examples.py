"""The examples of docs/plug-in.md run against what they name, and decide alike before and after."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.docs.pages import ROOT, blocks
from tests.patronus_face.sample_embeddings import PROBES, write_faces
from tests.support.milvus_server import MilvusLite
from tests.support.postgres_server import NoServer, served

PAGE = ROOT / "docs" / "plug-in.md"
DECISIONS = ["obama", "obama", "nobody"]


@pytest.fixture(scope="module")
def faces(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder / "faces.npz", folder / "home")
    return folder / "faces.npz"


@pytest.fixture
def run(faces: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs the block that holds a text, in a folder with ``faces.npz``; returns what it printed."""
    (tmp_path / "faces.npz").symlink_to(faces)

    def script(holds: str, **environment: str) -> str:
        [block] = [block for block in blocks(PAGE) if block.language == "python" and holds in block.text]
        ended = subprocess.run(
            [sys.executable, "-c", block.text],
            cwd=tmp_path,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert ended.returncode == 0, f"{block}: {ended.stderr}"
        return ended.stdout

    return script


def assert_decides_alike(printed: str) -> None:
    lines = [f"{name}: before {who}, after {who}" for name, who in zip(PROBES, DECISIONS, strict=True)]
    assert printed.splitlines() == lines


def test_the_five_lines(run: Callable[..., str]) -> None:
    shape, scores = run("print(templates.shape").split(") ")
    assert shape == "(2, 128"
    assert np.allclose(np.diagonal(np.array(eval(scores))), 1)
    assert all(len(number) <= 5 for number in re.findall(r"[-.0-9]+", scores)), scores


def test_probes_alone(run: Callable[..., str]) -> None:
    assert_decides_alike(run("plugin.protect(probe)"))


def test_faiss(run: Callable[..., str]) -> None:
    printed = run("import faiss")
    assert_decides_alike(printed)
    assert [block.text for block in blocks(PAGE) if block.language == "text"] == [printed]  # the transcript


@pytest.mark.slow(reason="each example loads a Python of its own")
def test_numpy(run: Callable[..., str]) -> None:
    assert_decides_alike(run("scores = stored @ probe"))


@pytest.mark.slow(reason="each example loads a Python of its own")
def test_a_change_of_key(run: Callable[..., str], faces: Path) -> None:
    scores = eval(run("new_key = "))  # of obama, biden
    assert scores[0] >= 0.363 > scores[1]


@pytest.mark.slow(reason="starts milvus-lite")
def test_milvus(run: Callable[..., str], tmp_path: Path) -> None:
    with MilvusLite(tmp_path / "milvus") as server:
        assert_decides_alike(run("MilvusClient", MILVUS_URL=server.url))


@pytest.mark.slow(reason="starts PostgreSQL")
def test_pgvector(run: Callable[..., str]) -> None:
    try:
        for server in served():
            assert_decides_alike(run("psycopg", DATABASE_URL=server.new_url()))
    except NoServer as error:
        pytest.skip(str(error))


@pytest.mark.slow(reason="each example loads a Python of its own")
@pytest.mark.parametrize("variable", ["MILVUS_URL", "DATABASE_URL"])
def test_an_example_without_its_server_says_what_to_set(variable: str, tmp_path: Path) -> None:
    [block] = [block for block in blocks(PAGE) if block.language == "python" and variable in block.text]
    environment = {name: value for name, value in os.environ.items() if name != variable}
    command = [sys.executable, "-c", block.text]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert ended.returncode == 1
    assert re.fullmatch(rf"Set {variable}, such as \S+\n", ended.stderr)


def test_every_example_is_run() -> None:
    """A new block of the page needs a test here."""
    texts = [block.text for block in blocks(PAGE) if block.language == "python"]
    tested = re.findall(r'run\("([^"]+)"', Path(__file__).read_text())
    assert len(texts) == len(tested)
    assert all(sum(holds in text for text in texts) == 1 for holds in tested)
