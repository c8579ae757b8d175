"""Both services do what their OpenAPI documents say, whatever they are sent; ``make fuzz`` tries for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.load.fuzz.__main__ import Service, fuzzed, services

# So many cases an operation, drawn from a fixed seed and not shrunk: what is found is looked into with `make fuzz`.
BOUNDED = {
    Service.CLOUD: ["--max-examples=8", "--seed=1", "--generation-deterministic", "--no-shrink"],
    Service.EDGE: ["--max-examples=4", "--seed=1", "--generation-deterministic", "--no-shrink"],
}


@pytest.mark.parametrize("service", list(Service))
def test_a_service_keeps_what_its_document_promises(service: Service, tmp_path: Path, models_folder: Path) -> None:
    with services([service], {"PATRONUS_MODELS": str(models_folder)}) as running:
        found = fuzzed(service, *running[service], tmp_path, BOUNDED[service], within=300)
    assert found.failures == [], (tmp_path / f"{service}.log").read_text()[-6000:]
    assert found.operations[0] == found.operations[1] > 10
    assert found.requests > 200
