"""A cloud with an empty record in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from cloud_client import Cloud

from cloud_service.settings import Settings
from shared.logs import drop_exception_text, refuse_values


@pytest.fixture(autouse=True, scope="session")
def _short_log() -> Iterator[None]:
    """The log as the service keeps it; structlog's own default spends seconds on drawing each traceback's locals."""
    structlog.configure(processors=[refuse_values, drop_exception_text, structlog.processors.JSONRenderer()])
    yield
    structlog.reset_defaults()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "cloud")


@pytest.fixture
def cloud(settings: Settings) -> Iterator[Cloud]:
    with Cloud(settings) as running:
        yield running


@pytest.fixture
def door(cloud: Cloud) -> Cloud:
    """A cloud with an empty gallery named ``door``."""
    assert cloud.put_gallery().status_code == 201
    return cloud
