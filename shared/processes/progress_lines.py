"""How far long work is, in lines, where the standard error stream is no terminal."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID


class ProgressLines(Progress):
    """Progress for a log or a pipe: a line every few seconds, and none of work that is done sooner.

    Args:
        console: where the lines go.
        every_s: seconds between two lines.
    """

    def __init__(self, console: Console, every_s: float = 5.0) -> None:
        super().__init__(console=console, disable=True)
        self._every_s = every_s
        self._told = time.monotonic()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """As ``Progress.advance``."""
        super().advance(task_id, advance)
        self._tell(task_id)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """As ``Progress.update``."""
        super().update(task_id, **changes)
        self._tell(task_id)

    def _tell(self, task_id: TaskID) -> None:
        now = time.monotonic()
        if now - self._told < self._every_s:
            return
        self._told = now
        task = next(task for task in self.tasks if task.id == task_id)
        speed = task.speed or (task.completed / task.elapsed if task.elapsed else 0)
        of = "" if task.total is None else f" of {task.total:,.0f}"
        self.console.print(
            f"{task.description}: {task.completed:,.0f}{of}, {speed:,.0f} a second", markup=False, soft_wrap=True
        )
