"""``patronus_face`` is complete, documented by examples that run, and quick to import."""

from __future__ import annotations

import ast
import doctest
import inspect
import json
import subprocess
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import patronus_face

PACKAGE = Path(patronus_face.__file__).parent
# Of services and of the lab; a system that only protects embeddings has none of them.
NOT_LOADED = {"cv2", "faiss", "fastapi", "PIL", "rich", "sqlalchemy", "starlette", "structlog", "torch", "uvicorn"}
LOADED = """
import json, sys, time
began = time.process_time()
import patronus_face
print(json.dumps({"cpu_s": time.process_time() - began, "modules": sorted(sys.modules)}))
"""


def test_all_is_complete() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    imported = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert patronus_face.__all__ == sorted(imported)
    assert all(hasattr(patronus_face, name) for name in patronus_face.__all__)


def test_types_are_shipped() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_an_import_is_quick_and_loads_no_service() -> None:
    runs = []
    for _ in range(3):
        ended = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, timeout=120)
        runs.append(json.loads(ended.stdout))
        if runs[-1]["cpu_s"] < 0.5:
            break
    assert not {name.partition(".")[0] for name in runs[0]["modules"]} & NOT_LOADED
    assert min(run["cpu_s"] for run in runs) < 0.5


def public_parts(name: str) -> list[str]:
    """A public name; of a class of the package also its own public methods and properties."""
    found = getattr(patronus_face, name)
    of_ours = name in {"Key", "Protector"}
    parts = [part for part in vars(found) if not part.startswith("_")] if of_ours and inspect.isclass(found) else []
    kinds = (classmethod, property, FunctionType)
    return [name, *(f"{name}.{part}" for part in parts if isinstance(vars(found)[part], kinds))]


@pytest.mark.parametrize("name", [part for name in patronus_face.__all__ for part in public_parts(name)])
def test_the_example_of_every_public_name_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found: Any = patronus_face
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
    text = inspect.getdoc(found.__func__ if isinstance(found, classmethod) else found)
    assert text, name
    names = {each: getattr(patronus_face, each) for each in patronus_face.__all__}
    example = doctest.DocTestParser().get_doctest(text, names, name, None, 0)
    assert example.examples, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    said: list[str] = []
    runner.run(example, out=said.append)
    assert runner.failures == 0, "".join(said)
