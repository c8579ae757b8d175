"""How far long work is: a bar on a terminal; elsewhere, as in a file, a line every few seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from shared.processes.progress_lines import ProgressLines

_T = TypeVar("_T")


def progress(
    work: Iterable[_T], what: str, total: int, *, weight: int = 1, console: Console | None = None
) -> Iterator[_T]:
    """Shows on the standard error stream how far the work is.

    Args:
        work: its parts, in order.
        what: is done, such as ``reading faces``.
        total: how many parts there are.
        weight: how many things a part stands for; lines count these.
        console: another stream.

    Returns:
        the parts.
    """
    shown = console or Console(stderr=True)
    if shown.is_terminal:
        yield from track(work, what, total=total, console=shown)
        return
    lines = ProgressLines(shown)
    task = lines.add_task(what, total=total * weight)
    for one in work:
        yield one
        lines.advance(task, weight)


@contextmanager
def continued_by_same_command() -> Iterator[None]:
    """Says so when the work is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        Console(stderr=True).print("Stopped. The same command continues; what was finished is kept.", soft_wrap=True)
        raise
