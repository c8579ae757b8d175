"""Prints results: sentences and tables for people, one JSON object a line for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from shared.processes.progress_lines import ProgressLines
from shared.standard_streams import json_line, visible

Answer = TypeVar("Answer", bound=BaseModel)
# What is said of a face that does not agree with the others of its subject.
DISAGREES: Final = "does not match the subject's other faces: two people under one name?"
# Of what was moved, or its subject renamed, since it was enrolled: the reason of a refusal, and what is said of it.
MOVED_AWAY: Final = "template_id_taken"
ELSEWHERE: Final = "is enrolled under another name: it was enrolled under this one, and was moved or renamed since."
# Ends of a sentence, for one embedding and for several.
UNDER_ANOTHER_NAME: Final = ("is enrolled under another name by now", "are enrolled under other names by now")
UNPERTURBED: Final = ("had no margin and was not perturbed", "had no margin and were not perturbed")


class _Console(Console):
    """A terminal for people, where no name can hide or reorder what stands beside it."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As ``Console.print``."""
        super().print(*(visible(each) if isinstance(each, str) else each for each in objects), **options)


class Output:
    """Where results go.

    Args:
        as_json: prints one JSON object a line on standard output, and nothing else there.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        # Without emoji: a name such as `:one:` is shown as it is.
        self.people = _Console(file=sys.stderr if as_json else sys.stdout, highlight=False, emoji=False)
        self.errors = _Console(stderr=True, highlight=False, emoji=False)

    def result(self, answer: BaseModel | dict[str, Any], sentence: str) -> None:
        """Prints one result."""
        self._print(answer, sentence, self.people)

    def refused(self, problem: dict[str, Any], sentence: str) -> None:
        """Prints one refusal: for programs among the results, for people on standard error."""
        self._print(problem, sentence, self.errors)

    def tell(self, sentence: str) -> None:
        """Prints a sentence about several results, for people."""
        self.people.print(sentence, markup=False, soft_wrap=True)

    def warn(self, sentence: str) -> None:
        """Prints a warning for people, on standard error; programs find it in the result."""
        if not self.as_json:
            self.errors.print(sentence, markup=False, soft_wrap=True)

    def _print(self, answer: BaseModel | dict[str, Any], sentence: str, console: Console) -> None:
        if self.as_json:
            sys.stdout.write(json_line(plain(answer)))
        else:
            console.print(sentence, markup=False, soft_wrap=True)

    def results(
        self,
        title: str,
        columns: list[str],
        found: list[Answer],
        row: Callable[[Answer], list[str]],
        none: str,
    ) -> None:
        """Prints several results: a table for people, or the sentence ``none`` where there are none."""
        if self.as_json:
            for answer in found:
                self.result(answer, "")
        elif not found:
            self.tell(none)
        else:
            table = Table(title=title, title_justify="left")
            for column in columns:
                table.add_column(column, overflow="fold")
            for answer in found:
                table.add_row(*map(visible, row(answer)))
            self.people.print(table, markup=False)

    def progress(self, *, shown: bool = True) -> Progress:
        """A progress bar on standard error, which disappears at the end; where that is no terminal, lines."""
        if shown and not self.errors.is_terminal:
            return ProgressLines(self.errors)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        return Progress(*columns, console=self.errors, transient=True, disable=not shown)


def plain(answer: BaseModel | dict[str, Any]) -> dict[str, Any]:
    """An answer as JSON has it."""
    return answer.model_dump(mode="json") if isinstance(answer, BaseModel) else answer
