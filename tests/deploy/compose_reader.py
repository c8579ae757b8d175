"""Reads the part of YAML that docker-compose.yml is written in; no YAML package is among the pinned ones."""

from __future__ import annotations

import re
from typing import Any

_KEY = re.compile(r"^(?P<key>[\w.<-]+):(?: (?P<rest>.+))?$")


def read_compose(text: str) -> dict[str, Any]:
    """Mappings, lists of scalars, flow lists, anchors of mappings, aliases and ``<<``. Scalars stay strings.

    Raises:
        ValueError: a line is written in another way.
    """
    lines = [(len(line) - len(line.lstrip()), line.strip()) for line in map(_without_comment, text.splitlines())]
    lines = [line for line in lines if line[1]]
    read = _mapping(lines, 0, {})
    if lines:
        raise ValueError(f"not understood: {lines[0][1]}")
    return read


def _without_comment(line: str) -> str:
    return "" if line.lstrip().startswith("#") else re.sub(r"\s+#\s.*$", "", line)


def _mapping(lines: list[tuple[int, str]], indent: int, anchors: dict[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    own: dict[str, Any] = {}
    while lines and lines[0][0] == indent:
        found = _KEY.match(lines[0][1])
        if not found:
            raise ValueError(f"not understood: {lines[0][1]}")
        lines.pop(0)
        key, rest = found["key"], found["rest"] or ""
        if rest and not rest.startswith("&"):
            value = _scalar(rest, anchors)
        else:
            value = _block(lines, indent, anchors)
            if rest:
                anchors[rest[1:]] = value
        if key == "<<":
            merged = value
        elif key in own:
            raise ValueError(f"twice: {key}")
        else:
            own[key] = value
    return merged | own


def _block(lines: list[tuple[int, str]], indent: int, anchors: dict[str, Any]) -> Any:
    if not lines or lines[0][0] <= indent:
        return None
    inner = lines[0][0]
    if not lines[0][1].startswith("- "):
        return _mapping(lines, inner, anchors)
    items = []
    while lines and lines[0][0] == inner and lines[0][1].startswith("- "):
        items.append(_scalar(lines.pop(0)[1][2:], anchors))
    return items


def _scalar(text: str, anchors: dict[str, Any]) -> Any:
    if text.startswith("*"):
        return anchors[text[1:]]
    if text.startswith("["):
        return [part[0] or part[1] for part in re.findall(r'"([^"]*)"|([^\s,"\[\]]+)', text)]
    return text.strip('"')
