"""``patronus detect``, ``compare``, ``status`` and completion; and enrolling a folder again, or one face twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from edge_service.cli.session import Session
from edge_service.cli.status import show_status, status_line
from edge_service.cli.subjects.enrollment import Picture, PictureEnrollment, people_in
from shared.home import patronus_version
from shared.security.credentials import Scope
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
    assert edge == f"edge: ready; {command.edge}; version {patronus_version()}; profile default"
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


def test_a_folder_that_is_enrolled_again_stores_nothing_and_says_so(command: Command, tmp_path: Path) -> None:
    for subject in ("obama", "biden"):
        shutil.copytree(PICTURES / subject, tmp_path / subject)
    command.quick("gallery", "create", "again")
    assert "Enrolled 4 of 4 pictures, of 2 subjects." in command.run("enroll", "again", str(tmp_path)).stdout
    ended = command.run("enroll", "again", str(tmp_path))
    assert (ended.returncode, ended.stderr.strip()) == (0, "")
    assert ended.stdout.splitlines()[-1] == (
        "Nothing was stored: all 4 pictures, of 2 subjects, were enrolled already."
    )
    status, lines = command.quick("enroll", "again", "--from", str(tmp_path))
    assert (status, [line["stored"] for line in lines]) == (0, ["before"] * 4)
    assert command.quick("gallery", "show", "again")[1][0]["templates"] == 4


@pytest.fixture(scope="module")
def edge(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with Pair(tmp_path_factory.mktemp("pair")) as pair:
        yield pair.edge()


@pytest.fixture(autouse=True)
def _no_log() -> Iterator[None]:
    """The services' log would be among what the commands print."""
    with capture_logs():
        yield


@pytest.fixture
def people(tmp_path: Path) -> list[Picture]:
    """One person under two names, and another one."""
    for name, picture in (("barack/a.jpg", OBAMA), ("biden/a.jpg", BIDEN), ("obama/a.jpg", SPEECH)):
        (tmp_path / name).parent.mkdir()
        shutil.copy(picture, tmp_path / name)
    return people_in(tmp_path)


def session(edge: Edge, *, as_json: bool = False, **options: Any) -> Session:
    made = Session(json=as_json)
    made.client = made.patient_client = edge.client(**options)
    return made


def test_two_subjects_with_the_same_face_are_told(
    edge: Edge, people: list[Picture], capsys: pytest.CaptureFixture[str]
) -> None:
    edge.make("doubles")
    assert PictureEnrollment(session(edge), "doubles").run(people), "they are enrolled all the same"
    said = capsys.readouterr()
    assert "Enrolled 3 of 3 pictures, of 3 subjects." in said.out
    [line] = said.err.strip().splitlines()
    assert line.startswith("Perhaps one person under two names: ")
    assert "barack and obama (0." in line
    assert "biden" not in line

    assert PictureEnrollment(session(edge, as_json=True), "doubles").run(people)
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "also_matches" in line]
    told = {one["subject"]: [other["subject"] for other in one["also_matches"]] for one in found}
    assert told == {"barack": ["obama"], "biden": [], "obama": ["barack"]}


def test_a_verify_only_gallery_is_not_searched(
    edge: Edge, people: list[Picture], capsys: pytest.CaptureFixture[str]
) -> None:
    edge.call("PUT", "/v1/galleries/alone", json={"verify_only": True})
    assert PictureEnrollment(session(edge), "alone").run(people)
    assert capsys.readouterr().err.strip() == ""


def test_a_key_that_may_not_match_is_told_that_nothing_was_looked_for(
    edge: Edge, people: list[Picture], capsys: pytest.CaptureFixture[str]
) -> None:
    edge.make("narrow")
    key = edge.key(Scope.ENROLL)["Authorization"].removeprefix("Bearer ")
    assert PictureEnrollment(session(edge, api_key=key), "narrow").run(people)
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("Whether two subjects have the same face was not looked for with 3 of 3 pictures: ")


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
