"""While a gallery's key is changed, whoever asks gets a right answer or is told of the new contract, nothing else."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from cloud_service.rekey import service as rekeying
from cloud_service.rekey.steps import RekeySteps
from tests.support.cloud_client import Cloud, random_units
from tests.support.sealed import Key, Rows, plain

DIM, STANDING, COMING = 32, 30, 12
PATH = "/v1/galleries/door"
PEOPLE = random_units(41, STANDING + COMING, DIM)
ABSENT = random_units(43, 8, DIM)


class Client:
    """An edge: makes templates under the contract that it was last told, and asks again when that is refused."""

    def __init__(self, cloud: Cloud, keys: dict[str, Key]) -> None:
        self.cloud, self.keys = cloud, keys
        self.key = self._told()
        self.seen: Counter[int] = Counter()

    def _told(self) -> Key:
        return self.keys[self.cloud.http.get(PATH).json()["contract_digest"]]

    def ask(self, path: str, body: Callable[[Key], dict[str, Any]], who: str = "") -> Any:
        while True:
            answer = self.cloud.http.post(f"{PATH}/{path.format(self.key.name(who))}", json=body(self.key))
            self.seen[answer.status_code] += 1
            if answer.status_code == 429:  # the machine was busy elsewhere: nothing was done, so it is sent again
                time.sleep(0.1)
                continue
            if answer.status_code != 409:
                return answer
            problem = answer.json()
            assert problem["type"].endswith("contract-mismatch"), problem
            told = self._told()
            assert problem["expected"] in self.keys
            assert told != self.key, "refused, though it is the gallery's contract"
            self.key = told

    def verify(self, number: int, row: Rows) -> Any:
        name = f"s{number}"
        return self.ask("subjects/{}/verify", lambda key: {"probe": key.envelope(row, name)}, name)

    def found(self, row: Rows) -> list[str]:
        answer = self.ask("identify", lambda key: {"probes": [key.envelope(row)], "top_k": 2})
        assert answer.status_code == 200, answer.text
        return [plain(one["subject"]) for one in answer.json()["results"][0]["candidates"]]

    def enroll(self, number: int, uid: str) -> None:
        name = f"s{number}"
        answer = self.ask(
            "subjects/{}/templates",
            lambda key: {"templates": [{"id": uid, "template": key.envelope(PEOPLE[number], name)}]},
            name,
        )
        assert answer.status_code == 201, answer.text

    def erase(self, number: int) -> None:
        """Erases a subject; with the contract, so that a name of before is never "no such subject"."""
        while True:
            headers = {"Patronus-Contract": self.key.contract.digest()}
            answer = self.cloud.http.delete(f"{PATH}/subjects/{self.key.name(f's{number}')}", headers=headers)
            if answer.status_code == 409:
                self.key = self._told()
            elif answer.status_code == 429:
                time.sleep(0.1)
            else:  # 202: its bytes are overwritten a little later
                assert answer.status_code in {200, 202}, answer.text
                return


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a few rows, with room between them for others: a large gallery's change of key, of a small one."""
    monkeypatch.setattr(rekeying, "_ROWS", 3)
    for name in ("stage", "settle", "switch"):
        step = getattr(RekeySteps, name)

        def slowly(self: RekeySteps, *args: Any, step: Any = step, **options: Any) -> Any:
            time.sleep(0.005)
            return step(self, *args, **options)

        monkeypatch.setattr(RekeySteps, name, slowly)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("verify_only", [False, pytest.param(True, marks=pytest.mark.slow(reason="once more"))])
def test_no_answer_mixes_two_keys(cloud: Cloud, verify_only: bool) -> None:
    chain = [Key(DIM, number, verify_only) for number in range(4)]
    keys = {key.contract.digest(): key for key in chain}
    assert cloud.put_gallery(contract=chain[0].contract, tau=0.9).status_code == 201
    first = Client(cloud, keys)
    for number in range(STANDING):
        first.enroll(number, f"{number:032x}")
    over = threading.Event()

    def watch(seed: int) -> Counter[int]:
        client, order = Client(cloud, keys), np.random.default_rng(seed)
        while not over.is_set():
            number = int(order.integers(STANDING))
            answer = client.verify(number, PEOPLE[number]).json()
            assert answer["decision"] == "match", answer
            assert answer["similarity"] > 0.99999
            other = client.verify(number, ABSENT[seed]).json()
            assert other["decision"] == "no_match"
            if not verify_only:
                assert client.found(PEOPLE[number]) == [f"s{number}"]
                assert client.found(ABSENT[seed]) == []
        return client.seen

    def come_and_go(part: int) -> Counter[int]:
        client, round_ = Client(cloud, keys), 0
        while not over.is_set():
            number, round_ = STANDING + part, round_ + 1
            client.enroll(number, f"{number:016x}{round_:016x}")
            assert client.verify(number, PEOPLE[number]).json()["decision"] == "match", "acknowledged, so matched"
            if not verify_only:
                assert client.found(PEOPLE[number]) == [f"s{number}"], "acknowledged, so searchable"
            client.erase(number)
            assert client.verify(number, PEOPLE[number]).status_code == 404
            if not verify_only:
                assert client.found(PEOPLE[number]) == [], "erased, so not returnable"
        return client.seen

    def change(before: Key, after: Key) -> None:
        named: list[str] = []
        while True:
            told = cloud.http.post(f"{PATH}/rekey", json=before.rekey(after, *named))
            assert told.status_code in {200, 202}, told.text
            if told.json()["state"] == "settled":
                assert told.json()["contract_digest"] == after.contract.digest()
                return
            # Those of before once more: who left and came back is there again.
            named = list(dict.fromkeys([*told.json()["subjects"], *named]))[:64]

    with ThreadPoolExecutor(5) as threads:
        others = [threads.submit(watch, seed) for seed in range(2)]
        others += [threads.submit(come_and_go, part) for part in range(2)]
        try:
            for before, after in pairwise(chain):
                change(before, after)
                for other in others:
                    assert not other.done(), other.result()
        finally:
            over.set()
        seen = sum((other.result() for other in others), Counter[int]())
    assert seen[409] >= len(chain) - 1, "each was told of a new contract"
    assert cloud.held() == (STANDING, STANDING)
    if not verify_only:
        store = cloud.services.store
        assert len(store.indexes.of(store.record.gallery("door"))) == STANDING


@pytest.mark.usefixtures("small_steps")
def test_another_key_takes_the_place_of_one_that_is_being_staged(cloud: Cloud) -> None:
    old, new, third = (Key(DIM, number) for number in range(3))
    cloud.put_gallery(contract=old.contract, tau=0.9)
    client = Client(cloud, {key.contract.digest(): key for key in (old, new, third)})
    for number in range(STANDING):
        client.enroll(number, f"{number:032x}")
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(cloud.http.post, f"{PATH}/rekey", json=old.rekey(new))
        time.sleep(0.05)
        cloud.http.post(f"{PATH}/rekey", json=old.rekey(third))
        one.result()
    while cloud.http.get(f"{PATH}/rekey").json()["working"]:
        time.sleep(0.05)
    now = cloud.http.get(PATH).json()["contract_digest"]
    assert now in {new.contract.digest(), third.contract.digest()}
    for number in range(STANDING):
        assert client.verify(number, PEOPLE[number]).json()["similarity"] > 0.99999
        assert client.found(PEOPLE[number]) == [f"s{number}"]
