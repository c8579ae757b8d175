"""A gallery of means is moved to another key while people are enrolled and erased: nothing is missing or left over."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count, pairwise
from typing import Any

import numpy as np
import pytest

from cloud_service.index.faiss_indexes import FaissIndexes
from cloud_service.index.flat import SegmentedIndex
from cloud_service.index.segment import ZERO
from cloud_service.rekey import service as rekeying
from cloud_service.rekey.service import Rekeying
from tests.cloud_service.entries.reference import MEAN, plain_score
from tests.support.cloud_client import Cloud, random_units, unit
from tests.support.sealed import Key, Rows, plain

DIM, PEOPLE, TAU = 32, 24, 0.3
DOOR = "/v1/galleries/door"
CENTERS = random_units(301, PEOPLE, DIM)
_uids = count(1)


def _rows(number: int, many: int, seed: int) -> Rows:
    return unit(CENTERS[number] + 0.15 * np.random.default_rng(seed).standard_normal((many, DIM)))


class Caller:
    """An edge that makes templates under the key of the gallery's contract, and again where that was changed."""

    def __init__(self, cloud: Cloud, keys: dict[str, Key]) -> None:
        self.cloud, self.keys = cloud, keys

    def post(self, path: str, body: Any, who: str = "") -> dict[str, Any]:
        while True:
            key = self.keys[self.cloud.http.get(DOOR).json()["contract_digest"]]
            answer = self.cloud.http.post(f"{DOOR}/{path.format(key.name(who))}", json=body(key))
            if answer.status_code != 409:
                assert answer.is_success, answer.text
                found: dict[str, Any] = answer.json()
                return found

    def enroll(self, number: int, rows: Rows) -> list[str]:
        ids = [f"{next(_uids):032x}" for _ in rows]
        self.post(
            "subjects/{}/templates",
            lambda key: {
                "templates": [{"id": uid, "template": key.envelope(row)} for uid, row in zip(ids, rows, strict=True)]
            },
            f"s{number}",
        )
        return ids

    def erase(self, number: int, uid: str) -> None:
        while True:
            key = self.keys[self.cloud.http.get(DOOR).json()["contract_digest"]]
            path = f"{DOOR}/subjects/{key.name(f's{number}')}/templates/{uid}"
            answer = self.cloud.http.delete(path, headers={"Patronus-Contract": key.contract.digest()})
            if answer.status_code != 409:
                assert answer.status_code == 200, answer.text
                return

    def found(self, number: int) -> dict[str, float]:
        answer = self.post("identify", lambda key: {"probes": [key.envelope(CENTERS[number])], "top_k": 3})
        return {plain(one["subject"]): one["similarity"] for one in answer["results"][0]["candidates"]}


def index_is_the_record(cloud: Cloud) -> int:
    """The index holds each entry that the record has, with its vector, and no other; how many."""
    store = cloud.services.store
    pinned = store.record.gallery("door")
    index = store.indexes.of(pinned)
    assert isinstance(index, SegmentedIndex)
    held = {
        int(one): (codes[:DIM].astype(np.float64) - ZERO) / segment.scale
        for segment in index.segments()
        for one, codes in zip(segment.ids.tolist(), segment.codes, strict=True)
        if one >= 0
    }
    expected = {
        int(one): vector
        for ids, vectors in store.record.entries.batches(pinned)
        for one, vector in zip(ids, vectors, strict=True)
    }
    assert held.keys() == expected.keys()
    for one, vector in expected.items():
        assert held[one] == pytest.approx(vector, abs=2 / 127)
    return len(held)


@pytest.fixture
def filled(cloud: Cloud) -> tuple[Caller, list[Key]]:
    chain = [Key(DIM, number) for number in range(3)]
    cloud.put_gallery(contract=chain[0].contract, tau=TAU, score=MEAN)
    caller = Caller(cloud, {key.contract.digest(): key for key in chain})
    for number in range(PEOPLE):
        caller.enroll(number, _rows(number, 1 + number % 4, number))
    return caller, chain


