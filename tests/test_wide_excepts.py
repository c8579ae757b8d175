"""No wide ``except`` renames an error and keeps quiet about it: a mistake in a program shows as what it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
WIDE = {"Exception", "BaseException"}
# Both write the kind of the error and its place to the log.
LOGGING = {"place_of", "unexpected"}
# Another reason stands beside each of these.
JUSTIFIED = {
    "cloud_service/batching.py": 1,  # goes to the callers as it is
    "edge_service/models/convert.py": 1,  # onnx and protobuf share no base class; the sentence names the kind
    "edge_service/vision/decode.py": 3,  # Pillow's parsers raise what they please on hostile bytes
}


def wide(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or not WIDE.isdisjoint(
        node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)
    )


def logged(handler: ast.ExceptHandler) -> bool:
    return any(
        (isinstance(node, ast.Raise) and node.exc is None) or (isinstance(node, ast.Name) and node.id in LOGGING)
        for statement in handler.body
        for node in ast.walk(statement)
    )


def quiet_handlers(text: str) -> Iterator[int]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ExceptHandler) and wide(node) and not logged(node):
            yield node.lineno


@pytest.mark.parametrize("package", ["cloud_service", "edge_service", "shared"])
def test_a_wide_except_raises_again_or_logs(package: str) -> None:
    paths = sorted((CHECKOUT / package).rglob("*.py"))
    assert paths
    quiet = {path.relative_to(CHECKOUT).as_posix(): list(quiet_handlers(path.read_text())) for path in paths}
    assert {path: lines for path, lines in quiet.items() if len(lines) > JUSTIFIED.get(path, 0)} == {}


@pytest.mark.parametrize(
    "handler",
    ["except Exception:\n  pass", "except:\n  raise ValueError", "except (OSError, Exception) as e:\n  raise E from e"],
)
def test_a_quiet_one_is_found(handler: str) -> None:
    assert list(quiet_handlers(f"try:\n  work()\n{handler}\n")) == [3]
