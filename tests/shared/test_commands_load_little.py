"""Version and help load little: nobody waits for numpy to read how a command is called."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# What runs models, serves requests, stores, or computes. None of it is needed to show a text.
HEAVY = {
    "alembic",
    "cryptography",
    "cv2",
    "faiss",
    "fastapi",
    "httpx",
    "limits",
    "numpy",
    "onnx",
    "onnxruntime",
    "PIL",
    "prometheus_client",
    "pymilvus",
    "sqlalchemy",
    "starlette",
    "structlog",
    "torch",
    "uvicorn",
}
# `--version` needs neither what parses commands nor what checks settings.
PARSERS = {"click", "pydantic", "rich", "typer"}

# Shows the help of every command and group in one process, and which heavy modules each one loaded.
HELP_OF_ALL = """
import json, sys
import typer
from typer.testing import CliRunner
from shared.command import build

heavy, found = set(sys.argv[1:]), {}

def loaded():
    return sorted(heavy & {name.partition(".")[0] for name in sys.modules})

def show(command, words):
    ended = CliRunner().invoke(app, [*words, "--help"])
    assert ended.exit_code == 0 and "Usage:" in ended.output, (words, ended.output)
    found[" ".join(words)] = loaded()
    for name, below in getattr(command, "commands", {}).items():
        show(below, [*words, name])

app = build()
show(typer.main.get_command(app), [])
print(json.dumps(found))
"""
# As a person calls it, with what runs before a command.
HELP = """
import sys
from shared.command import main
try:
    main()
finally:
    print(*sys.modules)
"""
VERSION = """
import json, sys
sys.argv = ["patronus", "--version"]
from shared.command import main
main()
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules} & set(HEAVY))))
"""


def printed(program: str, *arguments: str) -> list[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()


def test_no_help_loads_numpy_or_a_service() -> None:
    found = json.loads(printed(HELP_OF_ALL, *HEAVY)[-1])
    assert {"", "gallery create", "edge serve", "cloud serve", "lab train", "models fetch", "protect"} <= found.keys()
    assert {words: modules for words, modules in found.items() if modules} == {}


@pytest.mark.parametrize("words", ["verify --help", "keys --help", "cloud backup --help", "models list --help"])
def test_help_loads_neither_the_log_nor_the_models_of_requests(words: str) -> None:
    loaded = set(printed(HELP, *words.split())[-1].split())
    assert not loaded & {"structlog", "shared.logs", "shared.wire.edge", "edge_service.models.manifest"}


def test_the_version_is_shown_before_a_command_is_built() -> None:
    version, loaded = printed(f"HEAVY = {HEAVY | PARSERS!r}" + VERSION)
    assert version
    assert json.loads(loaded) == []


def test_a_group_is_loaded_alone() -> None:
    program = "import sys; from shared.command import build; build(['models', 'list']); print(*sys.modules)"
    [modules] = printed(program)
    assert "edge_service.models.cli" in modules
    assert "cloud_service.cli" not in modules
