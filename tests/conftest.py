"""Fixtures for every test."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

# Ten times as much and more is tried: pytest --hypothesis-profile=deep
hypothesis.settings.register_profile("deep", max_examples=2_000, deadline=None)


@pytest.fixture(scope="session")
def models_folder() -> Path:
    """The real face models, ready to run: fetched and converted once, then only checked."""
    from edge_service.models import load_manifest, models_dir, prepare, sources_dir, upstream_base

    folder = models_dir()
    prepare(load_manifest(), folder, sources_dir(), upstream_base())
    return folder
