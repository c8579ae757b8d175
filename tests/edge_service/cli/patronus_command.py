"""The command ``patronus`` as tests call it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from shared.command import build


@dataclass
class Command:
    """``patronus`` against the running pair."""

    edge: str
    home: Path

    def run(
        self, *arguments: str, home: Path | None = None, edge: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """In a process of its own: exit status, standard output and standard error as a shell sees them."""
        environment = {
            "PATH": "/usr/bin:/bin",
            "PATRONUS_HOME": str(home or self.home),
            "PATRONUS_EDGE_URL": edge or self.edge,
            "COLUMNS": "200",
        }
        program = "from shared.command import main; main()"
        return subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            input="",
            check=False,
        )

    def quick(self, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
        """In this process, with ``--json``: the exit status and the objects, one a line."""
        environment = {"PATRONUS_HOME": str(self.home), "PATRONUS_EDGE_URL": self.edge}
        ended = CliRunner().invoke(build(), [*arguments, "--json"], env=environment, catch_exceptions=False)
        return ended.exit_code, [json.loads(line) for line in ended.stdout.splitlines()]
