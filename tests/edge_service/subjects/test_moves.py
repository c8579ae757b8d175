"""Subjects are renamed and merged, and faces moved, without pictures: the same scores under another name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.security.credentials import Scope
from tests.edge_service.subjects.subjects_of_edge import enroll, faces, listed, move, path, similarities
from tests.support.cloud_client import assert_problem
from tests.support.edge import Edge, Pair, sample

PORTRAIT, STANDING, SPEECH = (sample(f"obama/{name}.jpg") for name in ("portrait", "standing", "speech"))
BIDEN = sample("biden/standing.jpg")


@pytest.fixture(scope="module")
def pair(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Pair(tmp_path_factory.mktemp("moves")) as opened:
        yield opened


@pytest.fixture(scope="module")
def edge(pair: Pair) -> Edge:
    return pair.edge()


@pytest.fixture(params=[False, True], ids=["one seal", "verify-only"])
def gallery(request: pytest.FixtureRequest, edge: Edge) -> Iterator[str]:
    """An empty gallery; with one seal, or with one for each subject."""
    answer = edge.call("PUT", "/v1/galleries/moves", json={"verify_only": request.param})
    assert answer.status_code == 201, answer.text
    yield "moves"
    edge.call("DELETE", "/v1/galleries/moves")


def moved(edge: Edge, gallery: str, subject: str, what: str, **body: str) -> dict[str, Any]:
    answer = move(edge, gallery, subject, what, **body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["receipt"]["id"] > 0
    return {name: found[name] for name in ("subject", "faces", "faces_enrolled", "emptied")}


def ids_of(edge: Edge, gallery: str, subject: str, *pictures: bytes) -> list[str]:
    answer = edge.send(f"{path(gallery, subject)}/faces", *pictures)
    assert answer.status_code == 201, answer.text
    return [face["id"] for face in answer.json()["faces"]]


def test_a_renamed_subject_has_the_same_faces_and_scores(edge: Edge, gallery: str) -> None:
    ids = ids_of(edge, gallery, "obama", PORTRAIT, STANDING)
    before = similarities(edge, gallery, "obama", SPEECH, BIDEN)
    assert moved(edge, gallery, "obama", "rename", to="Barack Öbama") == {
        "subject": "Barack Öbama",
        "faces": 2,
        "faces_enrolled": 2,
        "emptied": True,
    }
    # The seed of a probe follows from the subject in a verify-only gallery: it is perturbed otherwise.
    spread = 0.05 if edge.call("GET", f"/v1/galleries/{gallery}").json()["verify_only"] else 1e-6
    after = similarities(edge, gallery, "Barack Öbama", SPEECH, BIDEN)
    np.testing.assert_allclose(after, before, atol=spread)
    assert listed(edge, gallery) == ["Barack Öbama"]
    assert sorted(faces(edge, gallery, "Barack Öbama")) == sorted(ids)
    assert_problem(edge.call("GET", path(gallery, "obama")), 404, "not-found")
    assert_problem(edge.send(f"{path(gallery, 'obama')}/verify", SPEECH), 404, "not-found")
    assert moved(edge, gallery, "Barack Öbama", "rename", to="obama")["emptied"]
    np.testing.assert_allclose(similarities(edge, gallery, "obama", SPEECH, BIDEN), before, atol=1e-6)


def test_merged_subjects_are_one(edge: Edge, gallery: str) -> None:
    ids = [*ids_of(edge, gallery, "obama", PORTRAIT), *ids_of(edge, gallery, "Öbama", STANDING)]
    assert moved(edge, gallery, "Öbama", "merge", into="obama") == {
        "subject": "obama",
        "faces": 1,
        "faces_enrolled": 2,
        "emptied": True,
    }
    assert (listed(edge, gallery), sorted(faces(edge, gallery, "obama"))) == (["obama"], sorted(ids))
    # As if both had been enrolled under one name.
    ids_of(edge, gallery, "both", PORTRAIT, STANDING)
    merged, both = (similarities(edge, gallery, name, SPEECH, BIDEN) for name in ("obama", "both"))
    np.testing.assert_allclose(merged, both, atol=0.05)
    assert merged[0] > 0.4 > merged[1]


def test_a_face_enrolled_under_the_wrong_name_is_moved_to_the_right_one(edge: Edge, gallery: str) -> None:
    [right] = ids_of(edge, gallery, "obama", PORTRAIT)
    [wrong] = ids_of(edge, gallery, "obama", BIDEN)
    assert moved(edge, gallery, "obama", f"faces/{wrong}/move", to="biden") == {
        "subject": "biden",
        "faces": 1,
        "faces_enrolled": 1,
        "emptied": False,
    }
    assert (faces(edge, gallery, "obama"), faces(edge, gallery, "biden")) == ([right], [wrong])
    assert similarities(edge, gallery, "biden", BIDEN)[0] > 0.6 > similarities(edge, gallery, "obama", BIDEN)[0]
    # The last one: the subject is gone, and the answer says so.
    assert moved(edge, gallery, "obama", f"faces/{right}/move", to="biden") == {
        "subject": "biden",
        "faces": 1,
        "faces_enrolled": 2,
        "emptied": True,
    }
    assert listed(edge, gallery) == ["biden"]


def test_what_cannot_be_moved_is_refused_and_nothing_changes(edge: Edge, gallery: str) -> None:
    [face] = enroll(edge, gallery, "ada", 1)
    [other] = enroll(edge, gallery, "bob", 2)
    for what, body in (("rename", "to"), ("merge", "into"), (f"faces/{face}/move", "to")):
        answer = move(edge, gallery, "ada", what, **{body: "ada"})
        assert_problem(answer, 422, "unprocessable", "same_subject")
        for name in ("", "a/b", " ", "..", "a" * 129):
            assert_problem(move(edge, gallery, "ada", what, **{body: name}), 422, "unprocessable")
        assert_problem(
            move(edge, gallery, "nobody", what, **{body: "bob" if body == "into" else "cyd"}), 404, "not-found"
        )
    assert_problem(move(edge, gallery, "ada", "rename", to="bob"), 409, "conflict")
    assert_problem(move(edge, gallery, "ada", "merge", into="cyd"), 404, "not-found")
    assert_problem(move(edge, gallery, "ada", f"faces/{other}/move", to="cyd"), 404, "not-found")
    assert_problem(move(edge, gallery, "ada", f"faces/{'0' * 32}/move", to="cyd"), 404, "not-found")
    assert_problem(move(edge, "nowhere", "ada", "rename", to="cyd"), 404, "not-found")
    for body in ({}, {"to": 1}, {"to": "cyd", "more": 1}, {"into": "cyd"}):
        answer = edge.call("POST", f"{path(gallery, 'ada')}/rename", json=body)
        assert_problem(answer, 422, "unprocessable")
    assert (listed(edge, gallery), faces(edge, gallery, "ada"), faces(edge, gallery, "bob")) == (
        ["ada", "bob"],
        [face],
        [other],
    )


def test_of_two_renames_at_once_one_is_done(edge: Edge, gallery: str) -> None:
    enroll(edge, gallery, "ada", 1)
    answers = edge.together("POST", f"{path(gallery, 'ada')}/rename", 4, json={"to": "Zoë"})
    assert Counter(answer.status_code for answer in answers) in (Counter({200: 1, 404: 3}), Counter({200: 1, 409: 3}))
    assert listed(edge, gallery) == ["Zoë"]


def test_a_picture_of_a_moved_face_is_refused_under_the_old_name(edge: Edge, gallery: str) -> None:
    """Its id follows from the name that it was enrolled under, and is the other subject's now."""
    ids_of(edge, gallery, "obama", PORTRAIT)
    moved(edge, gallery, "obama", "rename", to="barack")
    answer = edge.send(f"{path(gallery, 'obama')}/faces", PORTRAIT)
    problem = assert_problem(answer, 409, "conflict", "template_id_taken")
    assert (problem["picture"], problem["pictures"]) == (0, [0])
    assert problem["detail"].startswith("Picture 0, counted from 0, was enrolled under this subject before")
    assert listed(edge, gallery) == ["barack"]


