"""A gallery's key is changed in place: by a rotation only, and completely or not at all."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from cloud_service.record.tables import gallery, rekeyed, template
from cloud_service.rekey.steps import RekeySteps
from cloud_service.settings import BodySettings, Settings
from shared.errors import RecordUnavailable
from shared.wire.cloud import RekeyRequest
from tests.support.cloud_client import Cloud, Scope, assert_problem, contract_of, random_units
from tests.support.sealed import Key, Rows, plain

PATH = "/v1/galleries/door"
DIM = 32
OLD, NEW, THIRD = (Key(DIM, number) for number in (1, 2, 3))
OLD_EACH, NEW_EACH = Key(DIM, 1, verify_only=True), Key(DIM, 2, verify_only=True)
PEOPLE = random_units(31, 12, DIM)
_TRIES = 200  # ten seconds


def _enroll(cloud: Cloud, key: Key, subject: str, row: Rows, uid: str = "") -> Any:
    sent = {"id": uid or f"{abs(hash(subject)):032x}"[:32], "template": key.envelope(row, subject)}
    return cloud.http.post(f"{PATH}/subjects/{key.name(subject)}/templates", json={"templates": [sent]})


def _verify(cloud: Cloud, key: Key, subject: str, row: Rows) -> Any:
    path = f"{PATH}/subjects/{key.name(subject)}/verify"
    return cloud.http.post(path, json={"probe": key.envelope(row, subject)})


def _identify(cloud: Cloud, key: Key, rows: Rows) -> Any:
    body = {"probes": [key.envelope(row) for row in rows], "top_k": 3}
    return cloud.http.post(f"{PATH}/identify", json=body)


@pytest.fixture
def sealed(cloud: Cloud) -> Cloud:
    """The gallery ``door`` under OLD, with twelve people."""
    assert cloud.put_gallery(contract=OLD.contract, tau=0.3).status_code == 201
    for number, row in enumerate(PEOPLE):
        assert _enroll(cloud, OLD, f"s{number}", row, f"{number:032x}").status_code == 201
    return cloud


@pytest.fixture
def each(cloud: Cloud) -> Cloud:
    """The verify-only gallery ``door``, with twelve people."""
    assert cloud.put_gallery(contract=OLD_EACH.contract, tau=0.3).status_code == 201
    for number, row in enumerate(PEOPLE):
        assert _enroll(cloud, OLD_EACH, f"s{number}", row, f"{number:032x}").status_code == 201
    return cloud


def _rows(cloud: Cloud) -> list[tuple[bytes, bytes | None]]:
    """Of every template: its vector, and what stands beside it."""
    with cloud.services.store.record.database.read() as connection:
        query = (
            select(template.c.vector, rekeyed.c.vector)
            .outerjoin(rekeyed, rekeyed.c.template_id == template.c.id)
            .order_by(template.c.id)
        )
        return [(row[0], row[1]) for row in connection.execute(query)]


def test_scores_and_decisions_stay_what_they_were_on_random_templates(sealed: Cloud) -> None:
    noise = np.random.default_rng(5).standard_normal(PEOPLE.shape) / np.sqrt(DIM)
    probes = (PEOPLE + 3 * noise).astype(np.float32)
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    before = _identify(sealed, OLD, probes).json()
    decisions = {result["decision"] for result in before["results"]}
    assert decisions == {"match", "unknown"}
    for was, key in ((OLD, NEW), (NEW, THIRD), (THIRD, OLD)):
        answer = sealed.http.post(f"{PATH}/rekey", json=was.rekey(key))
        assert (answer.status_code, answer.json()["state"]) == (200, "settled")
        after = _identify(sealed, key, probes).json()
        for old, new in zip(before["results"], after["results"], strict=True):
            assert old["decision"] == new["decision"]
            names = [[plain(one["subject"]) for one in found["candidates"]] for found in (old, new)]
            assert names[0] == names[1]
            scores = [[one["similarity"] for one in found["candidates"]] for found in (old, new)]
            np.testing.assert_allclose(*scores, atol=1e-6)
    assert sealed.http.get(PATH).json()["contract_digest"] == OLD.contract.digest()


def test_matrices_from_another_key_than_the_gallery_has_are_refused(sealed: Cloud) -> None:
    """As of two edges at the same time, or of a request that is late: applied, they would spoil every template."""
    assert sealed.http.post(f"{PATH}/rekey", json=OLD.rekey(NEW)).status_code == 200
    before = _identify(sealed, NEW, PEOPLE).json()
    answer = sealed.http.post(f"{PATH}/rekey", json=OLD.rekey(THIRD))
    problem = assert_problem(answer, 409, "contract-mismatch")
    assert (problem["expected"], problem["given"]) == (NEW.contract.digest(), OLD.contract.digest())
    assert _identify(sealed, NEW, PEOPLE).json() == before
    assert sealed.http.post(f"{PATH}/rekey", json=OLD.rekey(NEW)).status_code == 200  # again: it was done


def test_templates_of_the_old_key_are_refused_with_the_new_contract(sealed: Cloud) -> None:
    sealed.http.post(f"{PATH}/rekey", json=OLD.rekey(NEW))
    for answer in (
        _verify(sealed, OLD, "s0", PEOPLE[0]),
        _identify(sealed, OLD, PEOPLE[:1]),
        _enroll(sealed, OLD, "anna", PEOPLE[0]),
    ):
        problem = assert_problem(answer, 409, "contract-mismatch")
        assert problem["expected"] == NEW.contract.digest()
    assert_problem(sealed.put_gallery(contract=OLD.contract, tau=0.3), 409, "contract-mismatch")
    assert sealed.put_gallery(contract=NEW.contract, tau=0.3).status_code == 200
    assert sealed.held() == (12, 12)


def test_a_stolen_old_template_does_not_match_under_the_new_contracts_name(sealed: Cloud) -> None:
    sealed.http.post(f"{PATH}/rekey", json=OLD.rekey(NEW))
    for number in range(12):
        forged = OLD.envelope(PEOPLE[number]) | {"contract": NEW.contract.digest()}
        path = f"{PATH}/subjects/{NEW.name(f's{number}')}/verify"
        answer = sealed.http.post(path, json={"probe": forged}).json()
        assert answer["similarity"] < 0.75
    assert _verify(sealed, NEW, "s0", PEOPLE[0]).json()["similarity"] > 0.9999


def test_it_is_harmless_when_repeated_and_enrollment_is_too(sealed: Cloud) -> None:
    for _ in range(3):
        answer = sealed.http.post(f"{PATH}/rekey", json=OLD.rekey(NEW))
        assert (answer.status_code, answer.json()["contract_digest"]) == (200, NEW.contract.digest())
    assert {beside for _vector, beside in _rows(sealed)} == {None}
    # The same template, rounded otherwise on its other way here; another one; and one of another subject.
    for row in PEOPLE[:2]:
        assert _enroll(sealed, NEW, "s0", row, "0" * 32).json()["templates"][0]["stored"] == "before"
    assert_problem(_enroll(sealed, NEW, "s1", PEOPLE[1], "0" * 32), 409, "conflict", "template_id_taken")
    assert sealed.held() == (12, 12)


def test_nothing_of_the_key_is_stored(sealed: Cloud) -> None:
    request = OLD.rekey(NEW)
    sealed.http.post(f"{PATH}/rekey", json=request)
    matrix = base64.b64decode(request["rotations"][0]["matrix"]["data"])
    files = [file.read_bytes() for file in sealed.settings.home.rglob("*") if file.is_file()]
    assert not any(matrix[at : at + 16] in content for at in range(0, len(matrix), 8) for content in files)
    assert all(job.matrices == {} for job in sealed.services.rekeying._jobs.values())


def _stretched(matrix: np.ndarray) -> np.ndarray:
    return matrix * (1 + 1e-8)


def _with_nan(matrix: np.ndarray) -> np.ndarray:
    matrix[3, 4] = np.nan
    return matrix


@pytest.mark.parametrize("change", [_stretched, _with_nan, lambda m: m * 0, lambda m: m[:16, :16], lambda m: m * 1e200])
def test_what_is_not_a_rotation_is_refused_and_changes_nothing(sealed: Cloud, change: Any) -> None:
    before = _rows(sealed)
    matrix = change(NEW.seal() @ OLD.seal().T)
    request = OLD.rekey(NEW)
    data = base64.b64encode(np.ascontiguousarray(matrix, dtype="<f8").tobytes()).decode()
    request["rotations"][0]["matrix"]["data"] = data
    assert_problem(sealed.http.post(f"{PATH}/rekey", json=request), 422, "unprocessable", "not_a_rotation")
    assert _rows(sealed) == before
    assert sealed.http.get(f"{PATH}/rekey").json()["state"] == "settled"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rotations": []}, "no_matrix"),
        ({"rotations": OLD_EACH.rekey(NEW_EACH, "s0")["rotations"]}, "wrong_subject"),
        ({"rotations": 2 * OLD.rekey(NEW)["rotations"]}, "wrong_subject"),
        ({"rotations": Key(8, 1).rekey(Key(8, 2))["rotations"]}, "wrong_dimension"),
        ({"rotations": [{"matrix": {"dim": 32, "dtype": "float32", "data": ""}}]}, "invalid_request"),
        ({"rotations": [{"matrix": {"dim": 32, "data": "!"}}]}, "not_a_rotation"),
        ({"more": 1}, "invalid_request"),
    ],
)
def test_a_request_of_another_form_is_refused(sealed: Cloud, change: dict[str, Any], reason: str) -> None:
    request = OLD.rekey(NEW) | change
    assert_problem(sealed.http.post(f"{PATH}/rekey", json=request), 422, "unprocessable", reason)
    assert sealed.http.get(f"{PATH}/rekey").json()["next_contract"] is None


@pytest.mark.parametrize(
    "other",
    [
        {"dim": 64},
        {"embedder": {"name": "other", "sha256": "e" * 64, "preprocessing": "none"}},
        {"profile": {"name": "test", "version": 2, "sha256": "a" * 64}},
        {"seal": NEW_EACH.contract.seal.model_dump(mode="json")},  # type: ignore[union-attr]
    ],
)
def test_nothing_but_the_key_can_be_changed(sealed: Cloud, other: dict[str, Any]) -> None:
    request = OLD.rekey(NEW)
    request["contract"] |= other
    assert_problem(sealed.http.post(f"{PATH}/rekey", json=request), 409, "contract-mismatch")


def test_a_gallery_without_a_seal_and_the_same_key_are_refused(sealed: Cloud) -> None:
    sealed.put_gallery("open", contract=contract_of(DIM))
    request = OLD.rekey(NEW) | {"contract": (contract_of(DIM).model_copy(update={"dim": 33})).model_dump(mode="json")}
    assert_problem(sealed.http.post("/v1/galleries/open/rekey", json=request), 409, "conflict", "not_sealed")
    without = OLD.rekey(NEW)
    without["contract"]["seal"] = None
    said = assert_problem(sealed.http.post(f"{PATH}/rekey", json=without), 409, "conflict", "not_sealed")["detail"]
    assert said.startswith("The request's contract has no seal")
    same = OLD.rekey(NEW)
    same["contract"]["seal"]["key_id"] = OLD.contract.seal.key_id  # type: ignore[union-attr]
    assert_problem(sealed.http.post(f"{PATH}/rekey", json=same), 409, "conflict", "same_key")


def test_a_matrix_of_512_values_fits_and_other_bodies_are_as_small_as_before(cloud: Cloud) -> None:
    old, new = Key(512, 1), Key(512, 2)
    cloud.put_gallery(contract=old.contract)
    body = old.rekey(new)
    assert len(json.dumps(body)) > 2_700_000
    assert cloud.http.post(f"{PATH}/rekey", json=body).status_code == 200
    assert_problem(cloud.http.post(f"{PATH}/identify", json=body), 413, "too-large")
    assert_problem(cloud.http.put("/v1/galleries/rekey", json=body), 413, "too-large")


def test_the_limit_of_a_change_of_key_is_the_operators(settings: Settings) -> None:
    small = settings.model_copy(update={"body": BodySettings(max_rekey_bytes=2000)})
    with Cloud(small) as cloud:
        cloud.put_gallery(contract=OLD.contract)
        assert_problem(cloud.http.post(f"{PATH}/rekey", json=OLD.rekey(NEW)), 413, "too-large")


def test_a_key_for_another_gallery_learns_nothing(sealed: Cloud) -> None:
    headers = sealed.key(Scope.MANAGE, galleries=["roof"])
    for method in ("POST", "GET", "DELETE"):
        answer = sealed.http.request(method, f"{PATH}/rekey", json=OLD.rekey(NEW), headers=headers)
        assert_problem(answer, 404, "not-found", "unknown_gallery")


def test_a_verify_only_gallery_says_whose_matrices_it_needs(each: Cloud) -> None:
    told = each.http.post(f"{PATH}/rekey", json=OLD_EACH.rekey(NEW_EACH))
    assert (told.status_code, told.json()["state"], told.json()["working"]) == (202, "staging", False)
    assert [plain(one) for one in told.json()["subjects"]] == [f"s{number}" for number in range(12)]
    part = each.http.post(f"{PATH}/rekey", json=OLD_EACH.rekey(NEW_EACH, *told.json()["subjects"][:8])).json()
    assert (part["left"], [plain(one) for one in part["subjects"]]) == (4, [f"s{number}" for number in range(8, 12)])
    assert _verify(each, OLD_EACH, "s3", PEOPLE[3]).json()["similarity"] > 0.9999
    assert _enroll(each, OLD_EACH, "late", PEOPLE[0]).status_code == 201
    assert each.http.delete(f"{PATH}/subjects/{OLD_EACH.name('s11')}").status_code == 200
    part = each.http.post(f"{PATH}/rekey", json=OLD_EACH.rekey(NEW_EACH, *part["subjects"])).json()
    assert (part["left"], part["subjects"]) == (1, [OLD_EACH.name("late")])
    done = each.http.post(f"{PATH}/rekey", json=OLD_EACH.rekey(NEW_EACH, "late"))
    assert (done.status_code, done.json()["state"]) == (200, "settled")
    for number in range(11):
        assert _verify(each, NEW_EACH, f"s{number}", PEOPLE[number]).json()["similarity"] > 0.9999
    assert _verify(each, NEW_EACH, "late", PEOPLE[0]).json()["similarity"] > 0.9999
    assert_problem(_verify(each, OLD_EACH, "s3", PEOPLE[3]), 409, "contract-mismatch")


def test_what_is_staged_is_not_done_again_and_is_discarded_for_another_key(each: Cloud) -> None:
    each.http.post(f"{PATH}/rekey", json=OLD_EACH.rekey(NEW_EACH, "s0", "s1"))
    staged = _rows(each)
    assert [beside is not None for _vector, beside in staged] == [True, True] + 10 * [False]
    each.http.post(f"{PATH}/rekey", json=OLD_EACH.rekey(NEW_EACH, "s1", "s2"))
    assert [row[1] for row in _rows(each)][:2] == [row[1] for row in staged][:2]
    third = Key(DIM, 3, verify_only=True)
    told = each.http.post(f"{PATH}/rekey", json=OLD_EACH.rekey(third, "s5")).json()
    assert (told["left"], told["next_contract"]) == (11, third.contract.model_dump(mode="json"))
    assert [at for at, row in enumerate(_rows(each)) if row[1] is not None] == [5]


def test_a_change_that_is_given_up_leaves_the_gallery_as_it_was(each: Cloud) -> None:
    before = _rows(each)
    each.http.post(f"{PATH}/rekey", json=OLD_EACH.rekey(NEW_EACH, "s0", "s1"))
    answer = each.http.delete(f"{PATH}/rekey")
    assert (answer.status_code, answer.json()["state"], answer.json()["next_contract"]) == (200, "settled", None)
    assert _rows(each) == before
    assert _verify(each, OLD_EACH, "s0", PEOPLE[0]).json()["similarity"] > 0.9999
    assert each.http.delete(f"{PATH}/rekey").status_code == 200
    assert_problem(each.http.delete("/v1/galleries/nowhere/rekey"), 404, "not-found")


def test_an_empty_gallery_and_one_that_is_made_again_have_keys_too(cloud: Cloud) -> None:
    for _ in range(2):
        cloud.put_gallery(contract=OLD.contract)
        _enroll(cloud, OLD, "anna", PEOPLE[0])
        cloud.http.delete(f"{PATH}/subjects/{OLD.name('anna')}")
        assert cloud.http.post(f"{PATH}/rekey", json=OLD.rekey(NEW)).status_code == 200
        assert _enroll(cloud, NEW, "anna", PEOPLE[0]).status_code == 201
        assert cloud.http.delete(PATH).json().items() >= {"subjects": 1, "templates": 1}.items()


def test_a_matrix_is_not_in_a_log_or_an_error(sealed: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    request = OLD.rekey(NEW)
    wrong = OLD.rekey(NEW) | {"contract": "x"}
    told = sealed.http.post(f"{PATH}/rekey", json=wrong).text + sealed.http.post(f"{PATH}/rekey", json=request).text
    log = capsys.readouterr()
    assert request["rotations"][0]["matrix"]["data"][:40] not in told + log.out + log.err
    assert "data" not in repr(RekeyRequest.model_validate(request))


def test_the_record_names_the_contract_to_come_only_while_it_is_to_come(each: Cloud) -> None:
    def noted() -> Any:
        with each.services.store.record.database.read() as connection:
            return connection.scalar(select(gallery.c.next_contract))

    assert noted() is None
    each.http.post(f"{PATH}/rekey", json=OLD_EACH.rekey(NEW_EACH))
    assert noted() == NEW_EACH.contract.model_dump(mode="json")
    each.http.post(f"{PATH}/rekey", json=OLD_EACH.rekey(NEW_EACH, *(f"s{number}" for number in range(12))))
    assert noted() is None


def test_a_changed_key_is_reported_as_changed_though_settling_fails(
    sealed: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:

        def fail(*_given: Any) -> bool:
            raise RecordUnavailable("The record cannot be written now: nothing was changed.")

        # Before the change there is nothing to settle, and settling is asked for all the same.
        broken.setattr(RekeySteps, "settle", lambda self, pinned, limit: pinned.key_version > 0 and fail())
        answer = sealed.http.post(f"{PATH}/rekey", json=OLD.rekey(NEW))
        assert (answer.status_code, answer.json()["state"]) == (202, "settling")
        assert answer.json()["contract_digest"] == NEW.contract.digest()
    for _ in range(_TRIES):
        answer = sealed.http.post(f"{PATH}/rekey", json=OLD.rekey(NEW))
        if answer.status_code == 200:
            break
        time.sleep(0.05)  # what failed has not quite ended
    assert (answer.status_code, answer.json()["state"]) == (200, "settled")
