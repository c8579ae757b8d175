"""The command ``patronus`` as tests call it."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from shared.command import build
from tests.support.forked_commands import ForkedCommands


@functools.cache
def whole_command() -> typer.Typer:
    """``patronus`` with every group."""
    return build()


@functools.cache
def _parser() -> Any:
    """Made once: it takes longer than most calls, and ``CliRunner.invoke`` makes it for each."""
    return get_command(whole_command())


@dataclass
class Command:
    """``patronus`` against the running pair."""

    edge: str
    home: Path
    forks: ForkedCommands = field(default_factory=ForkedCommands)

    def run(
        self, *arguments: str, home: Path | None = None, edge: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """In a process of its own: exit status, standard output and standard error as a shell sees them."""
        environment = {
            "PATRONUS_HOME": str(home or self.home),
            "PATRONUS_EDGE_URL": edge or self.edge,
            "COLUMNS": "200",
        }
        ended = self.forks.run([*arguments], environment)
        return subprocess.CompletedProcess(arguments, ended["status"], ended["out"], ended["err"])

    def quick(self, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
        """In this process, with ``--json``: the exit status and the objects, one a line."""
        environment = {"PATRONUS_HOME": str(self.home), "PATRONUS_EDGE_URL": self.edge}
        with CliRunner().isolation(env=environment) as (out, _, _):
            with pytest.raises(SystemExit) as ended:
                _parser().main([*arguments, "--json"], prog_name="patronus")
            sys.stdout.flush()
            lines = out.getvalue().splitlines()
        return int(ended.value.code or 0), [json.loads(line) for line in lines]
