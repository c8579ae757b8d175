"""What ``pip install patronus-face`` brings: the library and the command, and no service."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
# Comes with extras alone.
NOT_INSTALLED = {"faiss", "fastapi", "sqlalchemy", "torch", "cv2", "PIL", "onnx", "pymilvus", "starlette", "uvicorn"}
FIVE_LINES = """
import numpy as np
from patronus_face import Key, Protector
protector = Protector.open("default-2", key=Key.load_or_create("acme.key"))
templates = protector.protect(np.load("in.npz")["embeddings"])
np.save("templates.npy", templates)
"""
FOUND = """
import json, sys
from importlib.util import find_spec
print(json.dumps([name for name in sys.argv[1:] if find_spec(name)]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built from a copy: a build leaves folders beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if name.split("/")[0] in {"edge_service", "cloud_service", "shared", "lab", "patronus_face"} or "/" not in name:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tree / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", folder, tree], check=True, capture_output=True, timeout=600)
    [made] = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def run(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a program of a fresh virtual environment in which the wheel is installed, and only what it needs."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder / "venv", with_pip=True)
    rows = np.random.default_rng(1).standard_normal((7, 128)).astype(np.float32)
    np.savez(folder / "in.npz", embeddings=rows)

    def program(name: str, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [folder / "venv" / "bin" / name, *map(str, words)],
            cwd=folder,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HOME": str(folder)},
            capture_output=True,
            text=True,
            timeout=900,
            check=check,
        )

    installed = program("python", "-m", "pip", "install", "--quiet", wheel, check=False)
    if installed.returncode and "No matching distribution" in installed.stderr:
        pytest.skip("no package index is in reach")
    assert installed.returncode == 0, installed.stderr
    return program


pytestmark = pytest.mark.slow(reason="builds the wheel and installs it into a fresh virtual environment")


def test_it_is_called_patronus_face(wheel: Path) -> None:
    assert wheel.name.startswith("patronus_face-")


def test_no_service_comes_along(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert json.loads(run("python", "-c", FOUND, *sorted(NOT_INSTALLED)).stdout) == []


def test_the_five_lines_run(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert run("python", "-W", "error", "-c", FIVE_LINES).stderr == ""


def test_every_profile_is_in_it(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    for profile in ("default-2", "default", "dlib-2", "dlib", "plugin", "seal"):
        key = f"Key.load_or_create('{profile}.key')"
        run("python", "-c", f"from patronus_face import *; Protector.open({profile!r}, key={key}, dim=128)")


def test_the_command_protects_a_file(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert (
        "7 sealed templates" in run("patronus", "protect", "in.npz", "out.npz", "--key", "acme.key", "--force").stdout
    )
    assert "protect" in run("patronus", "--help").stdout


@pytest.mark.parametrize("extra", ["edge", "cloud"])
def test_what_needs_an_extra_says_so(run: Callable[..., subprocess.CompletedProcess[str]], extra: str) -> None:
    ended = run("patronus", extra, "serve", check=False)
    assert ended.returncode == 1
    assert re.fullmatch(
        rf"This needs the package [a-z0-9_]+: pip install 'patronus-face\[{extra}\]'\n", ended.stderr, re.IGNORECASE
    )
