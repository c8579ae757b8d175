"""Fixtures for every test."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import structlog

from tests.support.memory import PeakMemory, give_back

_peak_memory = pytest.StashKey[PeakMemory]()

# The folder ~/.patronus of whoever runs the tests must not reach them.
os.environ["HOME"] = tempfile.mkdtemp(prefix="patronus-tests-home-")
atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)


def pytest_configure(config: pytest.Config) -> None:
    """Starts the measurement of memory, once for all workers; not for the fast lane, which it would slow down."""
    alone = not hasattr(config, "workerinput")
    if alone and not config.option.markexpr and Path("/proc/self/smaps_rollup").exists():
        config.stash[_peak_memory] = PeakMemory()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Loads all tests, and what they import, without collecting garbage, and never looks at all that again.

    Of a worker's samples in a profile of the fast tests, 18 % were in the collector, most of them while it loaded.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no worker waits long for the other one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """After a file, returns memory to the system."""
    if nextitem is None or nextitem.path != item.path:
        give_back()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the peak memory of the run."""
    if (memory := config.stash.get(_peak_memory, None)) is not None:
        memory.stop()
        terminalreporter.write_line(
            f"Peak memory: {memory.peak_bytes / 1e9:.2f} GB in {memory.peak_processes} processes, sampled every 5 s"
        )


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """Restores the log after each test: services and commands that run in this process set it up as they want it."""
    structlog.reset_defaults()  # whatever a fixture of a larger scope set up
    root = logging.getLogger()
    handlers, level, before = list(root.handlers), root.level, structlog.get_config()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**before)


@pytest.fixture
def log_events(log_as_before: None) -> Iterator[list[MutableMapping[str, Any]]]:
    """The log events of the test, as dicts."""
    structlog.reset_defaults()
    with structlog.testing.capture_logs() as events:
        yield events


# Examples a property: `make test` takes fast, `make test-all` slow. To try far more: pytest --hypothesis-profile=deep
hypothesis.settings.register_profile("fast", max_examples=25, deadline=None)
hypothesis.settings.register_profile("slow", max_examples=100, deadline=None)
hypothesis.settings.register_profile("deep", max_examples=2_000, deadline=None)
hypothesis.settings.load_profile("slow")  # unless the command line names another


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Iterator[None]:
    """Refuses a test in the slow lane without a reason, as an error of the collection."""
    if any(not mark.kwargs.get("reason") for mark in metafunc.definition.iter_markers("slow")):
        name = metafunc.definition.name
        raise pytest.Collector.CollectError(f'{name}: add a reason: @pytest.mark.slow(reason="...")')
    yield


@pytest.fixture(scope="session")
def models_folder() -> Path:
    """The real face models, ready to run: fetched and converted once, then only checked."""
    from edge_service.models.manifest import load_manifest
    from edge_service.models.store import models_dir, prepare
    from tests.support.tiny_model import named_sources

    folder = models_dir()
    prepare(load_manifest(), folder, **named_sources())
    return folder
