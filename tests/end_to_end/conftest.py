"""A real edge and a real cloud, as processes of their own, with a relay between them that keeps what crosses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import PICTURES, RunningPair, running_pair


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory, models_folder: Path) -> Iterator[RunningPair]:
    """One for all tests of a worker: each test names galleries of its own."""
    with running_pair(tmp_path_factory.mktemp("home"), models_folder) as running:
        yield running


@pytest.fixture
def picture() -> dict[str, bytes]:
    """The sample pictures, by ``person/picture``."""
    return {
        f"{path.parent.name}/{path.stem}": path.read_bytes()
        for path in PICTURES.glob("*/*")
        if path.suffix in {".jpg", ".png"}
    }
