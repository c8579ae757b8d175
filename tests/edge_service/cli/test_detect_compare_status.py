"""``patronus detect``, ``compare``, ``status`` and completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import httpx
import pytest
from structlog.testing import capture_logs

from edge_service.cli.session import Session
from edge_service.cli.status import show_status, status_line
from shared.client.call import Call
from shared.errors import AnswerNotUnderstood
from shared.home import patronus_version
from shared.wire.edge_subjects import Moved
from tests.edge_service.cli.patronus_command import Command
from tests.support.edge import PICTURES, CloudTransport, Edge, Pair

OBAMA, SPEECH = str(PICTURES / "obama" / "portrait.jpg"), str(PICTURES / "obama" / "speech.jpg")
BIDEN = str(PICTURES / "biden" / "standing.jpg")


def test_the_faces_of_a_picture_are_shown(command: Command) -> None:
    ended = command.run("detect", OBAMA)
    assert (ended.returncode, ended.stderr) == (0, "")
    first, face = ended.stdout.splitlines()
    assert first.startswith("1 face in ")
    assert face.startswith("face 1: ")
    assert face.endswith("; good enough")
    status, [answer] = command.quick("detect", OBAMA)
    assert (status, answer["faces_found"], len(answer["faces"])) == (0, 1, 1)


def test_two_pictures_are_compared(command: Command) -> None:
    assert command.run("compare", OBAMA, SPEECH).stdout.startswith("match: similarity 0.")
    status, [answer] = command.quick("compare", OBAMA, BIDEN)
    assert (status, answer["decision"]) == (0, "no_match")


def test_the_status_of_a_pair_is_shown(command: Command) -> None:
    ended = command.run("status")
    assert (ended.returncode, ended.stderr) == (0, "")
    edge, cloud = ended.stdout.splitlines()
    assert edge == f"edge: ready; {command.edge}; version {patronus_version()}; profile default-2"
    assert cloud.startswith("cloud: ready; http://127.0.0.1:")
    assert cloud.endswith(f"; version {patronus_version()}")


def test_of_an_edge_elsewhere_the_cloud_is_known_as_the_edge_sees_it(command: Command) -> None:
    ended = command.run("status", "--json", edge=command.edge.replace("127.0.0.1", "localhost"))
    found = json.loads(ended.stdout)
    assert (ended.returncode, found["ready"]) == (0, True)
    assert found["cloud"] == {"url": None, "reachable": True, "ready": True, "version": None}


def test_the_status_of_an_edge_that_is_away_is_a_failure(command: Command) -> None:
    ended = command.run("status", edge="http://127.0.0.1:9")
    assert (ended.returncode, ended.stderr) == (1, "")
    assert ended.stdout.splitlines() == [
        "edge: No edge answers at http://127.0.0.1:9; start one there, or name another address (PATRONUS_EDGE_URL)",
        "cloud: not known, since the edge does not answer",
    ]
    status, [found] = command.quick("status", "--edge", "http://127.0.0.1:9")
    assert (status, found["edge"]["reachable"], found["ready"]) == (1, False, False)


def test_the_status_names_what_is_not_ready() -> None:
    edge = {"url": "http://e", "reachable": True, "ready": False, "version": "1", "profile": "default"}
    checks = {"models": True, "keys": False, "cloud": False}
    assert status_line("edge", edge | {"checks": checks}) == (
        "edge: not ready: keys; http://e; version 1; profile default"
    )
    cloud = {"url": "http://c", "reachable": True, "ready": False, "version": "1"}
    assert status_line("cloud", cloud) == "cloud: not ready; http://c; version 1"


@pytest.mark.parametrize(("words", "completed"), [("patronus det", "detect"), ("patronus gallery sco", "score")])
def test_a_shell_completes_commands(words: str, completed: str) -> None:
    asked = {"_PATRONUS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    command = [Path(sys.executable).with_name("patronus")]
    ended = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, check=False, timeout=120)
    assert (ended.returncode, ended.stdout.split(), ended.stderr) == (0, [completed], "")


@pytest.fixture(scope="module")
def edge(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with Pair(tmp_path_factory.mktemp("pair")) as pair:
        yield pair.edge()


@pytest.fixture(autouse=True)
def _no_log() -> Iterator[None]:
    """The services' log would be among what the commands print."""
    with capture_logs():
        yield


def session(edge: Edge) -> Session:
    made = Session()
    made.client = edge.client()
    return made


def test_the_status_says_that_the_cloud_does_not_answer(edge: Edge, capsys: pytest.CaptureFixture[str]) -> None:
    async def away(_transport: CloudTransport, request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("away", request=request)

    edge.transport.always = away
    try:
        assert not show_status(session(edge))
    finally:
        edge.transport.reset()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("edge", "cloud"))]
    assert lines[0].startswith("edge: ready; http://edge; ")
    assert lines[1] == "cloud: does not answer the edge, or is not ready"


def test_the_status_says_that_versions_differ(
    edge: Edge, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert show_status(session(edge))
    assert "versions" not in capsys.readouterr().err
    monkeypatch.setattr("edge_service.routes.info.patronus_version", lambda: "0.0.1")
    assert show_status(session(edge)), "both are ready all the same"
    said = capsys.readouterr().err.strip()
    assert said == f"The versions differ: this command {patronus_version()}, the edge 0.0.1. Install the same."


@pytest.mark.parametrize(("method", "below"), [("POST", "clone"), ("PATCH", "duplicates")])
def test_an_operation_that_the_edge_lacks_is_named(edge: Edge, method: Literal["POST", "PATCH"], below: str) -> None:
    """As one of an earlier version lacks it: here, what a later client might call."""
    path = f"/v1/galleries/{{gallery}}/{below}"
    with edge.client() as client, pytest.raises(AnswerNotUnderstood) as error:
        client.send(Call(method=method, path=path, answer=Moved, names={"gallery": "door"}, body={}))
    assert error.value.detail == (
        f"What answers at http://edge does not have {method} {path}: it is an edge of an older version than this "
        "client, or no edge."
    )
    assert error.value.request_id
