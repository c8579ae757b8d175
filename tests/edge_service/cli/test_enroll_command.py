"""``patronus enroll``: folders, again, dry runs, and one person under two names."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from edge_service.cli.session import Session
from edge_service.cli.subjects.enrollment import Picture, PictureEnrollment, people_in, pictures_of
from shared.errors import BadRequest, Conflict
from shared.security.credentials import Scope
from tests.edge_service.cli.patronus_command import Command, whole_command
from tests.support.edge import PICTURES, Edge, Pair

OBAMA, SPEECH, STANDING = (PICTURES / "obama" / f"{name}.jpg" for name in ("portrait", "speech", "standing"))
BIDEN = PICTURES / "biden" / "standing.jpg"


def test_a_folder_that_is_enrolled_again_stores_nothing_and_says_so(command: Command, tmp_path: Path) -> None:
    for subject in ("obama", "biden"):
        shutil.copytree(PICTURES / subject, tmp_path / subject)
    command.quick("gallery", "create", "again")
    assert "Enrolled 4 of 4 pictures, of 2 subjects." in command.run("enroll", "again", str(tmp_path)).stdout
    ended = command.run("enroll", "again", str(tmp_path))
    assert (ended.returncode, warnings(ended.stderr)) == (0, [])
    said = "Nothing was stored: all 4 pictures, of 2 subjects, were enrolled already."
    assert said in ended.stdout.splitlines()
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


def told(out: str) -> list[str]:
    """The lines of a command, without those of the services' log."""
    return [line for line in out.splitlines() if not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2} ", line)]


def warnings(err: str) -> list[str]:
    """What was said beside the progress, which a busy machine shows."""
    return [line for line in err.strip().splitlines() if not line.startswith("enrolling: ")]


def test_two_subjects_with_the_same_face_are_told(
    edge: Edge, people: list[Picture], capsys: pytest.CaptureFixture[str]
) -> None:
    edge.make("doubles")
    assert PictureEnrollment(session(edge), "doubles").run(people), "they are enrolled all the same"
    said = capsys.readouterr()
    assert "Enrolled 3 of 3 pictures, of 3 subjects." in said.out
    [line] = warnings(said.err)
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
    assert warnings(capsys.readouterr().err) == []


def test_a_key_that_may_not_match_is_told_that_nothing_was_looked_for(
    edge: Edge, people: list[Picture], capsys: pytest.CaptureFixture[str]
) -> None:
    edge.make("narrow")
    key = edge.key(Scope.ENROLL)["Authorization"].removeprefix("Bearer ")
    assert PictureEnrollment(session(edge, api_key=key), "narrow").run(people)
    [line] = warnings(capsys.readouterr().err)
    assert line.startswith("Whether two subjects have the same face was not looked for with 3 of 3 pictures: ")


def test_a_dry_run_stores_nothing_and_says_what_would_be(edge: Edge, capsys: pytest.CaptureFixture[str]) -> None:
    edge.make("dry")
    assert PictureEnrollment(session(edge), "dry").run(pictures_of("Öbama", [OBAMA]))
    capsys.readouterr()
    pictures = [*pictures_of("Öbama", [OBAMA, STANDING]), *pictures_of("twin", [SPEECH]), Picture("biden", BIDEN)]
    assert PictureEnrollment(session(edge), "dry", dry_run=True).run(pictures)
    said = capsys.readouterr()
    assert told(said.out) == [
        f"{OBAMA}: is enrolled already as Öbama",
        f"{STANDING}: would be enrolled as Öbama",
        f"{SPEECH}: would be enrolled as twin",
        f"{BIDEN}: would be enrolled as biden",
        "Nothing was stored. Would enroll 3 of 4 pictures, of 3 subjects; 1 was enrolled already.",
        "The pictures were compared with subjects who are enrolled, and not with one another.",
    ]
    [line] = warnings(said.err)
    assert line.startswith("Perhaps one person under two names: twin and Öbama (0.")
    assert edge.held("dry") == (1, 1)
    assert PictureEnrollment(session(edge, as_json=True), "dry", dry_run=True).run(pictures[2:3])
    [line] = [json.loads(line) for line in told(capsys.readouterr().out)]
    assert (line["enrolled"], line["stored"], line["also_matches"][0]["subject"]) == (False, "no", "Öbama")


