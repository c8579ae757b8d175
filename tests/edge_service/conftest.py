"""A real edge before a real cloud, and the parts of vision with the real models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from edge_service.settings import EdgeSettings
from edge_service.vision.reader import FaceReader, open_reader
from shared.logs import drop_exception_text, refuse_values
from shared.metrics import Metrics
from tests.support.edge import Edge, House


@pytest.fixture(autouse=True, scope="session")
def _short_log() -> Iterator[None]:
    """The log as the service keeps it; structlog's own default spends seconds on drawing each traceback's locals."""
    structlog.configure(processors=[refuse_values, drop_exception_text, structlog.processors.JSONRenderer()])
    yield
    structlog.reset_defaults()


@pytest.fixture
def house(models_folder: Path, tmp_path: Path) -> Iterator[House]:
    with House(tmp_path) as opened:
        yield opened


@pytest.fixture
def edge(house: House) -> Edge:
    """An edge and a cloud of this test's own."""
    return house.edge()


@pytest.fixture(scope="session")
def shared_edge(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """An edge for tests that leave nothing behind; it has a gallery ``door`` in which nobody is."""
    with House(tmp_path_factory.mktemp("shared")) as opened:
        edge = opened.edge()
        edge.make("door")
        yield edge


@pytest.fixture(scope="session")
def reader(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> FaceReader:
    """The real models, as the edge runs them."""
    return open_reader(EdgeSettings(home=tmp_path_factory.mktemp("reader")), Metrics("edge"))


@pytest.fixture
def clean_environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a first start: an empty home, and nothing that names a build server."""
    empty = tmp_path / "home"
    empty.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "PATRONUS_MODELS") if name in os.environ}
    return kept | {"HOME": str(empty), "XDG_CACHE_HOME": str(empty), "PYTHONDONTWRITEBYTECODE": "1"}
