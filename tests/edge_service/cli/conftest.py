"""One running pair for all tests of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.processes.pair import running_pair
from tests.edge_service.cli.patronus_command import Command


@pytest.fixture(scope="session")
def command(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    home = tmp_path_factory.mktemp("pair")
    with running_pair(home) as (edge, _key_file):
        command = Command(edge, home)
        yield command
        command.forks.close()
