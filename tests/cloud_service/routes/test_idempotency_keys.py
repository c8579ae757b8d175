"""An enrollment that is sent again under its Idempotency-Key is done once, and answered with what is true."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import func, select

from cloud_service.record.tables import answered, metadata
from cloud_service.settings import Settings
from shared.security.credentials import Scope
from tests.support.cloud_client import Cloud, assert_problem, random_units

pytestmark = pytest.mark.both_engines

VECTORS = random_units(61, 4)
ID, OTHER_ID = "1" * 32, "2" * 32


def enroll(
    cloud: Cloud,
    key: str,
    subject: str = "anna",
    vectors: Any = VECTORS[:1],
    ids: Any = (ID,),
    headers: dict[str, str] | None = None,
    gallery: str = "door",
) -> httpx.Response:
    sent = {"Idempotency-Key": key, **(headers or {})}
    return cloud.enroll(subject, vectors, ids=ids, headers=sent, gallery=gallery)


def _noted(cloud: Cloud) -> int:
    with cloud.app.state.store.record.database.read() as connection:
        return int(connection.scalar(select(func.count()).select_from(answered)) or 0)


def test_the_same_request_is_answered_the_same_and_says_that_it_was(door: Cloud) -> None:
    first = enroll(door, "k1")
    again = enroll(door, "k1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert door.held() == (1, 1)


def test_it_outlives_a_restart(settings: Settings) -> None:
    with Cloud(settings) as cloud:
        cloud.put_gallery()
        first = enroll(cloud, "k1")
    with Cloud(settings) as cloud:
        again = enroll(cloud, "k1")
        assert again.json() == first.json()
        assert again.headers["Idempotency-Replayed"] == "true"
        assert cloud.found(VECTORS[0]) == ["anna"]


@pytest.mark.parametrize(
    "change",
    [
        {"vectors": VECTORS[1:2]},
        {"ids": (OTHER_ID,)},
        {"subject": "ben"},
        {"gallery": "gate"},
        {"vectors": VECTORS[:2], "ids": (ID, OTHER_ID)},
    ],
)
def test_another_request_under_the_same_key_is_refused(door: Cloud, change: dict[str, Any]) -> None:
    door.put_gallery("gate")
    enroll(door, "k1")
    assert_problem(enroll(door, "k1", **change), 422, "unprocessable", "idempotency_key_reused")
    assert door.held() == (1, 1)
    assert door.held("gate") == (0, 0)


def test_keys_of_different_callers_are_different(door: Cloud) -> None:
    enroll(door, "k1")
    other = enroll(door, "k1", "ben", VECTORS[1:2], (OTHER_ID,), headers=door.key(Scope.ENROLL))
    assert other.status_code == 201
    assert "Idempotency-Replayed" not in other.headers
    assert door.held() == (2, 2)


def test_what_was_refused_may_be_sent_right_under_the_same_key(door: Cloud) -> None:
    assert_problem(enroll(door, "k1", gallery="gate"), 404, "not-found")
    assert_problem(enroll(door, "k1", ids=(ID, ID), vectors=VECTORS[:2]), 422, "unprocessable", "duplicate_id")
    assert enroll(door, "k1").status_code == 201
    assert _noted(door) == 1


def test_an_erased_subject_does_not_come_back_and_the_answer_does_not_say_that_it_is_there(door: Cloud) -> None:
    enroll(door, "k1")
    assert door.http.delete("/v1/galleries/door/subjects/anna").status_code == 200
    assert_problem(enroll(door, "k1"), 409, "conflict", "erased_since")
    assert door.held() == (0, 0)
    assert door.found(VECTORS[0]) == []
    assert enroll(door, "k2").status_code == 201, "a new key says that it is meant"


def test_an_answer_of_which_one_template_was_erased_is_not_repeated(door: Cloud) -> None:
    enroll(door, "k1", vectors=VECTORS[:2], ids=(ID, OTHER_ID))
    door.http.delete(f"/v1/galleries/door/subjects/anna/templates/{ID}")
    problem = enroll(door, "k1", vectors=VECTORS[:2], ids=(ID, OTHER_ID))
    assert_problem(problem, 409, "conflict", "erased_since")
    assert door.held() == (1, 1)


def test_nor_does_it_come_back_where_the_gallery_was_made_again(door: Cloud) -> None:
    enroll(door, "k1")
    door.http.delete("/v1/galleries/door")
    assert_problem(enroll(door, "k1"), 404, "not-found")
    door.put_gallery()
    assert_problem(enroll(door, "k1"), 409, "conflict", "erased_since")
    assert door.held() == (0, 0)


def test_nothing_biometric_is_kept_with_a_key_nor_a_name(door: Cloud) -> None:
    enroll(door, "k1")
    with door.app.state.store.record.database.read() as connection:
        (row,) = connection.execute(select(answered)).mappings()
    assert set(row) == {"key_id", "idempotency_key", "request_digest", "created_at"}
    assert "anna" not in str(row)
    assert len(row["request_digest"]) == 64
    assert set(metadata.tables["answered"].c.keys()) == set(row)


def test_what_is_too_old_is_forgotten_and_purged(settings: Settings) -> None:
    brief = settings.record.model_copy(update={"answers_kept_hours": 1e-7})
    with Cloud(settings.model_copy(update={"record": brief})) as cloud:
        cloud.put_gallery()
        for number in range(3):
            assert (
                enroll(cloud, "k1", f"s{number}", VECTORS[number : number + 1], (str(number) * 32,)).status_code == 201
            )
        assert _noted(cloud) == 1, "each found the one before too old"
        assert cloud.held() == (3, 3)


def test_one_that_is_being_worked_on_is_not_begun_again(door: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    store = door.app.state.store
    begun, go_on = threading.Event(), threading.Event()
    add = store.record.add_templates

    def slow(*words: Any, **options: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        return add(*words, **options)

    monkeypatch.setattr(store.record, "add_templates", slow)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(enroll, door, "k1")
        assert begun.wait(20)
        assert_problem(enroll(door, "k1"), 409, "conflict", "idempotency_key_in_use")
        go_on.set()
        assert first.result().status_code == 201
    assert enroll(door, "k1").headers["Idempotency-Replayed"] == "true"


def test_what_could_not_be_stored_leaves_no_key_behind(door: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    record = door.app.state.store.record
    monkeypatch.setattr(record, "_max_templates_a_gallery", 0)
    assert_problem(enroll(door, "k1"), 409, "conflict", "gallery_full")
    assert _noted(door) == 0, "noted with the templates or not at all"


@pytest.mark.parametrize("key", ["", "x" * 129, "a b", "ä".encode("latin-1").decode("latin-1")])
def test_a_key_that_is_none_is_refused(door: Cloud, key: str) -> None:
    raw: Any = {"Idempotency-Key": key.encode("latin-1")}
    answer = door.enroll("anna", VECTORS[:1], headers=raw)
    assert_problem(answer, 422, "unprocessable", "invalid_request")
    assert door.held() == (0, 0)


def test_the_vectors_of_a_repeated_request_are_those_that_were_stored(door: Cloud) -> None:
    enroll(door, "k1")
    enroll(door, "k1")
    store = door.app.state.store
    (stored,) = store.record.vectors.stored(store.record.gallery("door"), np.arange(1, 10))
    assert np.array_equal(stored.vectors, VECTORS[:1])
