"""The page's files: what was copied from others is what it says, and both languages have every text."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from tests.support.cloud_client import assert_problem
from tests.support.edge import Edge

STATIC = Path(__file__).parents[3] / "edge_service" / "console" / "static"
VENDOR = STATIC / "vendor"
OWN = [path for path in sorted(STATIC.rglob("*.js")) if VENDOR not in path.parents]
MOST_LINES = 400
FIRST_VIEW_BYTES = 200_000
# Read before somebody has signed in.
FIRST_VIEW = [
    "index.html", "style.css", "icon.svg", "app.js", "vendor/preact-htm.js", "lang/en.js", "views/sign_in.js",
    "views/galleries.js", "recognition.css",
]  # fmt: skip

_ENTRY = re.compile(r'^  "([\w.]+)":\s*"((?:[^"\\]|\\.)*)",$', re.MULTILINE)


def texts(language: str) -> dict[str, str]:
    found = _ENTRY.findall((STATIC / "lang" / f"{language}.js").read_text())
    assert len({key for key, _ in found}) == len(found), "a key is given twice"
    return dict(found)


def lines(language: str) -> list[str]:
    return [line for line in (STATIC / "lang" / f"{language}.js").read_text().splitlines() if line.startswith('  "')]


def test_each_vendored_file_has_the_digest_that_is_written_beside_it() -> None:
    versions = json.loads((VENDOR / "VERSIONS.json").read_text())
    assert {path.name for path in VENDOR.glob("*.js")} == set(versions)
    for name, about in versions.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == about["sha256"]


@pytest.mark.parametrize("language", ["en", "de"])
def test_every_line_of_a_language_is_read(language: str) -> None:
    assert len(lines(language)) == len(texts(language)) > 50


def test_both_languages_have_the_same_texts_with_the_same_values() -> None:
    english, german = texts("en"), texts("de")
    assert set(english) == set(german)
    values = re.compile(r"\{\w+\}")
    assert {key for key in english if set(values.findall(english[key])) != set(values.findall(german[key]))} == set()


def test_every_text_that_the_page_asks_for_is_there() -> None:
    plain = {re.sub(r"\.(one|other)$", "", key) for key in texts("en")} | set(texts("en"))
    asked = {key for path in OWN for key in re.findall(r'\bt\("([\w.]+)"', path.read_text())}
    assert asked
    assert asked - plain == set()


def test_the_page_loads_nothing_from_elsewhere_and_stores_nothing() -> None:
    for path in [*OWN, STATIC / "index.html", STATIC / "style.css"]:
        text = path.read_text()
        assert re.findall(r"(?:https?:)?//[\w-]+\.[\w.]+", text.replace("http://www.w3.org/", "")) == [], path
        assert re.findall(r"\b(localStorage|sessionStorage|indexedDB|document\.cookie|innerHTML|eval)\b", text) == [], (
            path
        )


def test_no_file_of_the_page_is_long() -> None:
    long = {path.name: len(path.read_text().splitlines()) for path in [*OWN, STATIC / "style.css"]}
    assert {
        name: length for name, length in long.items() if length > MOST_LINES and name not in {"en.js", "de.js"}
    } == {}


def test_the_first_view_is_small() -> None:
    read = [STATIC / name for name in FIRST_VIEW] + [*(STATIC / "lib").glob("*.js"), *(STATIC / "parts").glob("*.js")]
    assert sum(path.stat().st_size for path in read) < FIRST_VIEW_BYTES


@pytest.mark.parametrize("wanted", ["bytes=5-3", "bytes=0-4", "bytes=x", "lines=1-2", "bytes=9999999-"])
def test_a_range_of_a_file_is_answered_with_the_whole_file(session_edge: Edge, wanted: str) -> None:
    whole = session_edge.call("GET", "/console/app.js")
    answer = session_edge.call("GET", "/console/app.js", {"Range": wanted})
    assert (answer.status_code, answer.content) == (200, whole.content)
    assert "accept-ranges" not in answer.headers


@pytest.mark.parametrize(
    ("path", "allowed"), [("/", "GET, HEAD"), ("/console/app.js", "GET, HEAD"), ("/console/no-such.js", "GET, HEAD")]
)
def test_another_method_is_told_which_ones_there_are(session_edge: Edge, path: str, allowed: str) -> None:
    answer = session_edge.call("PATCH", path)
    assert_problem(answer, 405, "method-not-allowed")
    assert answer.headers["Allow"] == allowed
