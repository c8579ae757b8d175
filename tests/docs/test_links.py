"""Links of the documentation lead somewhere, and its pages begin alike."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, inline_code, prose

_LINKED = [
    *sorted(ROOT.glob("*.md")),
    *(page for part in ("docs", "deploy", "tests") for page in sorted((ROOT / part).rglob("*.md"))),
]
_CODE = [
    path
    for part in ("edge_service", "cloud_service", "shared", "lab", "deploy", "tests")
    for path in (ROOT / part).rglob("*")
    if path.suffix in {".py", ".yml", ".toml"}
] + [ROOT / "Makefile", ROOT / "docker-compose.yml"]


@pytest.mark.parametrize("page", _LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = prose(page)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}: no such file"
        assert target.is_relative_to(ROOT), f"{page.name}: {link} leaves the repository"
        if anchor:
            assert anchor in _anchors(target), f"{page.name}: {link}: no such heading"


def test_every_page_that_the_code_names_exists() -> None:
    for path in _CODE:
        for named in re.findall(r"\bdocs/[a-z][A-Za-z0-9_./-]*", path.read_text()):
            name = named.rstrip(".")
            assert (ROOT / name).exists() or list(ROOT.glob(name + "-*")), f"{path.relative_to(ROOT)}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.stem))
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    named = [*inline_code(page), *re.findall(r'reason="see ([^"]+)"', page.read_text())]
    for path in named:
        if re.fullmatch(r"(edge_service|cloud_service|shared|lab|deploy|tests|docs)/[\w./*-]+", path):
            assert list(ROOT.glob(path.rstrip("/"))), f"{page.name}: {path}"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: str(page.stem))
def test_a_page_begins_with_whom_it_is_for_and_is_in_the_index(page: Path) -> None:
    if page.name == "README.md":
        return
    lines = page.read_text().splitlines()
    for line, begin in zip(lines[2:5], ("- **For**: ", "- **You can then**: ", "- **Before**: "), strict=True):
        assert line.startswith(begin)
    assert f"({page.name}" in (page.parent / "README.md").read_text()


def test_drawings_have_no_scripts() -> None:
    for drawing in (ROOT / "docs").glob("*.svg"):
        assert not re.search(r"<script|\son\w+=|href=", drawing.read_text()), drawing.name


@cache
def _anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        again = sum(1 for other in found if re.fullmatch(rf"{re.escape(name)}(-\d+)?", other))
        found.add(f"{name}-{again}" if again else name)
    return found
