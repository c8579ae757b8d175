"""One running pair for all tests of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer.main
import typer.testing

from shared.processes.pair import running_pair
from tests.edge_service.cli.patronus_command import Command


@pytest.fixture(scope="session")
def command(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    home = tmp_path_factory.mktemp("pair")
    with running_pair(home) as (edge, _key_file):
        command = Command(edge, home)
        yield command
        command.forks.close()


@pytest.fixture(autouse=True, scope="session")
def _command_made_once() -> Iterator[None]:
    """Calls in this process share the parser of ``patronus``, which takes longer to make than most calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", cache(typer.main.get_command))
        yield