def test_a_report_has_all_that_is_held(edge: Edge, gallery: str) -> None:
    ids = enroll(edge, gallery, "Zoë", 1, 2)
    enroll(edge, gallery, "Yves", 3)
    edge.call("PUT", f"{path(gallery, 'Zoë')}/expiry", json={"expires_at": "2099-01-31T08:00:00Z"})
    moved(edge, gallery, "Zoë", "rename", to="Zora")
    answer = edge.call("GET", f"{path(gallery, 'Zora')}/report")
    assert answer.status_code == 200, answer.text
    report = answer.json()
    assert (report["gallery"], report["subject"], report["expires_at"]) == (gallery, "Zora", "2099-01-31T08:00:00Z")
    assert sorted(face["id"] for face in report["faces"]) == sorted(ids)
    assert {len(face["template"]) for face in report["faces"]} == {128}
    for face in report["faces"]:
        assert np.linalg.norm(face["template"]) == pytest.approx(1, abs=1e-5)
    actions = [event["action"] for event in report["events"]]
    assert "subject_renamed" in actions
    assert "Yves" not in answer.text


@pytest.mark.parametrize(
    "moment",
    [
        "2099-01-31",
        "2099-01-31T08:00:00",
        "2099-01-31T08:00Z",
        "2099-01-31 08:00:00Z",
        # In seconds and milliseconds since 1970, as pydantic would take them.
        4073529600,
        4073529600.0,
        4073529600000,
        "4073529600",
        "4073529600.5",
        True,
        None,
        [2099, 1, 31],
    ],
)
def test_an_expiry_is_a_moment_with_its_time_zone(edge: Edge, gallery: str, moment: Any) -> None:
    enroll(edge, gallery, "ada", 1)
    answer = edge.call("PUT", f"{path(gallery, 'ada')}/expiry", json={"expires_at": moment})
    problem = assert_problem(answer, 422, "unprocessable", "invalid_request")
    assert problem["errors"][0]["at"] == "body/expires_at"
    assert problem["errors"][0]["problem"].endswith("as RFC 3339 does, such as 2027-01-31T18:00:00+01:00")
    assert edge.call("GET", path(gallery, "ada")).json()["expires_at"] is None


