"""Clouds for tests: one that is shared, and others in a folder of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from cloud_service.settings import RecordSettings, Settings
from shared.logs import drop_exception_text, refuse_values
from tests.support.cloud_client import Cloud
from tests.support.milvus_server import Milvus, MilvusLite
from tests.support.postgres_server import NoServer, PostgresServer, programs, served


@pytest.fixture(autouse=True, scope="session")
def _short_log() -> Iterator[None]:
    """The log as the service keeps it; structlog's own default spends seconds on drawing each traceback's locals."""
    structlog.configure(processors=[refuse_values, drop_exception_text, structlog.processors.JSONRenderer()])
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def shared_milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Milvus]:
    """One Milvus for all tests that leave it as it is; each record has collections of its own in it.

    A milvus-lite, unless PATRONUS_TEST_MILVUS names the URL of a server, as ``make test-milvus`` does.
    """
    named = os.environ.get("PATRONUS_TEST_MILVUS")
    if named:
        yield Milvus(named)
        return
    with MilvusLite(tmp_path_factory.mktemp("milvus")) as server:
        yield server


@pytest.fixture
def own_milvus(tmp_path: Path) -> Iterator[MilvusLite]:
    """A milvus-lite that a test may stop, freeze or empty."""
    with MilvusLite(tmp_path / "milvus") as server:
        yield server


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests marked with ``both_engines`` run on SQLite and on PostgreSQL; all others on SQLite."""
    if "engine" in metafunc.fixturenames and metafunc.definition.get_closest_marker("both_engines"):
        other = pytest.param("postgresql", marks=pytest.mark.slow(reason="on the other engine, too"))
        metafunc.parametrize("engine", ["sqlite", other])


@pytest.fixture
def engine() -> str:
    return "sqlite"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all; its database is emptied for each test."""
    try:
        programs()
    except NoServer as why:
        pytest.skip(str(why))
    yield from served()


@pytest.fixture
def record_url(engine: str, request: pytest.FixtureRequest) -> str | None:
    """The URL of an empty record; None: the file in the home folder."""
    if engine == "sqlite":
        return None
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.url(server.emptied())


@pytest.fixture
def settings(tmp_path: Path, record_url: str | None) -> Settings:
    """Settings of a cloud with an empty record of its own."""
    return Settings(home=tmp_path / "cloud", record=RecordSettings(url=record_url))


@pytest.fixture
def own_cloud(settings: Settings) -> Iterator[Cloud]:
    """A running cloud of the test's own, for tests that stop it, damage it, or read its files."""
    with Cloud(settings) as running:
        yield running


@pytest.fixture(scope="session")
def sqlite_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Cloud(Settings(home=tmp_path_factory.mktemp("shared") / "cloud")) as running:
        yield running


@pytest.fixture(scope="session")
def postgresql_cloud(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Iterator[Cloud]:
    record = RecordSettings(url=postgres.url(postgres.new_database()))
    with Cloud(Settings(home=tmp_path_factory.mktemp("shared") / "cloud", record=record)) as running:
        yield running


@pytest.fixture
def shared_cloud(engine: str, request: pytest.FixtureRequest) -> Iterator[Cloud]:
    """The one running cloud of all tests that need nothing else; each finds it without galleries."""
    running: Cloud = request.getfixturevalue(f"{engine}_cloud")
    headers = dict(running.http.headers)
    yield running
    running.http.headers = headers
    running.erase_all()


@pytest.fixture
def cloud(own_cloud: Cloud) -> Cloud:
    """A running cloud without galleries."""
    return own_cloud


@pytest.fixture
def client(cloud: Cloud) -> Cloud:
    """A cloud with an empty gallery named ``door``."""
    assert cloud.put_gallery().status_code == 201
    return cloud
