"""The pages of the documentation, and the command blocks in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
"""Pages that tell a reader what to do; decisions and the changelog tell what was done."""
SHELL = {"sh", "bash", "console"}
RUN = SHELL | {"python"}

_FENCE = re.compile(r"^\s*```(.*)$")
_MARKER = re.compile(r"^<!-- test: (.*) -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and what a comment before it says to the tests.

    ``<!-- test: skip reason="..." -->``: do not run it. ``setup="..."``: run this before. ``expect="a|b"``: the output
    has these, in this order.
    """

    page: Path
    line: int
    language: str
    text: str
    skip: str | None = None
    setup: str = ""
    expect: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def script(self) -> str:
        """The block as a shell runs it."""
        return f"python - <<'END'\n{self.text}END\n" if self.language == "python" else self.text


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    found: list[Block] = []
    lines = page.read_text().splitlines()
    opened: tuple[int, str] | None = None
    marker = ""
    for number, line in enumerate(lines, start=1):
        if fence := _FENCE.match(line):
            if opened is None:
                opened = number, fence[1].strip()
            else:
                text = "\n".join(lines[opened[0] : number - 1]) + "\n"
                found.append(Block(page, opened[0], opened[1], text, **_options(marker)))
                opened, marker = None, ""
        elif opened is None and line.strip():
            written = _MARKER.match(line.strip())
            marker = written[1] if written else ""
    return found


def _options(marker: str) -> dict[str, str | tuple[str, ...] | None]:
    words = shlex.split(marker)
    values = dict(word.split("=", maxsplit=1) for word in words if "=" in word)
    reason = values.pop("reason", "")
    skip = reason if "skip" in words else None
    expect = tuple(values.pop("expect", "").split("|")) if "expect" in values else ()
    setup = values.pop("setup", "")
    if values or set(words) - {"skip"} != {word for word in words if "=" in word}:
        raise ValueError(f"This marker is not understood: {marker}")
    return {"skip": skip, "expect": expect, "setup": setup}


def prose(page: Path) -> str:
    """A page's text without its fenced blocks."""
    return re.sub(r"^\s*```.*?^\s*```\s*$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def inline_code(page: Path) -> list[str]:
    """What stands between backticks in a page's prose, its lines joined."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]
