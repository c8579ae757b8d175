"""The client verbs as a person and as a program use them: words, objects and exit statuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.edge_service.cli.patronus_command import Command
from tests.support.edge import PICTURES, encoded, pasted, pixels

OBAMA = str(PICTURES / "obama" / "portrait.jpg")
SPEECH = str(PICTURES / "obama" / "speech.jpg")
BIDEN = str(PICTURES / "biden" / "standing.jpg")


@pytest.fixture(scope="session")
def staff(command: Command) -> str:
    """A gallery in which Obama is enrolled."""
    assert command.quick("gallery", "create", "staff")[0] == 0
    status, [face] = command.quick("enroll", "staff", "obama", OBAMA)
    assert (status, face["enrolled"], face["subject"]) == (0, True, "obama")
    return "staff"


def test_a_person_needs_no_flags(command: Command, staff: str) -> None:
    ended = command.run("verify", staff, "obama", SPEECH)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("match: similarity 0.")
    ended = command.run("identify", staff, SPEECH)
    assert (ended.returncode, ended.stdout.startswith("face 1: obama (0.")) == (0, True)


def test_what_is_there_once_is_reported_in_the_singular(command: Command, staff: str) -> None:
    assert command.run("gallery", "show", staff).stdout.startswith("1 subject, 1 template; ")


def test_a_name_that_cannot_be_is_refused_with_the_rule(command: Command) -> None:
    for words in (["gallery", "create", "bad name"], ["enroll", "bad name", "obama", OBAMA]):
        ended = command.run(*words)
        assert (ended.returncode, ended.stdout) == (1, "")
        rule = "1 to 64 letters, digits or ._-, and a letter or digit first."
        assert ended.stderr == f"'bad name' is not a name that a gallery can have: {rule}\n"


def test_identify_says_which_faces_it_left_out(command: Command, staff: str, tmp_path: Path) -> None:
    head = pixels("collins/portrait.png")[:300, 60:360]
    picture = pasted(head, 1000, 320, (10, 10), (350, 10))
    picture[10:310, 690:990] = (head * 0.08).astype(np.uint8)
    path = tmp_path / "three.png"
    path.write_bytes(encoded(picture))
    ended = command.run("identify", staff, str(path), "--quality", "medium")
    assert ended.returncode == 0
    assert "3 faces were found; left out: 1 beyond --max-faces; 1 of poor quality (too dark: 1)" in ended.stdout
    assert "left out" not in command.run("identify", staff, SPEECH).stdout


def test_a_verify_only_gallery_verifies_and_says_why_it_does_not_identify(command: Command) -> None:
    status, [made] = command.quick("gallery", "create", "--verify-only", "clinic")
    assert (status, made["contract"]["seal"]["scope"]) == (0, "subject")
    assert command.quick("enroll", "clinic", "obama", OBAMA)[0] == 0
    assert command.quick("verify", "clinic", "obama", SPEECH)[1][0]["decision"] == "match"
    ended = command.run("identify", "clinic", SPEECH)
    assert ended.returncode == 1
    assert "verify-only" in ended.stderr


@pytest.mark.parametrize("kind", ["--identify", "--verify-only"])
def test_a_gallerys_key_is_changed_while_it_is_used(command: Command, kind: str) -> None:
    name = f"turned{kind}"
    _status, [made] = command.quick("gallery", "create", kind, name)
    assert command.quick("enroll", name, "obama", OBAMA)[0] == 0
    before = command.quick("verify", name, "obama", SPEECH)[1][0]
    status, [done] = command.quick("gallery", "rekey", name)
    assert (status, done["state"], done["templates"]) == (0, "settled", 1)
    assert done["contract"]["seal"]["epoch"] != made["contract"]["seal"]["epoch"]
    after = command.quick("verify", name, "obama", SPEECH)[1][0]
    assert after["similarity"] == pytest.approx(before["similarity"], abs=1e-6)
    ended = command.run("gallery", "rekey", name, "--abandon")
    assert (ended.returncode, ended.stdout) == (0, "No change of key was under way.\n")
    assert command.quick("gallery", "rekey", name, "--abandon")[1][0] == done


def test_no_match_is_an_answer_and_no_failure(command: Command, staff: str) -> None:
    assert command.quick("verify", staff, "obama", BIDEN)[1][0]["decision"] == "no_match"
    assert command.quick("verify", staff, "obama", BIDEN)[0] == 0
    status, [answer] = command.quick("identify", staff, BIDEN)
    assert (status, answer["faces"][0]["decision"]) == (0, "unknown")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["verify", "nowhere", "obama", OBAMA], "gallery"),
        (["verify", "staff", "nobody", OBAMA], "subject"),
        (["verify", "staff", "obama", "/nonexistent.jpg"], "/nonexistent.jpg: cannot be read (No such file"),
        (["enroll", "staff", "obama", "/nonexistent.jpg"], "/nonexistent.jpg: cannot be read (No such file"),
        (["verify", "staff", "obama", __file__], "not a JPEG, PNG, WebP or AVIF"),
        (["gallery", "show", "nowhere"], "gallery"),
        (["gallery", "rekey", "nowhere"], "gallery"),
        (["gallery", "create", ".."], "name"),
        (["gallery", "create", "a/b"], ""),
        (["subject", "delete", "staff", "nobody", "--yes"], ""),
        (["gallery", "list", "--key-file", "/nonexistent"], "no API key in"),
    ],
)
def test_a_refusal_is_one_sentence_and_status_1(command: Command, staff: str, arguments: list[str], says: str) -> None:
    ended = command.run(*arguments)
    assert ended.returncode == 1
    assert says in ended.stderr
    assert ended.stdout == ""
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
    as_json = command.run(*arguments, "--json")
    [problem] = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert (as_json.returncode, problem["detail"]) == (1, ended.stderr.strip())


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify"],
        ["fly"],
        ["enroll", "staff"],
        ["enroll", "staff", "obama"],
        ["enroll", "staff", "obama", OBAMA, "--from", "/tmp"],
        ["gallery", "create", "g", "--threshold", "0.4"],
        ["gallery", "create", "g", "--threshold", "2", "--fmr", "0.1"],
        ["identify", "staff", OBAMA, "--top-k", "0"],
        ["gallery", "erasure", "staff", "-1"],
        ["gallery", "erasure", "staff", "1:2"],
        ["gallery", "retention", "staff"],
        ["gallery", "retention", "staff", "--max-age", "5d", "--forever"],
        ["gallery", "retention", "staff", "--max-age", "soon", "--yes"],
        ["gallery", "retention", "staff", "--max-age", "0d", "--yes"],
    ],
)
def test_wrong_usage_is_status_2(command: Command, arguments: list[str]) -> None:
    ended = command.run(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Usage" in ended.stderr


def test_an_edge_that_is_away_or_none_at_all_is_reported(command: Command, tmp_path: Path) -> None:
    away = command.run("gallery", "list", edge="http://127.0.0.1:9")
    assert (away.returncode, away.stdout) == (1, "")
    assert "No edge answers at http://127.0.0.1:9" in away.stderr
    keyless = command.run("gallery", "list", home=tmp_path)
    assert keyless.returncode == 1
    assert "no API key" in keyless.stderr


def test_a_folder_is_enrolled_and_what_was_refused_is_summed_up(command: Command, tmp_path: Path) -> None:
    people = tmp_path / "people"
    for subject in ("obama", "biden"):
        shutil.copytree(PICTURES / subject, people / subject)
    (people / "Jane Doe .png").write_bytes(encoded(np.full((300, 300, 3), 90, np.uint8)))
    (people / "biden" / "broken.jpg").write_bytes(Path(BIDEN).read_bytes()[:5000])
    (people / "notes.txt").write_text("not a picture")
    assert command.quick("gallery", "create", "folder")[0] == 0
    at_the_wrong_level = command.run("enroll", "folder", str(people))
    assert (at_the_wrong_level.returncode, at_the_wrong_level.stdout) == (1, "")
    assert "FOLDER/SUBJECT/PICTURE" in at_the_wrong_level.stderr
    status, lines = command.quick("enroll", "folder", "--from", str(people), "--named-files")
    assert status == 1
    assert sorted((line["subject"], line["enrolled"]) for line in lines) == [
        ("Jane Doe ", False),
        ("biden", False),
        ("biden", True),
        ("obama", True),
        ("obama", True),
        ("obama", True),
    ]
    assert {line["reason"] for line in lines if not line["enrolled"]} == {"bad_name", "damaged"}
    status, subjects = command.quick("subject", "list", "folder")
    assert [(one["subject"], one["templates"]) for one in subjects] == [("biden", 1), ("obama", 3)]
    ended = command.run("enroll", "folder", "--from", str(people), "--named-files")
    assert ended.returncode == 1
    said = ended.stdout.splitlines()
    assert "Enrolled 0 of 6 pictures, of 2 subjects; 4 were enrolled already; 2 were refused." in said
    assert f"{people / 'biden' / 'standing.jpg'}: is enrolled already as biden" in ended.stdout
    refused = [line for line in (ended.stdout + ended.stderr).splitlines() if line.startswith(str(people / "Jane"))]
    assert refused == [
        f"{people / 'Jane Doe .png'}: A subject cannot have this name; use 1 to 128 characters, no slash or control "
        "character, no blank at an end."
    ]
    assert "Traceback" not in ended.stderr


def test_enrolling_stops_at_once_when_all_would_be_refused_alike(command: Command) -> None:
    ended = command.run("enroll", "nowhere", "obama", str(PICTURES / "obama"))
    assert ended.returncode == 1
    assert len(ended.stderr.strip().splitlines()) == 1


def test_how_long_a_gallery_keeps_faces_is_set_and_shown(command: Command) -> None:
    command.quick("gallery", "create", "visitors")
    assert "faces kept until they are erased" in command.run("gallery", "show", "visitors").stdout
    ages = {"90d": ("90 days", 90 * 86_400), "36h": ("36 hours", 36 * 3_600), "1m": ("1 minute", 60)}
    for age, (shown, seconds) in (ages | {"50s": ("50 seconds", 50)}).items():
        status, [set_to] = command.quick("gallery", "retention", "visitors", "--max-age", age, "--yes")
        assert (status, set_to["max_age_seconds"]) == (0, seconds)
        assert f"; retention {shown}." in command.run("gallery", "show", "visitors").stdout
    unasked = command.run("gallery", "retention", "visitors", "--max-age", "5s")
    assert (unasked.returncode, "--yes: do not ask" in unasked.stderr) == (1, True), "nobody confirmed"
    ended = command.run("gallery", "retention", "visitors", "--forever")
    assert ended.stdout == "Gallery visitors: faces kept until they are erased.\n"


def test_one_face_a_subject_and_a_gallery_are_erased(command: Command) -> None:
    command.quick("gallery", "create", "gone")
    _, [face] = command.quick("enroll", "gone", "obama", OBAMA)
    command.quick("enroll", "gone", "obama", SPEECH)
    _, [erased] = command.quick("subject", "delete", "gone", "obama", "--face", face["id"], "--yes")
    assert (erased["subjects"], erased["templates"]) == (0, 1)
    number = erased["receipt"]["id"]
    assert command.quick("gallery", "erasure", "gone", str(number))[1][0]["receipt"] == erased["receipt"]
    as_shown = f"{number}:{erased['receipt']['digest']}"
    for receipt in (str(number), as_shown):
        assert "1 template, erased at" in command.run("gallery", "erasure", "gone", receipt).stdout
    assert command.run("subject", "delete", "gone", "obama").returncode == 1, "nobody confirmed"
    ended = command.run("subject", "delete", "gone", "obama", "--yes")
    assert re.fullmatch(r"Erased 1 template\. Receipt [0-9]+:[0-9a-f]{64}\.\n", ended.stdout)
    unasked = command.run("gallery", "delete", "gone")
    assert unasked.returncode == 1, "nobody confirmed"
    status, [shown] = command.quick("gallery", "show", "gone")[:2]
    assert (status, shown["verify_only"]) == (0, False)
    assert command.quick("gallery", "delete", "gone", "--yes")[0] == 0
    assert command.run("gallery", "show", "gone").returncode == 1


def test_api_keys_are_made_and_revoked_under_a_running_edge(command: Command, staff: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    made = command.run("edge", "keys", "create", "--label", "door", "--scope", "match", "--out", str(file))
    assert made.returncode == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text().strip() not in made.stdout
    verify = ["verify", staff, "obama", SPEECH, "--key-file", str(file)]
    assert command.run(*verify).returncode == 0
    enroll = command.run("enroll", staff, "obama", OBAMA, "--key-file", str(file))
    assert (enroll.returncode, "scope enroll" in enroll.stderr) == (1, True)
    [line] = [line for line in command.run("edge", "keys", "list").stdout.splitlines() if line.endswith("door")]
    assert command.run("edge", "keys", "revoke", line.split()[0]).returncode == 0
    refused = command.run(*verify)
    assert refused.returncode == 1
    assert f"The edge at {command.edge} does not know this API key, or it was revoked." in refused.stderr
    problem = json.loads(command.run(*verify, "--json").stdout)
    assert [name for name in problem if "request" in name.lower()] == ["request_id"]


def test_nothing_found_is_said(command: Command) -> None:
    command.quick("gallery", "create", "empty")
    assert command.run("subject", "list", "empty").stdout == "No subjects.\n"
    assert command.quick("subject", "list", "empty") == (0, [])


def test_the_threshold_is_shown_with_its_rate(command: Command) -> None:
    shown = command.run("gallery", "create", "shown").stdout
    assert re.fullmatch(
        r"Gallery shown is ready; threshold: cosine 0\.[0-9]+ \(false match rate 0\.0[0-9]+% on adults\)\.\n", shown
    )
    shown = command.run("gallery", "show", "shown").stdout
    assert re.search(r"; threshold: cosine 0\.[0-9]+ \(false match rate 0\.0[0-9]+%\); subjects are ", shown)


def test_what_is_no_file_is_named_once(command: Command, staff: str) -> None:
    ended = command.run("enroll", staff, "x", "/dev/null")
    assert ended.stderr == "/dev/null: is not a plain file; give a JPEG, PNG or WebP picture.\n"