def test_an_expiry_in_the_past_is_refused_in_one_sentence(edge: Edge, gallery: str) -> None:
    enroll(edge, gallery, "ada", 1)
    where = f"{path(gallery, 'ada')}/expiry"
    problem = assert_problem(
        edge.call("PUT", where, json={"expires_at": "2020-01-31T08:00:00+01:00"}), 422, "unprocessable", "wrong_moment"
    )
    assert problem["detail"] == (
        "An expiry is a moment to come, within 100 years; to erase the subject now, delete it."
    )
    assert edge.call("PUT", where, json={}).status_code == 422
    assert edge.call("GET", path(gallery, "ada")).json()["expires_at"] is None
    answer = edge.call("PUT", where, json={"expires_at": "2099-01-31t08:00:00.5+01:00"})
    assert answer.json()["expires_at"] == "2099-01-31T07:00:00.500000Z"


def test_moves_and_reports_need_the_scope_manage(edge: Edge, gallery: str) -> None:
    [face] = enroll(edge, gallery, "ada", 1)
    key = edge.key(Scope.ENROLL, Scope.MATCH)
    for method, below, body in (
        ("POST", "rename", {"to": "bob"}),
        ("POST", "merge", {"into": "bob"}),
        ("POST", f"faces/{face}/move", {"to": "bob"}),
        ("PUT", "expiry", {"expires_at": "2099-01-31T08:00:00Z"}),
        ("DELETE", "expiry", None),
        ("GET", "report", None),
    ):
        answer = edge.call(method, f"{path(gallery, 'ada')}/{below}", key, json=body)
        assert_problem(answer, 403, "forbidden")
    assert listed(edge, gallery) == ["ada"]
