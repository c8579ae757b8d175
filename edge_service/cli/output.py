"""What the client verbs print: sentences and tables for people, one JSON object a line for programs."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table


class Output:
    """Where results go.

    Args:
        as_json: one JSON object a line on standard output, and nothing else there.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.people = Console(file=sys.stderr if as_json else sys.stdout, highlight=False)
        self.errors = Console(stderr=True, highlight=False)

    def result(self, answer: dict[str, Any], sentence: str) -> None:
        """One result."""
        if self.as_json:
            sys.stdout.write(json.dumps(answer, ensure_ascii=False) + "\n")
        else:
            self.people.print(sentence, markup=False, soft_wrap=True)

    def refused(self, problem: dict[str, Any], sentence: str) -> None:
        """One refusal: an object among the others for programs, a sentence on standard error for people."""
        if self.as_json:
            sys.stdout.write(json.dumps(problem, ensure_ascii=False) + "\n")
        else:
            self.errors.print(sentence, markup=False, soft_wrap=True)

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        """A table, for people only."""
        if self.as_json or not rows:
            return
        table = Table(title=title, title_justify="left")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.people.print(table, markup=False)
