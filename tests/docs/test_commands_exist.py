"""Commands, settings and words of the code that the documentation names exist, also where they are not run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import BaseModel

from cloud_service.settings import Settings as CloudSettings
from edge_service.settings import EdgeSettings
from shared.command import build
from tests.docs.pages import PAGES, ROOT, RUN, SHELL, blocks, inline_code

_OTHER_PROGRAMS = re.compile(
    "cat|chown|cp|createdb|createuser|curl|date|docker|export|grep|mkdir|pip|python3|sqlite3|sudo|tail|tar|tee|umask"
)
_WORDS_OF_OTHERS = {
    "core_pattern",
    "full_page_writes",
    "max_wal_size",
    "pg_dump",
    "pg_repack",
    "pg_restore",
    "pids_limit",
    "remote_apply",
    "synchronous_commit",
    "synchronous_standby_names",
    "wal_recycle",
}
_CODE = ("patronus_face", "edge_service", "cloud_service", "shared", "lab", "deploy", "tests/load", "tests/support")
_SEPARATORS = {"|", "||", "&&", ";", "&", "(", ")", ">", ">>", "<"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.stem))
def test_every_command_exists(page: Path) -> None:
    written = [(str(block), line) for block in blocks(page) if block.language in SHELL for line in _lines(block.text)]
    written += [(page.name, code) for code in inline_code(page) if re.match(r"(patronus|make|python -m) ", code)]
    for where, line in written:
        for words in _commands(line):
            wrong = _wrong(words)
            assert wrong is None, f"{where}: {line}: {wrong}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.stem))
def test_every_block_has_a_language_and_every_skip_a_reason(page: Path) -> None:
    for block in blocks(page):
        assert block.language in RUN | {"json", "text"}, f"{block}: {block.language!r}"
        assert block.skip != "", f"{block} is skipped without a reason"
    assert not re.search(r"^    (patronus|make|curl|docker|python|pip|export) ", page.read_text(), re.MULTILINE), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.stem))
def test_every_setting_exists(page: Path) -> None:
    for name in re.findall(r"PATRONUS_(?:EDGE|CLOUD)__[A-Z_]*[A-Z]", page.read_text()):
        assert _is_setting(name), f"{page.name}: {name}"
    for name in re.findall(r"…((?:__[A-Z_]*[A-Z])+)", page.read_text()):
        assert any(field.endswith(name.lower()) for field in _fields()), f"{page.name}: …{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.stem))
def test_every_word_of_the_code_exists(page: Path) -> None:
    """Metrics, log events, reasons, members of answers: what is written like_this in a page is written in the code."""
    words = {code for code in inline_code(page) if re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)+", code)}
    missing = {word for word in words - _WORDS_OF_OTHERS if not re.search(rf"\b{word}\b", _code())}
    missing = {word for word in missing if re.sub("_(edge|cloud)_", "_{service}_", word) not in _code()}
    assert not missing, f"{page.name}: {sorted(missing)}"


def test_what_does_not_exist_is_noticed() -> None:
    assert _wrong(["make", "nothing"])
    assert _wrong(["patronus", "gallery", "create", "staff", "--no-such-option"])
    assert _wrong(["patronus", "gallery", "nothing"])
    assert _wrong(["python", "-m", "lab.nothing"])
    assert _wrong(["deploy/nothing"])
    assert _wrong(["nothing"])
    assert not _is_setting("PATRONUS_EDGE__CLOUD__NOTHING")


def _lines(text: str) -> Iterator[str]:
    """Commands of a script, a line each: continued lines joined, documents for standard input left out."""
    end: str | None = None
    for line in text.replace("\\\n", " ").splitlines():
        if end is not None:
            end = None if line == end else end
            continue
        document = re.search(r"<<'?(\w+)'?", line)
        end = document[1] if document else None
        yield line[: document.start()] if document else line


def _commands(line: str) -> Iterator[list[str]]:
    """The words of each command of a line, those of ``$(...)`` first."""
    for inner in re.findall(r"\$\(([^()]*)\)", line):
        yield from _commands(inner)
    line = re.sub(r"\$\([^()]*\)", "X", line)
    reader = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    reader.whitespace_split = True
    words: list[str] = []
    for word in [*reader, ";"]:
        if word in _SEPARATORS or set(word) <= set("();<>|&"):
            while words and re.match(r"[A-Za-z_]+=", words[0]):
                words.pop(0)
            if words:
                yield words
            words = [">"] if word in {">", ">>", "<"} else []
        else:
            words.append(word)


def _wrong(words: list[str]) -> str | None:
    """What is wrong with a command, or None."""
    program, *rest = words
    name = Path(program).name
    wrong = None
    if program == "sudo":
        wrong = _wrong(rest)
    elif program == "docker":  # what runs in a container is a command of ours
        starts = [place for place, word in enumerate(rest) if word in {"patronus", "-m"}]
        wrong = (
            _wrong(["python", *rest[starts[0] :]] if rest[starts[0]] == "-m" else rest[starts[0] :]) if starts else None
        )
    elif name == "patronus":
        wrong = _wrong_use(_patronus(), rest)
    elif program == "make":
        targets = [word for word in rest if "=" not in word and not word.startswith("-")]
        wrong = next((f"no target {target}" for target in targets if target not in _targets()), None)
    elif name in {"python", "python3"}:
        wrong = None if rest[0] != "-m" or _has_module(rest[1]) else f"no module {rest[1]}"
    elif "/" in program:
        wrong = None if (ROOT / program).exists() else f"no file {program}"
    elif program != ">" and not _OTHER_PROGRAMS.fullmatch(program):
        wrong = f"no program {program}"
    return wrong


def _wrong_use(command: Any, words: list[str]) -> str | None:
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        if words[0] == "…":
            return None
        if words[0] not in command.commands:
            return f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    given = [word.split("=")[0] for word in words if word.startswith("--")]
    return next((f"no option {option}" for option in given if option not in {*options, "--help"}), None)


def _has_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@cache
def _patronus() -> Any:
    return typer.main.get_command(build())


@cache
def _targets() -> set[str]:
    text = (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv")
    return set(re.findall(r"^([a-zA-Z./-]+):", text, re.MULTILINE))


def _is_setting(name: str) -> bool:
    model: Any = EdgeSettings if name.startswith("PATRONUS_EDGE__") else CloudSettings
    for level in name.split("__")[1:]:
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or level.lower() not in model.model_fields:
            return False
        model = model.model_fields[level.lower()].annotation
    return True


@cache
def _fields() -> frozenset[str]:
    """The last two levels of every setting: ``__group__field``."""
    groups = [
        (name, field.annotation)
        for settings in (EdgeSettings, CloudSettings)
        for name, field in settings.model_fields.items()
    ]
    return frozenset(
        f"__{group}__{name}"
        for group, model in groups
        if isinstance(model, type) and issubclass(model, BaseModel)
        for name in model.model_fields
    )


@cache
def _code() -> str:
    files = [path for part in _CODE for path in (ROOT / part).rglob("*") if path.suffix in {".py", ".json", ".yml"}]
    return "\n".join(path.read_text() for path in files if path.stat().st_size < 300_000)
