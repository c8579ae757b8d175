"""``patronus subject`` and ``gallery duplicates``: what they do, say, ask and refuse, with names in every script."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
import typer

from edge_service.cli.subjects import duplicates
from edge_service.cli.times import seconds_of
from shared.client import Client
from shared.errors import Conflict, NotFound, PatronusError
from tests.edge_service.cli.patronus_command import Command
from tests.support.patronus_profile import units

NAMES = [
    "Zoë",
    "Обама",
    "小泉純一郎",
    "עברית",
    "محمد",
    "👩‍🚀 7",
    ":one: [red]x[blue]",
    "{nobody} %s",
    "~tilde",
    "-minus",
]
PEOPLE = units(8, seed=15)


@pytest.fixture
def client(command: Command) -> Iterator[Client]:
    with Client(command.edge, api_key=(command.home / "edge" / "api_key").read_text().strip(), retries=0) as opened:
        yield opened


@pytest.fixture
def gallery(client: Client) -> Iterator[str]:
    """A gallery of Ada with two faces, and Bob with one."""
    client.put_gallery("people")
    client.enroll_embeddings("people", "ada", PEOPLE[:2])
    client.enroll_embeddings("people", "bob", PEOPLE[2:3])
    yield "people"
    client.delete_gallery("people")


def subjects(client: Client, gallery: str) -> dict[str, int]:
    return {one.subject: one.templates for one in client.all_subjects(gallery)}


def test_a_subject_is_called_by_a_name_of_any_script(command: Command, client: Client, gallery: str) -> None:
    before = "ada"
    for name in NAMES:
        ended = command.run("subject", "rename", gallery, "--", before, name)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.startswith(f"{before} is called {name} now: 2 faces. Receipt ")
        assert subjects(client, gallery) == {name: 2, "bob": 1}
        [found] = command.quick("subject", "list", gallery, f"--prefix={name[:2]}")[1]
        assert found["subject"] == name
        before = name
    for name, row in zip(NAMES, units(len(NAMES), seed=16), strict=True):
        client.enroll_embeddings(gallery, name, [row])
    shown = command.run("subject", "list", gallery).stdout
    assert {line.split("│")[1].strip() for line in shown.splitlines() if "│" in line} == {*NAMES, "bob"}
    assert command.quick("subject", "list", gallery, "--prefix", "x") == (0, [])


def test_names_that_differ_by_normalization_alone_are_one(command: Command, client: Client, gallery: str) -> None:
    composed, decomposed = (normalize(form, "Zoë") for form in ("NFC", "NFD"))
    assert command.quick("subject", "rename", gallery, "ada", decomposed)[1][0]["subject"] == composed
    for words in (["rename"], ["merge", "--yes"]):
        ended = command.run("subject", *words, gallery, composed, decomposed)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr == "Both names are of one subject, so there is nothing to move.\n"
    [found] = command.quick("subject", "list", gallery, "--prefix", decomposed)[1]
    assert (found["subject"], found["templates"]) == (composed, 2)
    assert subjects(client, gallery) == {composed: 2, "bob": 1}


def test_two_subjects_are_merged_after_a_question(command: Command, client: Client, gallery: str) -> None:
    unasked = command.run("subject", "merge", gallery, "bob", "ada")
    assert (unasked.returncode, "--yes: do not ask" in unasked.stderr) == (1, True), "nobody confirmed"
    assert subjects(client, gallery) == {"ada": 2, "bob": 1}
    ended = command.run("subject", "merge", gallery, "bob", "ada", "--yes")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("ada got 1 face, and has 3 now. bob has no face left and is gone. Receipt ")
    assert subjects(client, gallery) == {"ada": 3}


def test_a_face_is_moved_and_the_last_one_ends_its_subject(command: Command, client: Client, gallery: str) -> None:
    first, last = (face.id for face in client.get_subject(gallery, "ada").faces)
    ended = command.run("subject", "move", gallery, "ada", first, "Zoë")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("Zoë got 1 face, and has 1 now. Receipt ")
    ended = command.run("subject", "move", gallery, "ada", last, "Zoë")
    assert ended.stdout.startswith("Zoë got 1 face, and has 2 now. ada has no face left and is gone. Receipt ")
    assert subjects(client, gallery) == {"Zoë": 2, "bob": 1}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rename", "people", "ada", "bob"], "has a subject of the new name"),
        (["rename", "people", "nobody", "cyd"], "no subject"),
        (["rename", "nowhere", "ada", "cyd"], "no gallery"),
        (["rename", "people", "ada", "a/b"], "slash"),
        (["rename", "people", "ada", " "], "white space"),
        (["rename", "people", "ada", "\udcff"], "is no"),
        (["rename", "people", "a/b", "ada"], "slash"),
        (["merge", "people", "ada", "ada", "--yes"], "Both names are of one subject"),
        (["merge", "people", "ada", "cyd", "--yes"], "no subject of the other name"),
        (["move", "people", "ada", "0" * 32, "bob"], "no face with this id"),
        (["move", "people", "ada", "7", "bob"], "32 hexadecimal digits"),
        (["expiry", "people", "ada", "--at", "2001-01-31", "--yes"], "within 100 years"),
        (["expiry", "people", "nobody", "--never"], "no subject"),
        (["report", "people", "nobody"], "no subject"),
        (["report", "people", "ada", "--out", "/nonexistent/report.json"], "There is no folder /nonexistent"),
        (["list", "people", "--prefix", "\udcff"], "prefix is no text in UTF-8"),
    ],
)
def test_a_refusal_is_one_sentence_and_changes_nothing(
    command: Command, client: Client, gallery: str, words: list[str], says: str
) -> None:
    ended = command.run("subject", *words)
    assert (ended.returncode, ended.stdout) == (1, ""), ended.stderr
    assert says in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
    assert subjects(client, gallery) == {"ada": 2, "bob": 1}


@pytest.mark.parametrize(
    "words",
    [
        ["subject", "rename", "people", "ada"],
        ["subject", "merge", "people", "ada", "--yes"],
        ["subject", "move", "people", "ada", "bob"],
        ["subject", "expiry", "people", "ada"],
        ["subject", "expiry", "people", "ada", "--at", "2099-01-31", "--never"],
        ["subject", "expiry", "people", "ada", "--at", "2099-01-31T10:00", "--yes"],
        ["subject", "expiry", "people", "ada", "--at", "20990131", "--yes"],
        ["subject", "expiry", "people", "ada", "--at", "0001-01-01T00:00:00+23:00", "--yes"],
        ["subject", "expiry", "people", "ada", "--after", "soon", "--yes"],
        ["subject", "expiry", "people", "ada", "--after", "9999999999d", "--yes"],
        ["gallery", "duplicates", "people", "--min-similarity", "2"],
        ["gallery", "duplicates", "people", "--min-similarity", "nan"],
        ["enroll", "people", "ada", "x.jpg", "--on-conflict", "merge"],
    ],
)
def test_wrong_usage_is_status_2(command: Command, words: list[str]) -> None:
    ended = command.run(*words)
    assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
    assert "Usage" in ended.stderr


@pytest.mark.parametrize("age", ["9999999999d", "2900000d", "99999999999999s", "9" * 5000 + "d"])
def test_an_age_that_is_too_long_is_told_so(age: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"^an age is at most 100 years, 36500d$"):
        seconds_of(age)
    assert seconds_of("36500d") == 36_500 * 86_400


@pytest.mark.parametrize(
    ("what", "says"), [("nowhere", "there is no such folder."), ("a.jpg", "is not a folder; name")]
)
def test_a_folder_that_is_none_is_told_before_anything_is_sent(
    command: Command, tmp_path: Path, what: str, says: str
) -> None:
    (tmp_path / "a.jpg").touch()
    ended = command.run("enroll", "people", str(tmp_path / what))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"{tmp_path / what}: {says}")


def test_of_two_renames_at_once_one_is_done(client: Client, gallery: str) -> None:
    def rename(new: str) -> str:
        try:
            return client.rename_subject(gallery, "ada", new).subject
        except (NotFound, Conflict) as error:
            return type(error).__name__

    with ThreadPoolExecutor(4) as pool:
        ended = Counter(pool.map(rename, ["Zoë", "Zoë", "Обама", "小泉"]))
    [done] = {"Zoë", "Обама", "小泉"} & ended.keys()
    assert ended[done] == 1
    assert subjects(client, gallery) == {done: 2, "bob": 1}


def test_a_subject_expires_at_a_date_after_an_age_or_never(command: Command, client: Client, gallery: str) -> None:
    unasked = command.run("subject", "expiry", gallery, "ada", "--at", "2099-01-31")
    assert (unasked.returncode, "Erase ada at 2099-01-31T00:00:00" in unasked.stderr) == (1, True)
    assert client.get_subject(gallery, "ada").expires_at is None
    ended = command.run("subject", "expiry", gallery, "ada", "--at", "2099-01-31T01:30:00+01:00", "--yes")
    assert (ended.returncode, ended.stdout) == (0, "ada expires at 2099-01-31T00:30:00.000000Z.\n")
    assert "expires at 2099-01-31T00:30:00" in command.run("subject", "show", gallery, "ada").stdout
    now = datetime.now(UTC)
    assert command.quick("subject", "expiry", gallery, "ada", "--after", "90d", "--yes")[0] == 0
    expires = client.get_subject(gallery, "ada").expires_at
    assert expires is not None
    assert timedelta(days=90) <= expires - now < timedelta(days=90, minutes=10)
    ended = command.run("subject", "expiry", gallery, "ada", "--never")
    assert (ended.returncode, ended.stdout) == (0, "ada has no expiry of its own.\n")
    assert client.get_subject(gallery, "ada").expires_at is None


def test_a_report_says_all_that_is_held(command: Command, client: Client, gallery: str, tmp_path: Path) -> None:
    client.rename_subject(gallery, "ada", "Zoë")
    status, [held] = command.quick("subject", "report", gallery, "Zoë")
    assert (status, held["subject"], len(held["faces"])) == (0, "Zoë", 2)
    assert [len(face["template"]) for face in held["faces"]] == [128, 128]
    said = command.run("subject", "report", gallery, "Zoë").stdout
    for face in held["faces"]:
        assert f"face {face['id']}, enrolled at " in said
    for event in held["events"]:
        assert f"entry {event['receipt']['id']} of the audit log, at " in said
    assert "subject_renamed" in said
    file = tmp_path / "report.json"
    ended = command.run("subject", "report", gallery, "Zoë", "--out", str(file))
    assert (ended.returncode, ended.stdout.startswith(f"{file}: 2 faces, and ")) == (0, True), ended.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text()) == held
    file.write_text("mine")
    refused = command.run("subject", "report", gallery, "Zoë", "--out", str(file))
    assert (refused.returncode, file.read_text()) == (1, "mine")
    assert "exists already; choose another name, or replace it with --force." in refused.stderr
    status, [summary] = command.quick("subject", "report", gallery, "Zoë", "--out", str(file), "--force")
    assert (status, summary["faces"], summary["file"]) == (0, 2, str(file))
    assert json.loads(file.read_text()) == held


def test_who_is_enrolled_under_two_names_is_found_over_all_pages(
    command: Command, client: Client, gallery: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = command.run("gallery", "duplicates", gallery)
    assert (nobody.returncode, nobody.stderr) == (0, "")
    assert nobody.stdout.startswith("No two of 2 subjects have a similarity of 0.")
    assert command.quick("gallery", "duplicates", gallery) == (0, [])
    for name, row in (("cyd", 3), ("Zoë", 2), ("dan", 4), ("Обама", 3), ("eve", 5)):
        near = PEOPLE[row] + 0.02 * PEOPLE[row + 1]
        client.enroll_embeddings(gallery, name, [near / np.linalg.norm(near)])
    monkeypatch.setattr(duplicates, "_PAGE", 2)
    status, found = command.quick("gallery", "duplicates", gallery)
    pairs = [frozenset((one["subject"], one["other"])) for one in found]
    assert (status, len(pairs), set(pairs)) == (0, 2, {frozenset(("bob", "Zoë")), frozenset(("cyd", "Обама"))})
    assert [one["similarity"] for one in found] == sorted((one["similarity"] for one in found), reverse=True)
    table = command.run("gallery", "duplicates", gallery).stdout
    assert re.search(r"Of 7 subjects, 2 pairs have a similarity of 0\.[0-9]+ or more\.\n$", table)
    assert {"bob", "Zoë", "cyd", "Обама"} < {word.strip() for line in table.splitlines() for word in line.split("│")}
    least = (found[0]["similarity"] + found[1]["similarity"]) / 2
    assert command.quick("gallery", "duplicates", gallery, "--min-similarity", str(least))[1] == found[:1]


def test_a_verify_only_gallery_has_no_duplicates_to_find(command: Command, client: Client) -> None:
    client.put_gallery("ward", verify_only=True)
    ended = command.run("gallery", "duplicates", "ward")
    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (1, "", 1)
    assert "verify-only" in ended.stderr
    client.delete_gallery("ward")


def test_a_terminal_that_lacks_a_script_ends_no_command(command: Command, client: Client, gallery: str) -> None:
    client.rename_subject(gallery, "ada", "Обама ë")
    environment = os.environ | {"PATRONUS_HOME": str(command.home), "PYTHONIOENCODING": "ascii"}
    program = [str(Path(sys.executable).with_name("patronus")), "subject", "list", gallery, "--edge", command.edge]
    for words in ([], ["--json"]):
        ended = subprocess.run(
            [*program, *words], env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        shown = json.loads(ended.stdout.splitlines()[-1])["subject"] if words else ended.stdout
        assert ("Обама ë" if words else r"\u041e\u0431\u0430\u043c\u0430 \xeb") in shown


def test_a_name_hides_and_reorders_nothing_on_a_terminal(command: Command, client: Client, gallery: str) -> None:
    name = "ada\u202ebob\u200b"
    client.rename_subject(gallery, "ada", name)
    shown = [
        command.run("subject", "list", gallery).stdout,
        command.run("subject", "report", gallery, name).stdout,
        command.run("subject", "expiry", gallery, name, "--after", "1d").stderr,
        command.run("subject", "rename", gallery, name, f"{name}c").stdout,
    ]
    for text in shown:
        assert r"ada\u202ebob\u200b" in text
        assert not {"\u202e", "\u200b"} & set(text)
    assert name + "c" in [one["subject"] for one in command.quick("subject", "list", gallery)[1]]


def test_the_higher_score_of_a_pair_is_shown(
    command: Command, client: Client, gallery: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of two subjects is compared with the other, and under the rule `mean` the scores differ."""
    near = PEOPLE[2] + 0.3 * PEOPLE[3]
    client.enroll_embeddings(gallery, "Zoë", [PEOPLE[2], near / np.linalg.norm(near)])
    monkeypatch.setattr(duplicates, "_PAGE", 1)
    pages = [pair.similarity for pair in client.all_duplicates(gallery, limit=1)]
    _, [found] = command.quick("gallery", "duplicates", gallery)
    assert found["similarity"] == max(pages) > min(pages)


def test_an_error_of_the_client_has_its_reason(client: Client, gallery: str) -> None:
    face = client.get_subject(gallery, "bob").faces[0].id
    for call, reason in (
        (lambda: client.merge_subject(gallery, "ada", "ada"), "same_subject"),
        (lambda: client.merge_subject(gallery, "ada", "cyd"), "unknown_target"),
        (lambda: client.move_face(gallery, "ada", face, "cyd"), "unknown_face"),
        (lambda: client.rename_subject(gallery, "nobody", "cyd"), "unknown_subject"),
    ):
        with pytest.raises(PatronusError) as error:
            call()
        assert error.value.reason == reason
