"""Arrows point one way: what each part may import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


def modules(package: str) -> Iterator[tuple[str, set[str]]]:
    """Each file of a package, and the top of every module that it imports, anywhere in it."""
    for path in sorted((CHECKOUT / package).rglob("*.py")):
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
        yield path.relative_to(CHECKOUT).as_posix(), found


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("edge_service", {"cloud_service", "lab", "tests", "torch", "faiss", "sqlalchemy"}),
        ("cloud_service", {"edge_service", "lab", "tests", "torch", "onnx", "onnxruntime", "cv2", "PIL"}),
        ("shared", {"edge_service", "cloud_service", "lab", "torch", "faiss", "onnx", "onnxruntime", "cv2", "PIL"}),
    ],
)
def test_a_part_imports_only_what_it_may(package: str, forbidden: set[str]) -> None:
    found = dict(modules(package))
    assert len(found) > 5
    assert {path: names & forbidden for path, names in found.items() if names & forbidden} == {}


def test_only_one_module_imports_the_runtime() -> None:
    importing = {path for path, names in modules("edge_service") if "onnxruntime" in names}
    assert importing == {"edge_service/vision/sessions.py"}


def test_onnx_is_used_only_to_convert_models() -> None:
    importing = {path for path, names in modules("edge_service") if "onnx" in names}
    assert importing <= {f"edge_service/models/{name}.py" for name in ("convert", "dlib_graph", "onnx_parts")}


def test_only_one_module_speaks_to_the_cloud() -> None:
    importing = {path for path, names in modules("edge_service") if names & {"httpx", "requests", "urllib3", "aiohttp"}}
    client = {path for path in importing if not path.startswith(("edge_service/cli/", "edge_service/models/"))}
    assert client == {"edge_service/app.py", "edge_service/cloud_client.py"}  # app.py: for the type of a transport
