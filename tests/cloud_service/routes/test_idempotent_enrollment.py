"""Enrollment is idempotent: an id that a subject has already is stored once, whatever is sent under it again."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from cloud_service.record.tables import metadata
from cloud_service.settings import Settings
from cloud_service.subjects.enrollment import Enrollment
from shared.security.credentials import Scope
from tests.support.cloud_client import Cloud, assert_problem, random_units, unit
from tests.support.sealed import Key

pytestmark = pytest.mark.both_engines

VECTORS = random_units(61, 4)
ID, OTHER_ID = "1" * 32, "2" * 32


def enroll(
    cloud: Cloud,
    subject: str = "anna",
    vectors: Any = VECTORS[:1],
    ids: Any = (ID,),
    gallery: str = "door",
    **options: Any,
) -> httpx.Response:
    return cloud.enroll(subject, vectors, ids=ids, gallery=gallery, **options)


def stored(answer: httpx.Response) -> list[str]:
    """For each template of an enrollment: whether it was stored now or before."""
    assert answer.status_code == 201, answer.text
    return [template["stored"] for template in answer.json()["templates"]]


def dates(answer: httpx.Response) -> list[tuple[str, str]]:
    return [(template["id"], template["created_at"]) for template in answer.json()["templates"]]


def vectors_of(cloud: Cloud) -> np.ndarray:
    record = cloud.services.store.record
    return np.concatenate([vectors for _ids, vectors in record.entries.batches(record.gallery("door"))])


def test_a_repeated_request_is_answered_as_stored_before(client: Cloud) -> None:
    first, again = enroll(client), enroll(client)
    assert (stored(first), stored(again)) == (["now"], ["before"])
    assert dates(again) == dates(first)
    assert client.held() == (1, 1)


def test_a_request_whose_answer_was_lost_stores_once_when_it_is_repeated(
    client: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = client.services.store
    added = store.indexes.added

    def fail(*_given: Any) -> None:
        raise MemoryError  # after the commit: the caller gets an error for what is stored

    monkeypatch.setattr(store.indexes, "added", fail)
    assert_problem(enroll(client), 500, "unexpected-error")
    monkeypatch.setattr(store.indexes, "added", added)
    store.indexes.doubtful(store.record.gallery("door"))  # as a failed index does for itself
    assert stored(enroll(client)) == ["before"]
    assert client.held() == (1, 1)
    assert client.found(VECTORS[0]) == ["anna"]


def test_it_outlives_a_restart(settings: Settings) -> None:
    with Cloud(settings) as cloud:
        cloud.put_gallery()
        first = enroll(cloud)
    with Cloud(settings) as cloud:
        again = enroll(cloud)
        assert stored(again) == ["before"]
        assert dates(again) == dates(first)
        assert cloud.found(VECTORS[0]) == ["anna"]


def test_another_vector_under_a_known_id_leaves_the_first_as_it_is(client: Cloud) -> None:
    """Another CPU or runtime gives another last bit of the same template; a wrong sender gives anything."""
    first = enroll(client)
    nearly = unit(VECTORS[0].astype(np.float64) + 1e-6)
    for vector in (nearly, VECTORS[1]):
        again = enroll(client, vectors=[vector])
        assert stored(again) == ["before"]
        assert dates(again) == dates(first)
    assert np.array_equal(vectors_of(client), VECTORS[:1])
    assert client.held() == (1, 1)
    assert client.verify("anna", VECTORS[0]).json()["similarity"] == pytest.approx(1, abs=1e-6)


def test_new_and_known_ids_of_one_request_are_answered_each_for_itself(client: Cloud) -> None:
    first = enroll(client)
    both = enroll(client, vectors=VECTORS[:2], ids=(OTHER_ID, ID))
    assert stored(both) == ["now", "before"]
    assert dates(both)[1] == dates(first)[0]
    assert client.held() == (1, 2)


def test_an_id_of_another_subject_is_refused_and_nothing_is_stored(client: Cloud) -> None:
    enroll(client)
    answer = enroll(client, "ben", vectors=VECTORS[1:3], ids=(OTHER_ID, ID))
    assert_problem(answer, 409, "conflict", "template_id_taken")
    assert client.held() == (1, 1)
    assert client.found(VECTORS[1]) == []


def test_an_id_is_known_in_its_own_gallery_only(client: Cloud) -> None:
    enroll(client)
    client.put_gallery("gate")
    assert stored(enroll(client, "ben", gallery="gate")) == ["now"]
    assert (client.held(), client.held("gate")) == ((1, 1), (1, 1))


def test_it_is_the_same_for_every_caller(client: Cloud) -> None:
    enroll(client)
    assert stored(enroll(client, headers=client.key(Scope.ENROLL))) == ["before"]
    assert client.held() == (1, 1)


def test_what_was_refused_may_be_sent_corrected(client: Cloud) -> None:
    assert_problem(enroll(client, gallery="gate"), 404, "not-found")
    assert_problem(enroll(client, ids=(ID, ID), vectors=VECTORS[:2]), 422, "unprocessable", "duplicate_id")
    assert stored(enroll(client)) == ["now"]


def test_what_could_not_be_stored_is_not_known_afterwards(client: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        full.setattr(client.services.store.record, "max_templates_a_gallery", 0)
        assert_problem(enroll(client), 409, "conflict", "gallery_full")
    assert stored(enroll(client)) == ["now"]


def test_after_an_erasure_of_the_subject_it_is_stored_again(client: Cloud) -> None:
    first = enroll(client)
    assert client.http.delete("/v1/galleries/door/subjects/anna").status_code == 200
    assert client.found(VECTORS[0]) == []
    again = enroll(client, vectors=VECTORS[1:2])
    assert stored(again) == ["now"]
    assert dates(again) != dates(first)
    assert (client.found(VECTORS[0]), client.found(VECTORS[1])) == ([], ["anna"])
    assert client.held() == (1, 1)


def test_after_an_erasure_of_one_template_only_that_one_is_stored_again(client: Cloud) -> None:
    enroll(client, vectors=VECTORS[:2], ids=(ID, OTHER_ID))
    client.http.delete(f"/v1/galleries/door/subjects/anna/templates/{ID}")
    assert stored(enroll(client, vectors=VECTORS[:2], ids=(ID, OTHER_ID))) == ["now", "before"]
    assert client.held() == (1, 2)


def test_after_an_erasure_of_the_gallery_it_is_stored_again(client: Cloud) -> None:
    enroll(client)
    client.http.delete("/v1/galleries/door")
    assert_problem(enroll(client), 404, "not-found")
    client.put_gallery()
    assert stored(enroll(client)) == ["now"]
    assert client.held() == (1, 1)


def test_after_a_change_of_key_it_is_known_under_the_new_key(cloud: Cloud) -> None:
    old, new = Key(8, 1), Key(8, 2)

    def sent(key: Key, row: np.ndarray) -> httpx.Response:
        path = f"/v1/galleries/door/subjects/{key.name('anna')}/templates"
        return cloud.http.post(path, json={"templates": [{"id": ID, "template": key.envelope(row)}]})

    cloud.put_gallery(contract=old.contract)
    first = sent(old, VECTORS[0])
    assert cloud.http.post("/v1/galleries/door/rekey", json=old.rekey(new)).status_code == 200
    assert_problem(sent(old, VECTORS[0]), 409, "contract-mismatch")
    for row in VECTORS[:2]:  # the same template, rounded on another way; and another one
        again = sent(new, row)
        assert (stored(first), stored(again)) == (["now"], ["before"])
        assert dates(again) == dates(first)
    assert cloud.held() == (1, 1)


def test_of_two_requests_at_the_same_moment_one_stores(client: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    add = Enrollment.add

    def slow(*words: Any, **options: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        return add(*words, **options)

    monkeypatch.setattr(Enrollment, "add", slow)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(enroll, client)
        assert begun.wait(20)
        second = threads.submit(enroll, client)
        go_on.set()
        assert sorted(stored(first.result()) + stored(second.result())) == ["before", "now"]
        assert dates(first.result()) == dates(second.result())
    assert client.held() == (1, 1)
    assert len(vectors_of(client)) == 1


@pytest.mark.parametrize("key", ["k1", "", "x" * 129, "a b"])
def test_an_idempotency_key_is_ignored(client: Cloud, key: str) -> None:
    sent = {"headers": {"Idempotency-Key": key}}
    answer = enroll(client, **sent)
    assert stored(answer) == ["now"]
    assert "Idempotency-Replayed" not in answer.headers
    assert stored(enroll(client, vectors=VECTORS[1:2], ids=(OTHER_ID,), **sent)) == ["now"]
    assert client.held() == (1, 2)
    assert "answered" not in metadata.tables, "nothing is kept of it"
