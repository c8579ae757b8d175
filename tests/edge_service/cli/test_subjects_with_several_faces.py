"""How the commands show and change the rule of a gallery, and what they say of a subject's faces at enrollment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from edge_service.cli.session import Session
from edge_service.cli.subjects.enrollment import PictureEnrollment, pictures_of
from edge_service.cli.subjects.enrollment import people_in as people
from tests.edge_service.cli.patronus_command import Command
from tests.support.edge import PICTURES, Edge, Pair
from tests.support.patronus_profile import copy_profile, units

OBAMA = [PICTURES / "obama" / f"{name}.jpg" for name in ("portrait", "speech", "standing")]
BIDEN = PICTURES / "biden" / "standing.jpg"


def test_the_rule_is_chosen_shown_and_changed(command: Command) -> None:
    assert command.quick("gallery", "create", "by-best", "--score", "best")[1][0]["score"]["rule"] == "best"
    assert command.quick("gallery", "create", "by-mean")[1][0]["score"]["rule"] == "mean"
    assert "compared by their most similar face; " in command.run("gallery", "show", "by-best").stdout
    ended = command.run("gallery", "score", "by-best", "mean")
    said = "Gallery by-best: subjects are compared by the mean of their faces.\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, said, "")
    assert "compared by the mean of their faces; " in command.run("gallery", "show", "by-best").stdout
    assert command.quick("gallery", "score", "by-best", "best")[1][0]["score"] == {"rule": "best", "exponents": []}
    table = command.run("gallery", "list").stdout
    assert {line.split()[1]: line.split()[-2] for line in table.splitlines() if " by-" in line} == {
        "by-best": "best",
        "by-mean": "mean",
    }
    ended = command.run("gallery", "create", "by-best", "--score", "mean")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "compares subjects by the rule best; change it with patronus gallery score" in ended.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["gallery", "score", "by-mean"],
        ["gallery", "score", "by-mean", "median"],
        ["gallery", "create", "x", "--score", "median"],
    ],
)
def test_another_rule_is_wrong_usage(command: Command, words: list[str]) -> None:
    ended = command.run(*words)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Usage" in ended.stderr


def test_only_the_first_of_many_rows_that_do_not_match_are_named(command: Command, tmp_path: Path) -> None:
    command.quick("gallery", "create", "mixed-up")
    source = tmp_path / "in.npz"
    np.savez(source, embeddings=units(30, seed=9), subjects=np.array(["eve"] * 30))
    ended = command.run("migrate", "mixed-up", str(source))
    assert ended.returncode == 0, "they are enrolled"
    assert "30 do not match the subject's other faces." in ended.stdout
    lines = ended.stderr.strip().splitlines()
    assert len(lines) == 20
    assert lines[0] == "Row 0 (subject 'eve') does not match the subject's other faces: two people under one name?"
    assert command.quick("migrate", "mixed-up", str(source))[1][0]["disagreeing"] == 30


@pytest.fixture(scope="module")
def edge(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """An edge whose profile says what another picture is worth."""
    profiles = tmp_path_factory.mktemp("profiles")
    copy_profile("default", profiles, "scored", score={"exponents": [0.7], "tar": [0.831, 0.932, 0.96, 0.9605]})
    with Pair(tmp_path_factory.mktemp("pair")) as pair:
        yield pair.edge(profile="scored", profiles=profiles)


@pytest.fixture(autouse=True)
def _no_log() -> Iterator[None]:
    """The services' log would be among what the commands print."""
    with capture_logs():
        yield


def session(edge: Edge, *, as_json: bool = False) -> Session:
    made = Session(json=as_json)
    made.client = made.patient_client = edge.client()
    return made


def test_a_person_is_told_what_one_more_picture_is_worth(edge: Edge, capsys: pytest.CaptureFixture[str]) -> None:
    edge.make("staff")
    said = []
    for picture in OBAMA:
        assert PictureEnrollment(session(edge), "staff").run(pictures_of("obama", [picture]))
        said.append(capsys.readouterr().out.strip().splitlines()[1:])
    assert said == [
        ["obama has 1 face. With one more, 93.2% of their comparisons are accepted instead of 83.1%, as measured for "
         "the profile."],
        ["obama has 2 faces. With one more, 96.0% of their comparisons are accepted instead of 93.2%, as measured for "
         "the profile."],
        [],
    ]  # fmt: skip


def test_a_face_of_somebody_else_is_enrolled_with_a_warning(edge: Edge, capsys: pytest.CaptureFixture[str]) -> None:
    edge.make("warned")
    assert PictureEnrollment(session(edge), "warned").run(pictures_of("obama", [OBAMA[0], BIDEN]))
    printed = capsys.readouterr()
    assert f"{BIDEN}: does not match the subject's other faces: two people under one name?" in printed.err
    assert f"{BIDEN}: enrolled as obama" in printed.out
    assert str(OBAMA[0]) not in printed.err

    assert PictureEnrollment(session(edge, as_json=True), "warned").run(pictures_of("obama", [OBAMA[1]]))
    printed = capsys.readouterr()
    [answer] = [json.loads(line) for line in printed.out.splitlines() if '"enrolled"' in line]
    assert (answer["agrees"], answer["faces_enrolled"]) == (True, 3)
    assert answer["another_picture"] == {"accepted_now": 0.96, "accepted_with_one_more": 0.9605}
    assert "does not match" not in printed.err


def test_of_many_subjects_it_is_counted_whom_another_picture_would_help(
    edge: Edge, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    edge.make("many")
    for name, pictures in (("obama", OBAMA), ("biden", [BIDEN])):
        (tmp_path / name).mkdir()
        for number, picture in enumerate(pictures):
            (tmp_path / name / f"{number}.jpg").write_bytes(picture.read_bytes())
    assert PictureEnrollment(session(edge), "many").run(people(tmp_path))
    assert "Another picture would help 1 of 2 subjects." in capsys.readouterr().out
