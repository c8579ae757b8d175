"""The routes are tested on the shared cloud."""

from __future__ import annotations

import pytest

from tests.support.cloud_client import Cloud


@pytest.fixture
def cloud(shared_cloud: Cloud) -> Cloud:
    """A running cloud without galleries."""
    return shared_cloud
