"""Tables of measurements that are readable on a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table


def measurements(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]], caption: str | None = None) -> Table:
    """A table without lines between its columns: the first is text, the others are numbers.

    Text is broken between words, never within one: a table is readable wherever its columns' longest words, with a
    space after each, have room.

    Args:
        title: what the table shows.
        heads: one a column.
        rows: as many values each as there are heads.
        caption: what the headings mean, below the table.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, title=title, title_justify="left")
    table.caption, table.caption_justify = caption, "left"
    lines = [tuple(row) for row in rows]
    for at, head in enumerate(heads):
        words = [word for text in (head, *(line[at] for line in lines)) for word in text.split()]
        table.add_column(head, justify="right" if at else "left", vertical="bottom", width=max(map(len, words)))
    for line in lines:
        table.add_row(*line)
    return table