def test_what_is_enrolled_and_erased_between_the_steps_is_under_the_new_key_too(
    cloud: Cloud, filled: tuple[Caller, list[Key]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice: after all is staged and before the index of the next key is made, and between that and the switch."""
    caller, chain = filled
    prepare = FaissIndexes.prepare
    rows = {number: [*_rows(number, 1 + number % 4, number)] for number in range(PEOPLE)}

    def change() -> None:
        for number in (2, 5, 9):
            new = _rows(number, 2, 1000 + next(_uids))
            uids = caller.enroll(number, new)
            caller.erase(number, uids[0])
            rows[number].append(new[1])
        uid = cloud.http.get(f"{DOOR}/subjects/{chain[0].name('s3')}").json()["templates"][0]["id"]
        caller.erase(3, uid)
        del rows[3][0]

    def crowded(self: FaissIndexes, after: Any) -> None:
        change()
        prepare(self, after)
        change()
        prepare(self, after)
        change()

    monkeypatch.setattr(FaissIndexes, "prepare", crowded)
    answer = cloud.http.post(f"{DOOR}/rekey", json=chain[0].rekey(chain[1]))
    while answer.status_code == 202:
        answer = cloud.http.get(f"{DOOR}/rekey")
    assert answer.json()["contract_digest"] == chain[1].contract.digest()
    assert index_is_the_record(cloud) == PEOPLE
    for number in range(PEOPLE):
        expected = plain_score(MEAN, rows[number], CENTERS[number])
        assert caller.found(number)[f"s{number}"] == pytest.approx(expected, abs=1e-5)


def test_nobody_is_missed_while_templates_come_and_go_and_keys_change(
    cloud: Cloud, filled: tuple[Caller, list[Key]], monkeypatch: pytest.MonkeyPatch
) -> None:
    caller, chain = filled
    monkeypatch.setattr(rekeying, "_ROWS", 6)
    over = threading.Event()

    def come_and_go(part: int) -> int:
        rounds = 0
        while not over.is_set():
            number = part + 2 * (rounds % (PEOPLE // 2))
            first, *others = caller.enroll(number, _rows(number, 2, 5000 + rounds))
            assert f"s{number}" in caller.found(number)
            caller.erase(number, first)
            for uid in others if rounds % 2 else ():
                caller.erase(number, uid)
            rounds += 1
        return rounds

    def watch(seed: int) -> int:
        rounds = 0
        while not over.is_set():
            number, rounds = (seed + 5 * rounds) % PEOPLE, rounds + 1
            assert f"s{number}" in caller.found(number), "there throughout"
        return rounds

    with ThreadPoolExecutor(4) as threads:
        others = [threads.submit(come_and_go, part) for part in range(2)]
        others += [threads.submit(watch, seed) for seed in range(2)]
        try:
            for before, after in pairwise(chain):
                answer = cloud.http.post(f"{DOOR}/rekey", json=before.rekey(after))
                while answer.status_code == 202:
                    answer = cloud.http.get(f"{DOOR}/rekey")
                assert answer.json()["state"] == "settled", answer.text
        finally:
            over.set()
        assert min(other.result() for other in others) > 0
    assert index_is_the_record(cloud) == PEOPLE


def test_an_entry_is_under_the_next_key_only_when_all_its_templates_are(
    cloud: Cloud, filled: tuple[Caller, list[Key]]
) -> None:
    caller, chain = filled
    store = cloud.services.store
    pinned = store.record.gallery("door")
    after = pinned.rekeyed(chain[1].contract)
    service = Rekeying(store, store._metrics)
    steps = service._steps
    steps.begin(pinned, chain[1].contract, None)
    names = chain[0].rekey(chain[1])["names"]
    steps.name(pinned, chain[1].contract, {one["subject"]: one["sealed"] for one in names})
    turn = (chain[1].seal() @ chain[0].seal().T).T
    while len((some := steps.unstaged(pinned, 0, 10)).ids):
        vectors = unit(some.vectors.astype(np.float64) @ turn)
        steps.stage(pinned, chain[1].contract, some, vectors)
        ids = np.concatenate([np.empty(0, np.int64), *(ids for ids, _ in store.record.entries.batches(after))])
        staged = {int(one) for one in ids}
        left = {plain(one) for one in steps.unstaged(pinned, 0, 1000).subjects}
        missing = {number for number in range(PEOPLE) if f"s{number}" in left}
        assert staged == set(range(1, PEOPLE + 1)) - {number + 1 for number in range(min(missing, default=99), PEOPLE)}
    assert len(staged) == PEOPLE
    caller.enroll(3, _rows(3, 1, 9))
    ids = np.concatenate([ids for ids, _ in store.record.entries.batches(after)])
    assert set(ids.tolist()) == set(range(1, PEOPLE + 1)) - {4}, "her mean is not complete under the next key"
    service.close()