def test_a_face_of_another_subject_is_refused_and_the_rest_goes_on(
    edge: Edge, people: list[Picture], capsys: pytest.CaptureFixture[str]
) -> None:
    edge.make("strict")
    assert not PictureEnrollment(session(edge), "strict", on_conflict="refuse").run(people)
    said = capsys.readouterr()
    assert "Enrolled 2 of 3 pictures, of 2 subjects; 1 was refused." in told(said.out)
    [refused] = warnings(said.err)
    assert refused.endswith("obama/a.jpg: is nearer to another subject (barack) than to this one, and was not stored.")
    assert not PictureEnrollment(session(edge, as_json=True), "strict", on_conflict="refuse").run(people)
    lines = [json.loads(line) for line in told(capsys.readouterr().out)]
    assert [(line["subject"], line["enrolled"], line.get("reason")) for line in lines] == [
        ("barack", True, None),
        ("biden", True, None),
        ("obama", False, "belongs_to_another"),
    ]
    assert lines[-1]["nearest"] == "barack"
    assert edge.held("strict") == (2, 2)


def test_a_verify_only_gallery_refuses_at_once_to_look_for_others(edge: Edge, people: list[Picture]) -> None:
    edge.call("PUT", "/v1/galleries/closed", json={"verify_only": True})
    with pytest.raises(Conflict):
        PictureEnrollment(session(edge), "closed", on_conflict="refuse").run(people)
    assert edge.held("closed") == (0, 0)


def test_pictures_at_another_level_of_a_folder_are_refused_before_any_is_sent(tmp_path: Path) -> None:
    deep = tmp_path / "staff" / "obama" / "a.jpg"
    deep.parent.mkdir(parents=True)
    shutil.copy(OBAMA, deep)
    with pytest.raises(BadRequest, match=rf"^{deep}: lies deeper than FOLDER/SUBJECT/PICTURE; .*\.$"):
        people_in(tmp_path)
    assert [one.subject for one in people_in(tmp_path / "staff")] == ["obama"]
    with pytest.raises(
        BadRequest, match=rf"^{deep.parent}: holds pictures itself, where FOLDER/SUBJECT/PICTURE is .*\.$"
    ):
        people_in(deep.parent)
    assert people_in(deep.parent, named_files=True) == [Picture("a", deep)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadRequest, match="holds no folders of pictures; FOLDER/SUBJECT/PICTURE is wanted"):
        people_in(tmp_path / "empty")


def test_the_help_names_the_layout_of_a_folder() -> None:
    shown = CliRunner().invoke(whole_command(), ["enroll", "--help"]).stdout
    assert "FOLDER/SUBJECT/PICTURE" in shown


def test_after_a_merge_a_folder_enrolled_again_stores_nothing(
    edge: Edge, people: list[Picture], capsys: pytest.CaptureFixture[str]
) -> None:
    edge.make("merged")
    assert PictureEnrollment(session(edge), "merged").run(people)
    with edge.client() as client:
        assert client.merge_subject("merged", "obama", "barack").faces_enrolled == 2
    capsys.readouterr()
    assert PictureEnrollment(session(edge), "merged").run(people)
    said = capsys.readouterr()
    assert (
        "Enrolled 0 of 3 pictures, of 2 subjects; 2 were enrolled already; 1 is enrolled under another name by now."
        in told(said.out)
    )
    assert "is enrolled under another name: it was enrolled under this one, and was moved or renamed since." in said.err
    assert edge.held("merged") == (2, 3)


def test_folders_are_subjects_in_any_script_and_form(
    edge: Edge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two that differ by Unicode's form alone are one subject, and that is told."""
    composed, decomposed = (normalize(form, "José") for form in ("NFC", "NFD"))
    for name, picture in ((composed, OBAMA), (decomposed, SPEECH), ("拜登", BIDEN)):
        (tmp_path / name).mkdir()
        shutil.copy(picture, tmp_path / name)
    edge.make("scripts")
    assert PictureEnrollment(session(edge), "scripts").run(people_in(tmp_path))
    said = capsys.readouterr()
    assert "Enrolled 3 of 3 pictures, of 2 subjects." in said.out
    assert warnings(said.err) == [
        f"Several folders are one subject, since their names differ by Unicode's form alone: {composed}."
    ]
    with edge.client() as client:
        assert {one.subject: one.templates for one in client.all_subjects("scripts")} == {composed: 2, "拜登": 1}
