"""Two services on one PostgreSQL and one Milvus: nothing acknowledged is lost, nothing erased is returned."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_service.index.milvus.client import Milvus
from tests.cloud_service.index.replicas import Replica, RoundRobin
from tests.support.cloud_client import contract_of, enveloped, random_units, unit
from tests.support.milvus_server import Milvus as Server
from tests.support.postgres_server import PostgresServer

DIM = 64
SPEC = {
    "contract": contract_of(DIM).model_dump(mode="json"),
    "threshold": {"cosine": 0.9, "fmr": 0.001},
    "score": {"rule": "mean", "exponents": [1.0]},  # of orthogonal templates, so that their mean's direction matches
}
PASSING = {429, 503}
"""What a caller is told to try again after."""


class Caller:
    """Calls a service the way an edge does: what fails in passing is sent again, the very same."""

    def __init__(self, port: int, key: str) -> None:
        # A connection a request, so that each may reach another replica.
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {key}", "Connection": "close"},
            timeout=20,
        )

    def close(self) -> None:
        self._http.close()

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        end = time.monotonic() + 60
        while True:
            try:
                answer = self._http.request(method, f"/v1/galleries/{path}", **options)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code not in PASSING:
                return answer
            assert time.monotonic() < end, "no answer for a minute"
            time.sleep(0.05)

    def enroll(self, gallery: str, subject: str, vector: NDArray[np.float32], uid: str) -> int:
        body = {"templates": [{"id": uid, "template": enveloped(vector)}]}
        return self.call("POST", f"{gallery}/subjects/{subject}/templates", json=body).status_code

    def found(self, gallery: str, vector: NDArray[np.float32]) -> list[str]:
        body = {"probes": [enveloped(vector)], "top_k": 3}
        answer = self.call("POST", f"{gallery}/identify", json=body)
        assert answer.status_code == 200, answer.text
        return [one["subject"] for one in answer.json()["results"][0]["candidates"]]

    def verified(self, gallery: str, subject: str, vector: NDArray[np.float32]) -> str:
        answer = self.call("POST", f"{gallery}/subjects/{subject}/verify", json={"probe": enveloped(vector)})
        return str(answer.json()["decision"]) if answer.status_code == 200 else str(answer.status_code)

    def erase(self, gallery: str, subject: str) -> int:
        return self.call("DELETE", f"{gallery}/subjects/{subject}").status_code

    def held(self, gallery: str) -> tuple[int, int]:
        info = self.call("GET", gallery).json()
        return info["subjects"], info["templates"]


@dataclass(frozen=True)
class Pair:
    replicas: tuple[Replica, Replica]
    caller: Callable[..., Caller]
    """Through the proxy, or to one replica by its number."""
    postgres: PostgresServer
    database: str
    milvus: Milvus

    def untold(self) -> int:
        """How many changes Milvus was not told of."""
        ((count,),) = self.postgres.run(
            "SELECT count(*) FROM outbox WHERE action IN ('add', 'remove', 'drop')", database=self.database
        )
        return int(str(count))

    def in_milvus(self, gallery: str) -> list[int]:
        ((number, turn, score),) = self.postgres.run(
            f"SELECT id, key_version, score->>'rule' FROM gallery WHERE name = '{gallery}'", database=self.database
        )
        ((instance,),) = self.postgres.run(
            "SELECT value FROM record_value WHERE name = 'instance'", database=self.database
        )
        return sorted(self.milvus.ids(f"patronus_{instance}_{number}_{turn}_{score}0", -1, 2**62).tolist())

    def in_record(self, gallery: str) -> list[int]:
        """The ids of entries."""
        query = f"SELECT entry_id FROM subject JOIN gallery ON gallery_id = gallery.id WHERE gallery.name = '{gallery}'"
        return sorted(int(str(one)) for (one,) in self.postgres.run(query, database=self.database))


@pytest.fixture(scope="module")
def pair(postgres: PostgresServer, shared_milvus: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    home = tmp_path_factory.mktemp("replicas")
    database = postgres.new_database()
    environment = {
        "PATRONUS_CLOUD__RECORD__URL": postgres.url(database),
        "PATRONUS_CLOUD__INDEX__URL": shared_milvus.url,
        "PATRONUS_CLOUD__WORK__QUEUE_TIMEOUT_S": "10",
    }
    replicas = (Replica(home, environment), Replica(home, environment))
    with ExitStack() as stack:
        for replica in replicas:
            stack.callback(replica.end)
            replica.start()
        key = (home / "cloud/api_key").read_text().strip()
        proxy = stack.enter_context(RoundRobin([replica.port for replica in replicas]))

        def caller(number: int | None = None) -> Caller:
            made = Caller(proxy.port if number is None else replicas[number].port, key)
            stack.callback(made.close)
            return made

        milvus = Milvus(shared_milvus.url, "", None, 10)
        stack.callback(milvus.close)
        yield Pair(replicas, caller, postgres, database, milvus)


def _settled(pair: Pair) -> None:
    for _ in range(200):
        if pair.untold() == 0:
            return
        time.sleep(0.1)
    pytest.fail("Milvus was not told of everything")


@pytest.mark.slow(reason="two replicas on PostgreSQL and Milvus")
def test_what_one_replica_acknowledged_the_other_knows_at_once(pair: Pair) -> None:
    here, there = pair.caller(0), pair.caller(1)
    assert here.call("PUT", "known", json=SPEC).status_code == 201
    assert there.call("PUT", "known", json=SPEC).status_code == 200
    for number, vector in enumerate(random_units(31, 6, DIM)):
        assert here.enroll("known", f"s{number}", vector, f"{number:032x}") == 201
        assert there.found("known", vector) == [f"s{number}"]
        assert there.enroll("known", f"s{number}", vector, f"{number:032x}") == 201, "sent again elsewhere"
        assert there.erase("known", f"s{number}") == 202  # its bytes are pending in Milvus
        assert here.found("known", vector) == []
        assert here.verified("known", f"s{number}", vector) == "404"
    assert there.call("DELETE", "known").status_code == 202
    assert here.call("GET", "known").status_code == 404
    assert here.call("PUT", "known", json=SPEC).status_code == 201
    assert there.found("known", random_units(31, 1, DIM)[0]) == []


@pytest.mark.slow(reason="two services under load")
def test_many_who_change_the_same_at_once_through_both_leave_one_truth(pair: Pair) -> None:
    callers = [pair.caller(number % 2) for number in range(6)]
    vectors = random_units(32, 24, DIM)
    with ThreadPoolExecutor(6) as threads:
        made = list(threads.map(lambda caller: caller.call("PUT", "crowd", json=SPEC).status_code, callers))
        assert sorted(made)[:5] == [200] * 5
        # One subject, made by all at once; and one template, sent by all at once.
        codes = list(threads.map(lambda at: callers[at].enroll("crowd", "anna", vectors[at], f"{at:032x}"), range(6)))
        codes += threads.map(lambda caller: caller.enroll("crowd", "ben", vectors[6], "b" * 32), callers)
        assert codes == [201] * 12
        assert callers[0].held("crowd") == (2, 7)

        def fight(at: int) -> None:
            for step in range(6):
                if (at + step) % 3:
                    code = callers[at].enroll("crowd", "carl", vectors[7 + at], f"{100 + at:032x}")
                    assert code == 201
                else:
                    assert callers[at].erase("crowd", "carl") in (202, 404)

        list(threads.map(fight, range(6)))
    _settled(pair)
    assert pair.in_milvus("crowd") == pair.in_record("crowd")
    carl = [at for at in range(6) if callers[0].call("GET", "crowd/subjects/carl").text.count(f"{100 + at:032x}")]
    probes = [*vectors[7:13], *([unit(vectors[7:13][carl].sum(axis=0))] if carl else [])]
    for probe in probes:
        verdicts = {caller.verified("crowd", "carl", probe) for caller in callers[:2]}
        assert len(verdicts) == 1
        for caller in callers[:2]:
            assert caller.found("crowd", probe) == (["carl"] if verdicts == {"match"} else [])


@pytest.mark.slow(reason="two services under load")
def test_a_replica_killed_under_load_loses_nothing_and_brings_nothing_back(pair: Pair, tmp_path: Path) -> None:
    assert pair.caller().call("PUT", "load", json=SPEC).status_code == 201
    over = threading.Event()
    kept: dict[str, NDArray[np.float32]] = {}
    gone: dict[str, NDArray[np.float32]] = {}
    rounds = [0] * 4

    def live(part: int) -> None:
        caller = pair.caller()
        vectors = random_units(40 + part, 400, DIM)
        for number, vector in enumerate(vectors):
            if over.is_set():
                return
            name, uid = f"p{part}-{number}", f"{part:016x}{number:016x}"
            assert caller.enroll("load", name, vector, uid) == 201
            kept[name] = vector
            assert caller.found("load", vector) == [name], "acknowledged, so found by whichever replica"
            assert caller.verified("load", name, vector) == "match"
            if number % 2:
                del kept[name]
                assert caller.erase("load", name) in (202, 404)  # 404: done by a try whose answer was lost
                gone[name] = vector
                assert caller.found("load", vector) == []
            rounds[part] += 1

    with ThreadPoolExecutor(4) as threads:
        living = [threads.submit(live, part) for part in range(4)]
        try:
            time.sleep(4)
            before = sum(rounds)
            pair.replicas[0].end()  # SIGKILL
            time.sleep(4)
            after = sum(rounds)
        finally:
            over.set()
        for one in living:
            one.result()
    assert before >= 4, "both were at work"
    assert after > before, "the other one went on"
    _settled(pair)
    pair.replicas[0].start()
    assert pair.caller(1).held("load") == (len(kept), len(kept))
    assert pair.in_milvus("load") == pair.in_record("load")
    for caller in (pair.caller(0), pair.caller(1)):
        for name, vector in [*kept.items()][:40]:
            assert caller.found("load", vector) == [name]
        for vector in [*gone.values()][:40]:
            assert caller.found("load", vector) == []
