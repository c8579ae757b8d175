"""The rules of the source tree: who imports whom, no circles, no private names of libraries, sizes."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
PRODUCT = ("patronus_face", "edge_service", "cloud_service", "shared")
CODE = (*PRODUCT, "lab", "deploy", "tests")

# What a part may import of the others.
ARROWS = {
    "patronus_face": {"edge_service.protection", "shared"},
    "edge_service": {"shared"},
    "cloud_service": {"shared"},
    "shared": set(),
    "lab": {"edge_service.protection", "edge_service.vision", "shared"},
    "deploy": {"cloud_service", "edge_service", "shared"},
}
# Still to go, from each of these lists: more than is named here fails.
ALSO_IMPORTED = {"lab": {"edge_service.models", "edge_service.settings"}}
TOO_FULL: dict[str, int] = {}
TOO_LONG: dict[str, int] = {}

TRAINING = {"torch", "onnx2torch", "skimage", "matplotlib"}
LIBRARIES_FORBIDDEN = {
    "patronus_face": TRAINING | {"faiss", "sqlalchemy"},
    "edge_service": TRAINING | {"faiss", "sqlalchemy"},
    "cloud_service": TRAINING | {"onnx", "onnxruntime", "cv2", "PIL"},
    "shared": TRAINING | {"faiss", "sqlalchemy", "onnx", "onnxruntime", "cv2", "PIL"},
}

MOST_FILES = 15
MOST_LINES = 400

# Documented by their library in spite of the underscore.
PUBLIC_WITH_UNDERSCORE = {"os._exit", "sys._getframe"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def files(part: str) -> list[Path]:
    return sorted((CHECKOUT / part).rglob("*.py"))


def name_of(path: Path) -> str:
    """The module of a file, with dots."""
    parts = path.relative_to(CHECKOUT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(node: ast.AST) -> list[str]:
    """The modules that an import statement may load: ``from a import b`` gives ``a.b``, too."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def imports(path: Path) -> set[str]:
    """All imports of a file, also those in functions."""
    return {name for node in ast.walk(tree(path)) for name in imported(node)}


def under(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def relative(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


@pytest.mark.parametrize("part", ARROWS)
def test_a_part_imports_only_the_parts_that_it_may(part: str) -> None:
    wrong = set()
    for path in files(part):
        for node in ast.walk(tree(path)):
            names = imported(node)
            if not names or names[0].split(".")[0] not in CODE:
                continue
            allowed = ARROWS[part] | ALSO_IMPORTED.get(part, set()) | {part}
            if not any(under(name, one) for name in names for one in allowed):
                wrong.add((relative(path), names[0]))
    assert wrong == set()


@pytest.mark.parametrize("part", LIBRARIES_FORBIDDEN)
def test_a_service_does_not_need_the_libraries_of_another_part(part: str) -> None:
    forbidden = LIBRARIES_FORBIDDEN[part]
    found = {relative(path): {name.split(".")[0] for name in imports(path)} & forbidden for path in files(part)}
    assert {path: names for path, names in found.items() if names} == {}


def test_only_one_module_imports_the_runtime() -> None:
    assert importing("edge_service", "onnxruntime") == {"edge_service/vision/sessions.py"}


def test_onnx_is_used_only_to_convert_models() -> None:
    assert {Path(path).parent.as_posix() for path in importing("edge_service", "onnx")} == {"edge_service/models"}


def test_only_one_module_of_the_edge_speaks_to_the_cloud() -> None:
    found = importing("edge_service", "httpx", "requests", "urllib3", "aiohttp")
    client = {path for path in found if not path.startswith(("edge_service/cli/", "edge_service/models/"))}
    # The types of a transport and of an answer.
    types_only = {f"edge_service/{name}.py" for name in ("app", "services", "cloud/answers", "cloud/bounded")}
    assert client - types_only == {"edge_service/cloud/client.py"}


def importing(part: str, *libraries: str) -> set[str]:
    """The files of a part that import one of these."""
    return {relative(path) for path in files(part) if {name.split(".")[0] for name in imports(path)} & {*libraries}}


def loaded_at_once(body: list[ast.stmt]) -> Iterator[str]:
    """What a module imports while it is imported: not in functions, and not for types alone."""
    for node in body:
        yield from imported(node)[-len(getattr(node, "names", ())) :]
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from loaded_at_once(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for name in ("body", "orelse", "finalbody", "handlers"):
                yield from loaded_at_once(getattr(node, name, []))


def circles(graph: dict[str, set[str]]) -> list[str]:
    """What is left of a graph after all modules went that nothing, or only nothing in a circle, depends on."""
    left = dict(graph)
    while True:
        needed = {name for names in left.values() for name in names}
        ends = [name for name in left if name not in needed or not left[name] & left.keys()]
        if not ends:
            return sorted(left)
        for name in ends:
            del left[name]


def test_no_modules_import_each_other_in_a_circle() -> None:
    paths = {name_of(path): path for part in CODE for path in files(part)}
    graph = {
        name: {one if one in paths else one.rpartition(".")[0] for one in loaded_at_once(tree(path).body)}
        & paths.keys()
        for name, path in paths.items()
    }
    assert len(graph) > 100
    assert circles(graph) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def private_names(module: ast.Module) -> Iterator[str]:
    """Names with an underscore of modules that are not this project's."""
    aliases: dict[str, str] = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Import | ast.ImportFrom):
            foreign = [name for name in imported(node) if name.split(".")[0] not in CODE and name[:2] != "__"]
            yield from (name for name in foreign if any(private(part) for part in name.split(".")))
            for alias in node.names if foreign else ():
                aliases[alias.asname or alias.name.split(".")[0]] = alias.name
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and private(node.attr):
            root = ast.unparse(node.value)
            if root.split(".")[0] in aliases:
                yield f"{root}.{node.attr}"


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_no_private_name_of_a_library_is_used() -> None:
    paths = [path for part in CODE if part != "tests" for path in files(part)] + files("tests/load")
    found = {relative(path): set(private_names(tree(path))) - PUBLIC_WITH_UNDERSCORE for path in paths}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("import faiss\nfaiss._swig", "faiss._swig"),
        ("from torch import _C", "torch._C"),
        ("from httpx._types import URL", "httpx._types"),
        ("import numpy as np\nnp.linalg._umath", "np.linalg._umath"),
    ],
)
def test_a_private_name_is_found(code: str, name: str) -> None:
    assert name in set(private_names(ast.parse(code)))


def test_no_folder_holds_more_files_than_can_be_overlooked() -> None:
    held = Counter(
        path.parent.relative_to(CHECKOUT).as_posix()
        for part in CODE
        for path in (CHECKOUT / part).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )
    assert {folder: count for folder, count in held.items() if count > max(MOST_FILES, TOO_FULL.get(folder, 0))} == {}


def test_no_file_is_long() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for part in CODE for path in files(part)}
    assert {path: length for path, length in lengths.items() if length > max(MOST_LINES, TOO_LONG.get(path, 0))} == {}
