"""Both services keep to their OpenAPI documents, whatever they receive; ``make fuzz`` tries for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.load.fuzz.__main__ import Service, fuzzed, services
from tests.support.servers import RunningPair

# Drawn from a fixed seed and not shrunk: to find out more about a failure, run `make fuzz`.
DETERMINISTIC = ["--seed=1", "--generation-deterministic", "--no-shrink"]


@pytest.mark.parametrize(
    "service",
    [Service.CLOUD, pytest.param(Service.EDGE, marks=pytest.mark.slow(reason="detects faces in many pictures"))],
)
def test_some_requests_to_each_operation_are_answered_as_promised(
    service: Service, pair: RunningPair, tmp_path: Path
) -> None:
    client = pair.cloud if service is Service.CLOUD else pair.edge
    url, key = str(client.base_url).rstrip("/"), client.headers["Authorization"].removeprefix("Bearer ")
    found = fuzzed(service, url, key, tmp_path, ["--phases=fuzzing", "--max-examples=1", *DETERMINISTIC], within=300)
    # So few requests reach some operations with errors only.
    failures = [one for one in found.failures if "EveryOperationIsReached" not in one]
    assert failures == [], (tmp_path / f"{service}.log").read_text()[-6000:]
    assert found.operations[0] == found.operations[1] > 10
    assert found.requests > 10


@pytest.mark.slow(reason="hundreds of requests, drawn by schemathesis")
@pytest.mark.parametrize(("service", "examples"), [(Service.CLOUD, 8), (Service.EDGE, 4)])
def test_a_service_keeps_to_its_document(service: Service, examples: int, tmp_path: Path, models_folder: Path) -> None:
    with services([service], {"PATRONUS_MODELS": str(models_folder)}) as running:
        found = fuzzed(service, *running[service], tmp_path, [f"--max-examples={examples}", *DETERMINISTIC], within=600)
    assert found.failures == [], (tmp_path / f"{service}.log").read_text()[-6000:]
    assert found.operations[0] == found.operations[1] > 10
    assert found.requests > 200
