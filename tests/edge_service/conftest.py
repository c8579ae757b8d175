"""A real edge before a real cloud, and the parts of vision with the real models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from edge_service.models.store import ModelFile
from edge_service.settings import EdgeSettings, InferenceSettings
from edge_service.vision import reader as reader_module
from edge_service.vision.reader import FaceReader
from edge_service.vision.sessions import OrtSession
from shared.logs import drop_exception_text, refuse_values
from shared.metrics import Metrics
from tests.support.edge import Edge, Pair


@pytest.fixture(autouse=True, scope="session")
def _short_log() -> Iterator[None]:
    """The log as the service keeps it; structlog's own default spends seconds on drawing each traceback's locals."""
    structlog.configure(processors=[refuse_values, drop_exception_text, structlog.processors.JSONRenderer()])
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True, scope="session")
def _models_loaded_once() -> Iterator[None]:
    """Edges of one process share the loaded models: loading them takes most of an edge's start."""
    loaded: dict[tuple[str, str, InferenceSettings], OrtSession] = {}

    def load(model: ModelFile, settings: InferenceSettings) -> OrtSession:
        key = (str(model.path), model.sha256, settings)
        if key not in loaded:
            loaded[key] = OrtSession(model, settings)
        return loaded[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader_module, "OrtSession", load)
        yield


@pytest.fixture(scope="session")
def session_pair(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A cloud for the tests of this process."""
    with Pair(tmp_path_factory.mktemp("session")) as opened:
        yield opened


@pytest.fixture(scope="session")
def session_edge(session_pair: Pair) -> Edge:
    """An edge for the tests of this process."""
    return session_pair.edge()


@pytest.fixture
def edge(session_edge: Edge) -> Iterator[Edge]:
    """An edge before a cloud with no gallery in it; what the test leaves is removed."""
    session_edge.transport.reset()
    yield session_edge
    session_edge.transport.reset()
    for gallery in session_edge.call("GET", "/v1/galleries").json()["items"]:
        session_edge.call("DELETE", f"/v1/galleries/{gallery['gallery']}")


@pytest.fixture
def pair(models_folder: Path, tmp_path: Path) -> Iterator[Pair]:
    """A cloud of the test's own: for tests that restart edges or read folders."""
    with Pair(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="session")
def shared_edge(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """An edge for tests that leave nothing behind; it has a gallery ``door`` in which nobody is."""
    with Pair(tmp_path_factory.mktemp("shared")) as opened:
        edge = opened.edge()
        edge.make("door")
        yield edge


@pytest.fixture(scope="session")
def reader(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> FaceReader:
    """The real models, as the edge runs them."""
    return FaceReader(EdgeSettings(home=tmp_path_factory.mktemp("reader")), Metrics("edge"))


@pytest.fixture
def clean_environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a first start: an empty home, and nothing that names a build server."""
    empty = tmp_path / "home"
    empty.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "PATRONUS_MODELS") if name in os.environ}
    return kept | {"HOME": str(empty), "XDG_CACHE_HOME": str(empty), "PYTHONDONTWRITEBYTECODE": "1"}
