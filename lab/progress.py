"""How far long work is: a bar on a terminal; elsewhere, as in a file, a line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from rich.console import Console
from rich.progress import track

_T = TypeVar("_T")

# A reader of a file sees within it that the work goes on, and an hour is some hundred lines.
LINE_SECONDS: Final = 10.0


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
    began = said = time.monotonic()
    shown.print(f"{what}: {total * weight:,} to do", soft_wrap=True, highlight=False)
    for done, one in enumerate(work):
        if time.monotonic() - said >= LINE_SECONDS:
            said = time.monotonic()
            share = done / total if total else 1.0
            shown.print(
                f"{what}: {done * weight:,} of {total * weight:,} ({share:.0%}) after {said - began:.0f} s",
                soft_wrap=True,
                highlight=False,
            )
        yield one


@contextmanager
def continued_by_same_command() -> Iterator[None]:
    """Says so when the work is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        Console(stderr=True).print("Stopped. The same command continues; what was finished is kept.", soft_wrap=True)
        raise
