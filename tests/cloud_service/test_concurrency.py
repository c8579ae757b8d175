"""Concurrent enrollments, erasures and searches give no wrong hit, lose none, and return none that was erased."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.support.cloud_client import Cloud, contract_of, random_units

pytestmark = pytest.mark.both_engines

DIM = 64
PEOPLE = 12


@pytest.fixture
def cloud(shared_cloud: Cloud) -> Cloud:
    return shared_cloud


def test_no_wrong_lost_or_erased_hit_under_load(cloud: Cloud) -> None:
    cloud.put_gallery(contract=contract_of(DIM), tau=0.9)
    vectors = random_units(21, PEOPLE, DIM)
    standing = random_units(22, 3, DIM)
    for number, vector in enumerate(standing):
        cloud.enroll(f"standing-{number}", [vector])
    over = threading.Event()

    def come_and_go(part: int) -> None:
        for number in range(part, PEOPLE, 3):
            name, vector = f"s{number}", vectors[number]
            for _ in range(2):
                assert cloud.enroll(name, [vector]).status_code == 201
                assert cloud.found(vector) == [name], "acknowledged, so searchable"
                assert cloud.http.delete(f"/v1/galleries/door/subjects/{name}").status_code == 200
                assert cloud.found(vector) == [], "erased, so not returnable"

    def watch(seed: int) -> int:
        looks = 0
        order = np.random.default_rng(seed)
        while not over.is_set():
            number = int(order.integers(len(standing)))
            assert cloud.found(standing[number]) == [f"standing-{number}"]
            number = int(order.integers(PEOPLE))
            assert cloud.found(vectors[number]) in ([], [f"s{number}"])
            looks += 1
        return looks

    with ThreadPoolExecutor(5) as threads:
        watchers = [threads.submit(watch, seed) for seed in range(2)]
        writers = [threads.submit(come_and_go, part) for part in range(3)]
        try:
            for writer in writers:
                writer.result()
        finally:
            over.set()
        assert all(watcher.result() > 3 for watcher in watchers)
    assert cloud.held() == (3, 3)


def test_of_several_who_enroll_the_same_template_at_once_one_stores_it(cloud: Cloud) -> None:
    cloud.put_gallery(contract=contract_of(DIM))
    vector = random_units(23, 1, DIM)
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _: cloud.enroll("anna", vector, ids=["1" * 32]), range(6)))
    assert {answer.status_code for answer in answers} == {201}
    templates = [answer.json()["templates"][0] for answer in answers]
    assert len({(template["id"], template["created_at"]) for template in templates}) == 1
    assert sorted(template["stored"] for template in templates) == ["before"] * 5 + ["now"]
    assert cloud.held() == (1, 1)
    assert len(cloud.services.store.indexes.of(cloud.services.store.record.gallery("door"))) == 1
