"""Raw embeddings of many subjects are enrolled in one request: all or none, each once, each under the right seal."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_service.cli.migration import Migration
from edge_service.cli.session import Session
from edge_service.protection.keys import KeyStore
from shared.errors import AnswerNotUnderstood, Conflict, NotFound, UpstreamFailed
from shared.security.credentials import Scope
from shared.wire.edge import MAX_EMBEDDINGS_A_REQUEST, MAX_EMBEDDINGS_BYTES
from tests.edge_service.subjects.subjects_of_edge import embedding, enroll, faces, listed, move, path
from tests.support.cloud_client import assert_problem
from tests.support.edge import CloudTransport, Edge, Pair, ThroughPortal

Rows = NDArray[np.float32]
# Two of ada resemble each other, the third does not.
SUBJECTS = ["ada", "ben", "ada", "Zoë", "ada"]


@pytest.fixture(scope="module")
def pair(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Pair(tmp_path_factory.mktemp("pair")) as opened:
        yield opened


@pytest.fixture(scope="module")
def edge(pair: Pair) -> Edge:
    return pair.edge()


def people() -> Rows:
    near = embedding(1) + 0.2 * embedding(9)
    return np.stack([embedding(1), embedding(2), near / np.linalg.norm(near), embedding(3), embedding(4)]).astype("f4")


def new(subjects: list[str], rows: Rows, names: list[str | None] | None = None) -> list[dict[str, Any]]:
    return [
        {"subject": subject, "values": row.tolist()} | ({} if name is None else {"face": name})
        for subject, row, name in zip(subjects, rows, names or [None] * len(rows), strict=True)
    ]


def bulk(edge: Edge, gallery: str, sent: list[dict[str, Any]], headers: dict[str, str] | None = None) -> httpx.Response:
    return edge.call("POST", f"/v1/galleries/{gallery}/embeddings", headers, json={"embeddings": sent})


def one_by_one(edge: Edge, gallery: str, sent: list[dict[str, Any]]) -> dict[str, Any]:
    """The same by a request for each subject: what each of them is told."""
    told = {}
    for subject in dict.fromkeys(each["subject"] for each in sent):
        mine = [{key: each[key] for key in each.keys() - {"subject"}} for each in sent if each["subject"] == subject]
        answer = edge.call("POST", f"{path(gallery, subject)}/embeddings", json={"embeddings": mine})
        assert answer.status_code == 201, answer.text
        told[subject] = answer.json()["faces"]
    return told


def sent_templates(edge: Edge, since: int) -> dict[str, bytes]:
    """What went to the cloud since a request: templates by their ids."""
    found = {}
    for request in edge.transport.requests[since:]:
        body = json.loads(request.content or b"{}")
        for each in body.get("subjects", [body]):
            for one in each.get("templates", []):
                found[one["id"]] = base64.b64decode(one["template"]["data"])
    return found


@pytest.mark.parametrize("verify_only", [False, True])
def test_in_one_request_the_same_is_stored_as_one_by_one(edge: Edge, verify_only: bool) -> None:
    gallery = f"same-{verify_only}"
    edge.call("PUT", f"/v1/galleries/{gallery}", json={"verify_only": verify_only})
    sent = new(SUBJECTS, people(), ["a/b", None, None, "é", None])
    since = len(edge.transport.requests)
    answer = bulk(edge, gallery, sent)
    assert answer.status_code == 201, answer.text
    told = answer.json()
    assert ([face["stored"] for face in told["faces"]], told["unperturbed"]) == (["now"] * 5, 0)
    assert [face["agrees"] for face in told["faces"]] == [True, None, True, None, False]
    posts = [request.url.path for request in edge.transport.requests[since:] if request.method == "POST"]
    assert posts == [f"/v1/galleries/{gallery}/templates"], "in one request"
    once = sent_templates(edge, since)
    assert edge.held(gallery) == (3, 5)

    since = len(edge.transport.requests)
    each = one_by_one(edge, gallery, sent)
    assert sent_templates(edge, since) == once, "the same templates under the same ids, bit by bit"
    ids = {subject: [face["id"] for face in some] for subject, some in each.items()}
    by_subject: dict[str, list[str]] = {}
    for subject, face in zip(SUBJECTS, told["faces"], strict=True):
        by_subject.setdefault(subject, []).append(face["id"])
    assert by_subject == ids
    again = bulk(edge, gallery, sent[::-1]).json()
    assert again["faces"] == [face | {"stored": "before"} for face in told["faces"][::-1]]
    assert edge.held(gallery) == (3, 5)


def test_each_subject_of_a_verify_only_gallery_has_its_own_seal(edge: Edge) -> None:
    for gallery, verify_only in (("one-seal", False), ("seals", True)):
        edge.call("PUT", f"/v1/galleries/{gallery}", json={"verify_only": verify_only})
        since = len(edge.transport.requests)
        alike = [embedding(5)] * 2
        assert bulk(edge, gallery, new(["ada", "ben"], np.stack(alike))).status_code == 201
        one, other = (np.frombuffer(each, "<f4") for each in sent_templates(edge, since).values())
        assert (abs(float(one @ other)) < 0.5) is verify_only


def test_equal_ones_are_stored_once_and_the_cloud_learns_no_name(edge: Edge) -> None:
    edge.make("once")
    row = embedding(6)
    since = len(edge.transport.requests)
    answer = bulk(edge, "once", new(["Ada Lovelace", "Benedikt", "Ada Lovelace"], np.stack([row] * 3))).json()
    assert answer["faces"][0] == answer["faces"][2]
    assert answer["faces"][0]["id"] != answer["faces"][1]["id"]
    assert edge.held("once") == (2, 2)
    # NFC and NFD of one name are one subject.
    assert bulk(edge, "once", new(["Zoe\u0308 Long", "Zoë Long"], np.stack([row] * 2))).status_code == 201
    assert listed(edge, "once") == ["Ada Lovelace", "Benedikt", "Zoë Long"]
    for request in edge.transport.requests[since:]:
        assert not any(name in request.content for name in (b"Lovelace", b"Benedikt", b" Long"))


def test_a_refusal_names_the_rows_and_stores_nothing(edge: Edge) -> None:
    edge.make("bad")
    rows = people()
    rows[[1, 4]] = 0
    zero = assert_problem(bulk(edge, "bad", new(SUBJECTS, rows)), 422, "unprocessable", "zero_vector")
    assert (zero["embedding"], zero["embeddings"], zero["fault"]) == (1, [1, 4], "is a zero vector")
    twice = new(SUBJECTS, people(), ["x", "x", "x", "x", "x"])
    problem = assert_problem(bulk(edge, "bad", twice), 422, "unprocessable", "duplicate_face")
    assert (problem["embedding"], problem["embeddings"]) == (2, [2, 4])
    short = new(["ada"], people()[:1, :64])
    assert_problem(bulk(edge, "bad", short), 422, "unprocessable", "wrong_dimension")
    uneven = [*new(["ada"], people()[:1]), *short, *new(["ben"], people()[1:2]), *short]
    one = {"embeddings": [{name: each[name] for name in ("values",)} for each in uneven]}
    for answer in (
        bulk(edge, "bad", uneven),
        edge.call("POST", "/v1/galleries/bad/subjects/ada/embeddings", json=one),
        edge.call("POST", "/v1/protect?gallery=bad", json={"embeddings": [each["values"] for each in uneven]}),
    ):
        problem = assert_problem(answer, 422, "unprocessable", "uneven")
        assert (problem["embedding"], problem["embeddings"]) == (1, [1, 3])
        assert problem["fault"] == "does not have the 128 values that are wanted"
    longest = {"embeddings": [[1.0] * 128, [1.0] * 5000, [1.0] * 6000]}
    answer = edge.call("POST", "/v1/protect?gallery=bad", json=longest)
    problem = assert_problem(answer, 422, "unprocessable", "wrong_dimension")
    assert (problem["given"], problem["embeddings"]) == (5000, [1, 2])
    for wrong in ([], [{"values": [1.0]}], new([".."], people()[:1]), [*new(["ada"], people()[:1]), {"subject": "b"}]):
        assert_problem(bulk(edge, "bad", wrong), 422, "unprocessable", "invalid_request")
    assert_problem(bulk(edge, "nowhere", new(["ada"], people()[:1])), 404, "not-found", "unknown_gallery")
    assert edge.held("bad") == (0, 0)


def test_what_the_cloud_refuses_of_one_is_stored_of_none(edge: Edge) -> None:
    edge.make("taken")
    enroll(edge, "taken", "ada", 1)
    assert move(edge, "taken", "ada", "rename", to="bea").status_code == 200
    answer = bulk(edge, "taken", new(["ben", "ada", "ada"], np.stack([embedding(2), embedding(1), embedding(3)])))
    problem = assert_problem(answer, 409, "conflict", "template_id_taken")
    assert (problem["embedding"], problem["embeddings"]) == (1, [1])
    assert problem["detail"] == (
        "Embedding 1, counted from 0, was enrolled under this subject before, and the face is another subject's now; "
        "enroll it under that one."
    )
    assert "templates" not in problem
    values = [{"values": embedding(seed).tolist()} for seed in (3, 1)]
    answer = edge.call("POST", "/v1/galleries/taken/subjects/ada/embeddings", json={"embeddings": values})
    assert assert_problem(answer, 409, "conflict", "template_id_taken")["embeddings"] == [1]
    assert listed(edge, "taken") == ["bea"]


def test_the_rows_of_a_subject_that_is_full_are_named(
    models_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATRONUS_CLOUD__RECORD__MAX_TEMPLATES_A_SUBJECT", "2")
    with Pair(tmp_path / "pair") as small:
        edge = small.edge()
        edge.make("full")
        problem = assert_problem(bulk(edge, "full", new(SUBJECTS, people())), 409, "conflict", "subject_full")
        assert problem["embeddings"] == [at for at, name in enumerate(SUBJECTS) if SUBJECTS.count(name) > 2]
        assert "subjects" not in problem
        assert problem["detail"] == "The subject has as many faces as it may have; erase some first."


def test_limits_and_keys(edge: Edge) -> None:
    edge.make("limits")
    rows = np.stack([embedding(seed) for seed in range(MAX_EMBEDDINGS_A_REQUEST + 1)])
    many = new([f"s{at}" for at in range(len(rows))], rows)
    assert_problem(bulk(edge, "limits", many), 422, "unprocessable", "invalid_request")
    assert bulk(edge, "limits", many[1:]).status_code == 201
    assert edge.held("limits") == (MAX_EMBEDDINGS_A_REQUEST,) * 2
    where, kind = "/v1/galleries/limits/embeddings", {"Content-Type": "application/json"}
    assert_problem(edge.call("POST", where, kind, content=b" " * (MAX_EMBEDDINGS_BYTES + 1)), 413, "too-large")
    repeated = b'{"embeddings": [], "embeddings": []' + b" " * 100_000 + b"}"
    assert_problem(edge.call("POST", where, kind, content=repeated), 400, "bad-request", "repeated_member")
    for scope in (Scope.ENROLL, Scope.MATCH):
        assert_problem(bulk(edge, "limits", many[:1], edge.key(scope)), 403, "forbidden")
    elsewhere = edge.key(*Scope, galleries=["elsewhere"])
    assert_problem(bulk(edge, "limits", many[:1], elsewhere), 404, "not-found", "unknown_gallery")
    told = bulk(edge, "limits", new(["s1", "s2"], rows[:2]), edge.key(Scope.MANAGE)).json()
    assert [face["agrees"] for face in told["faces"]] == [None, None], "without the scope match"


def test_another_edge_with_the_key_goes_on_after_a_change_of_key(pair: Pair, edge: Edge) -> None:
    edge.make("two")
    other = pair.edge("second")
    KeyStore(other.settings.home).put(KeyStore(edge.settings.home).gallery("two"))
    assert bulk(other, "two", new(SUBJECTS, people())).status_code == 201
    assert edge.call("POST", "/v1/galleries/two/rekey", json={}).status_code == 200
    since = len(other.transport.requests)
    again = bulk(other, "two", new([*SUBJECTS, "eve"], np.stack([*people(), embedding(7)])))
    assert (again.status_code, [face["stored"] for face in again.json()["faces"]]) == (201, ["before"] * 5 + ["now"])
    methods = [request.method for request in other.transport.requests[since:]]
    assert methods == ["POST", "GET", "POST"], "refused, contract fetched, sent again"
    assert listed(edge, "two") == ["Zoë", "ada", "ben", "eve"]
    assert len(faces(edge, "two", "ada")) == 3


def migration(edge: Edge, folder: Path, gallery: str, subjects: list[str], rows: Rows, **options: Any) -> Migration:
    np.savez(folder / "in.npz", embeddings=rows, subjects=np.array(subjects))
    session = Session(json=True)
    session.patient_client = edge.client(**options)
    return Migration(folder / "in.npz", session, gallery)


def test_the_rows_that_edge_and_cloud_refuse_are_told_in_the_order_of_the_file(
    edge: Edge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edge.make("halves")
    subjects = [f"s{at}" for at in range(200)]
    rows = np.stack([embedding(seed) for seed in range(200)])
    for at in (20, 150):
        enroll(edge, "halves", f"s{at}", at)
        assert move(edge, "halves", f"s{at}", "rename", to=f"renamed-{at}").status_code == 200
    rows[7], subjects[30] = 0, ".."
    since = len(edge.transport.requests)
    assert migration(edge, tmp_path, "halves", subjects, rows).enroll() is False
    printed = [line for line in capsys.readouterr().out.splitlines() if '"enrolled"' in line]
    *refused, summary = map(json.loads, printed)
    assert [(one["row"], one["subject"]) for one in refused] == [(7, "s7"), (20, "s20"), (30, ".."), (150, "s150")]
    assert (refused[0]["detail"], refused[1]["reason"]) == ("Row 7 is a zero vector.", "template_id_taken")
    assert refused[1]["detail"] == (
        "Row 20 was enrolled under this subject before, and the face is another subject's now."
    )
    counts = [summary[name] for name in ("enrolled", "refused", "elsewhere", "there_already")]
    assert counts == [196, 2, 2, 0]
    assert edge.held("halves") == (198, 198)
    assert len(edge.transport.requests) - since < 10


def test_a_migration_ends_where_the_gallery_is_full(
    models_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATRONUS_CLOUD__RECORD__MAX_TEMPLATES_A_GALLERY", "4")
    with Pair(tmp_path / "pair") as small:
        edge = small.edge()
        edge.make("full")
        for row, subject in zip(people()[:2], SUBJECTS, strict=False):
            assert bulk(edge, "full", new([subject], row[np.newaxis])).status_code == 201
        since = len(edge.transport.requests)
        with pytest.raises(Conflict, match="The gallery is full"):
            migration(edge, tmp_path, "full", SUBJECTS, people()).enroll()
        assert edge.held("full") == (2, 2)
        assert len(edge.transport.requests) - since < 5


class WithoutBulk(ThroughPortal):
    """The way to an edge that has no such path, as one of an earlier version has none for many subjects."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/embeddings"):
            request.url = request.url.copy_with(path=request.url.path + "-of-many")
        return super().handle_request(request)


