"""``patronus_face`` is complete, documented by examples that run, and quick to import."""

from __future__ import annotations

import ast
import doctest
import inspect
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
# What protects.
PROTECTS = "from patronus_face import Key, Protector"


def loaded(program: str) -> set[str]:
    """The top-level modules that a program loads."""
    command = [sys.executable, "-c", f"import sys\n{program}\nprint(*sys.modules)"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return {name.partition(".")[0] for name in ended.stdout.split()}


def test_all_is_complete() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    typed = [alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert patronus_face.__all__ == sorted(set(typed) - {"Any", "TYPE_CHECKING", "import_module"})
    assert patronus_face.__all__ == dir(patronus_face)
    for name in patronus_face.__all__:
        assert getattr(patronus_face, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        patronus_face.Nothing  # noqa: B018


def test_types_are_shipped() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_an_import_loads_what_it_needs_and_no_service() -> None:
    """`make bench-library` shows the seconds."""
    assert not loaded("import patronus_face") & {"numpy", "onnxruntime", "pydantic"}
    assert not loaded(PROTECTS) & NOT_LOADED


def public_parts(name: str) -> list[str]:
    """A public name; of a class of the package also its own public methods and properties."""
    found = getattr(patronus_face, name)
    of_ours = name in {"Key", "Protector"}
    parts = [part for part in vars(found) if not part.startswith("_")] if of_ours and inspect.isclass(found) else []
    kinds = (classmethod, property, FunctionType)
    return [name, *(f"{name}.{part}" for part in parts if isinstance(vars(found)[part], kinds))]


# Their examples need an edge; tests/edge_service/cli/test_client_examples.py runs them.
CLIENTS = {"AsyncClient", "Client"}


@pytest.mark.parametrize(
    "name", [part for name in sorted({*patronus_face.__all__} - CLIENTS) for part in public_parts(name)]
)
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
