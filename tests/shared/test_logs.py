"""No biometric value, no picture and no exception's text gets into the log."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from shared.http.request_context import begin_request
from shared.logs import configure_logging, get_logger


@pytest.fixture
def configured(log_as_before: None) -> None:
    configure_logging("info")


@pytest.mark.parametrize(
    "value", [np.full(128, 0.12345), b"0.12345", [0.12345], (0.12345,), {"x": 0.12345}, np.float32(0.12345)]
)
def test_a_value_that_could_be_a_face_is_not_written(
    configured: None, capsys: pytest.CaptureFixture[str], value: object
) -> None:
    configure_logging("info")
    get_logger("test").info("enrolled", template=value, count=3)
    written = capsys.readouterr().err
    assert "0.12345" not in written
    line = json.loads(written)
    assert (line["event"], line["count"], line["level"]) == ("enrolled", 3, "info")
    assert "not logged" in line["template"]


def test_an_exception_is_a_name_and_a_place(configured: None, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")

    def failing() -> None:
        raise ValueError("embedding [0.12345]")

    try:
        failing()
    except ValueError:
        get_logger("test").exception("failed")
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
    written = capsys.readouterr().err
    assert "0.12345" not in written
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["exception"] for line in lines] == ["ValueError", "ValueError"]
    assert "failing" in lines[0]["at"]
    assert "test_logs.py" in lines[1]["at"]


def test_every_line_tells_its_request(configured: None, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    begin_request(b"call-42")
    get_logger("test").info("done")
    assert json.loads(capsys.readouterr().err)["request_id"] == "call-42"


def test_less_important_lines_are_left_out(configured: None, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning")
    get_logger("test").info("done")
    assert capsys.readouterr().err == ""