def test_an_edge_that_lacks_the_operation_is_told_in_a_sentence(edge: Edge, tmp_path: Path) -> None:
    edge.make("before")
    old = migration(edge, tmp_path, "before", ["ada"], people()[:1], transport=WithoutBulk(edge.pair, edge.app))
    with pytest.raises(AnswerNotUnderstood, match="it is an edge of an older version than this client"):
        old.enroll()
    gone = migration(edge, tmp_path, "nowhere", ["ada"], people()[:1])
    with pytest.raises(NotFound, match="There is no gallery of this name"):
        gone.enroll()


async def of_an_earlier_version(transport: CloudTransport, request: httpx.Request) -> httpx.Response:
    """The cloud that has no such path; all else is answered as ever."""
    if request.method == "POST":
        request.url = request.url.copy_with(path=request.url.path + "-of-many")
    return await transport.deliver(request)


def test_a_cloud_that_lacks_the_operation_is_named_and_not_the_edge(edge: Edge, tmp_path: Path) -> None:
    edge.make("behind")
    edge.transport.always = of_an_earlier_version
    try:
        with pytest.raises(
            UpstreamFailed, match=r"^The cloud lacks an operation .* it is of an older version than the"
        ):
            migration(edge, tmp_path, "behind", ["ada"], people()[:1]).enroll()
    finally:
        edge.transport.reset()
