"""Models that ONNX Runtime accepts and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_service.models.store import locate
from edge_service.settings import InferenceSettings
from edge_service.vision import sessions
from edge_service.vision.sessions import OrtGraph, OrtSession
from shared.errors import SetupError


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x08\x07", b"\x08\x09\x3a\x02\x0a\x00"])
def test_a_file_that_is_no_model_is_refused_in_one_sentence(data: bytes) -> None:
    with pytest.raises(SetupError, match=r"^ONNX Runtime refuses the graph$"):
        OrtGraph(data, "the graph")


def test_an_error_of_this_program_is_not_reported_as_a_refused_model(
    models_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking() -> int:
        raise AttributeError("module 'os' has no attribute 'sched_getaffinity'")

    monkeypatch.setattr(sessions, "usable_cpus", lacking)
    with pytest.raises(AttributeError, match="sched_getaffinity"):
        OrtSession(locate("face-detector", models_folder), InferenceSettings())
