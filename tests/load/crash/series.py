"""Cycles of a crash test: start a cloud, load it, kill it, check what it kept."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import httpx

from shared.errors import SetupError
from shared.processes.pair import free_port
from shared.security.secret_files import read_secret
from tests.load.crash.load import COMMON, Caller, spec
from tests.load.crash.model import CALLERS, Gallery, Model, Seen, contract_of, plain_names
from tests.load.crash.scan import held_in, pieces_of

_ROOT: Final = Path(__file__).parents[3]
# Of a cycle's load. A short one is killed in its first writes.
_LOAD_SECONDS: Final = (0.02, 0.5)
_START_SECONDS: Final = 30.0
# Of starts, the share that is killed before the service is ready.
_KILLED_AT_START: Final = 0.25
_REKEY_PAUSE: Final = 0.1
_PROBES: Final = 64
# Erased vectors that are asked for by identification each time: the newest. Files are searched for all of them.
_ASKED_FOR: Final = 2 * _PROBES
_SEARCHED_FOR: Final = 2_000
_OLD_KEYS: Final = 3
# Cosine of a template with itself: off by two roundings to float32 at most.
_SAME: Final = 1e-5


@dataclass
class Cycle:
    """Findings of one cycle.

    Attributes:
        cycle: its number.
        killed_after: seconds of load; and of starts that were killed, ``starts_killed_after``.
        acknowledged: changes that the cloud acknowledged.
        unsure: changes without an answer when it was killed.
        lost: acknowledged templates or galleries that are missing, as sentences; so are the lists below.
        returned: erased templates in an answer or in a file.
        halves: changes of which only a part is stored.
        mixed: templates that do not match under their gallery's key, or files that hold one of an older key.
        wrong: wrong answers while it ran.
    """

    cycle: int
    killed_after: float = 0.0
    starts_killed_after: list[float] = field(default_factory=list)
    ready_seconds: float = 0.0
    seconds: float = 0.0
    acknowledged: int = 0
    unsure: int = 0
    templates: int = 0
    epoch: int = 0
    lost: list[str] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    halves: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether the cycle found no fault."""
        return not (self.lost or self.returned or self.halves or self.mixed or self.wrong)


class Series:
    """Cycles on one record.

    Args:
        home: the folder of the service.
        seed: of the requests and the moments of kills. The order of threads is not under its control.
    """

    def __init__(self, home: Path, seed: int) -> None:
        self._home = home
        self._seed = seed
        self._model = Model(seed)
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._usual_start = 1.0
        self._rekeys = False

    def __enter__(self) -> Self:
        """Starts the service for the first time, with one gallery."""
        self._start()
        with self._client() as client:
            client.put(f"/v1/galleries/{COMMON}", json=spec()).raise_for_status()
            self._rekeys = "/v1/galleries/{gallery}/rekey" in client.get("/openapi.json").json()["paths"]
        self._model.galleries[COMMON] = Gallery()
        return self

    def __exit__(self, *ended: object) -> None:
        """Ends the service."""
        self._kill()

    def cycles(self, count: int) -> Iterator[Cycle]:
        """Runs cycles; the last one searches the files for everything that was ever erased."""
        for number in range(1, count + 1):
            yield self._cycle(number, number == count)

    def _cycle(self, number: int, is_last: bool) -> Cycle:
        began = time.perf_counter()
        chance = random.Random(f"{self._seed} {number}")
        found = Cycle(number, killed_after=chance.uniform(*_LOAD_SECONDS))
        before = self._model.acknowledged
        found.wrong = self._load_and_kill(number, found.killed_after)
        while chance.random() < _KILLED_AT_START:
            found.starts_killed_after.append(chance.uniform(0.3, 1.05) * self._usual_start)
            self._spawn()
            time.sleep(found.starts_killed_after[-1])
            self._kill()
        found.ready_seconds = self._start()
        found.acknowledged = self._model.acknowledged - before
        found.unsure = len(self._model.unsure)
        with self._client() as client:
            self._look(client, found, is_last)
        found.seconds = time.perf_counter() - began
        return found

    def _load_and_kill(self, number: int, seconds: float) -> list[str]:
        over = threading.Event()
        with ExitStack() as opened, ThreadPoolExecutor(CALLERS + 1) as threads:
            callers = [
                Caller(each, self._model, random.Random(f"{self._seed} {number} {each}"), client)
                for each in range(CALLERS + 1)
                for client in [opened.enter_context(self._client())]
            ]
            for caller in callers[:CALLERS]:
                threads.submit(caller.work, over)
            if self._rekeys:
                threads.submit(callers[CALLERS].rekey, over, _REKEY_PAUSE)
            time.sleep(seconds)
            self._kill()
            over.set()
        return [f"{type(caller.error).__name__}: {caller.error}" for caller in callers if caller.error is not None]

    def _look(self, client: httpx.Client, found: Cycle, thorough: bool) -> None:
        settled = self._settled(client)
        seen = self._seen(client, thorough)
        found.halves = self._model.settle(seen)
        found.lost, found.returned, found.mixed = self._model.differences(seen)
        for name, gallery in self._model.galleries.items():
            found.templates += len(gallery.numbers())
            found.mixed += self._all_match(client, name, gallery)
            newest = [number for where, number in self._model.gone if where == name][-_ASKED_FOR:]
            if any(self._identified(client, name, gallery.epoch, newest)):
                found.returned.append(f"an erased template of {name} is identified")
        found.epoch = self._model.galleries[COMMON].epoch
        self._scan(found, settled, thorough)

    def _seen(self, client: httpx.Client, thorough: bool) -> Seen:
        """Reads what is stored; reads ids where numbers differ or a change is unsure, or of everything."""
        seen = Seen()
        about = {(each.gallery, who) for each in self._model.unsure for who in (each.subject, each.other)}
        for item in _pages(client, "/v1/galleries"):
            name = item["gallery"]
            seen.digests[name] = item["contract_digest"]
            model = self._model.galleries.get(name, Gallery())
            mine, plain = model.subjects, plain_names(_epoch_of(item["contract_digest"], model.epoch))
            there = seen.subjects[name] = {}
            for listed in _pages(client, f"/v1/galleries/{name}/names"):
                subject = plain[listed["subject"]]
                there[subject] = set(mine.get(subject, {}))
                if thorough or (name, subject) in about or len(there[subject]) != listed["templates"]:
                    detail = client.get(f"/v1/galleries/{name}/subjects/{listed['subject']}").raise_for_status().json()
                    there[subject] = {template["id"] for template in detail["templates"]}
        return seen

    def _settled(self, client: httpx.Client) -> bool:
        """Whether no file holds anything under an older key; waits for the cleaning at a start."""
        deadline = time.monotonic() + _START_SECONDS
        while self._rekeys and time.monotonic() < deadline:
            state = client.get(f"/v1/galleries/{COMMON}/rekey").raise_for_status().json()["state"]
            if state != "settling":
                return bool(state == "settled")
            time.sleep(0.05)
        return not self._rekeys

    def _all_match(self, client: httpx.Client, name: str, gallery: Gallery) -> list[str]:
        owners = {number: subject for subject, held in gallery.subjects.items() for number in held.values()}
        found = self._identified(client, name, gallery.epoch, list(owners))
        wrong = sum(who != owner for who, owner in zip(found, owners.values(), strict=True))
        return [f"{wrong} templates of {name} do not match under its key"] if wrong else []

    def _identified(self, client: httpx.Client, name: str, epoch: int, numbers: Sequence[int]) -> list[str | None]:
        """The subject whose template equals each vector; None: no subject."""
        who: list[str | None] = []
        for start in range(0, len(numbers), _PROBES):
            some = [self._model.vectors.envelope(number, epoch) for number in numbers[start : start + _PROBES]]
            answer = client.post(f"/v1/galleries/{name}/identify", json={"probes": some, "top_k": 1})
            for result in answer.raise_for_status().json()["results"]:
                best = next(iter(result["candidates"]), None)
                who.append(plain_names(epoch)[best["subject"]] if best and best["similarity"] > 1 - _SAME else None)
        return who

    def _scan(self, found: Cycle, settled: bool, thorough: bool) -> None:
        """Searches the files: none may hold an erased vector, nor one under an older key."""
        vectors, epoch = self._model.vectors, self._model.galleries[COMMON].epoch
        since = 0 if thorough else max(0, epoch - _OLD_KEYS)
        gone = self._model.gone if thorough else self._model.gone[-_SEARCHED_FOR:]
        numbers = [number for _, number in gone]
        for name, held in held_in(
            self._home, pieces_of(*(vectors.sealed(numbers, old) for old in range(since, epoch + 2)))
        ).items():
            found.returned.append(f"{held} pieces of erased vectors in {name}")
        living = self._model.galleries[COMMON].numbers()
        if settled and epoch > since:
            old = pieces_of(*(vectors.sealed(living, each) for each in range(since, epoch)))
            found.mixed += [
                f"{held} pieces under an older key in {name}" for name, held in held_in(self._home, old).items()
            ]

    @contextmanager
    def _client(self) -> Iterator[httpx.Client]:
        key = read_secret(self._home / "cloud" / "api_key").decode().strip()
        url = f"http://127.0.0.1:{self._port}"
        headers = {"Authorization": f"Bearer {key}"}
        # Nothing to verify on plain HTTP, and reading the system's certificates would take longer than the load.
        with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=30, verify=False) as client:
            yield client

    def _spawn(self) -> None:
        environment = {
            **os.environ,
            "PATRONUS_HOME": str(self._home),
            "PATRONUS_CLOUD__PORT": str(self._port),
            "PATRONUS_CLOUD__LOG_LEVEL": "error",
            "PYTHONPATH": str(_ROOT),
        }
        with (self._home / "log").open("ab") as log:
            command = [sys.executable, "-m", "cloud_service", "serve"]
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def _start(self) -> float:
        """Starts the service and waits until it is ready; returns the seconds.

        Raises:
            SetupError: it ended, or was not ready in time; its words are in the file ``log`` of the home.
        """
        began = time.perf_counter()
        self._spawn()
        assert self._process is not None
        with httpx.Client(trust_env=False, timeout=5, verify=False) as client:
            while not _ready(client, self._port):
                if self._process.poll() is not None or time.perf_counter() - began > _START_SECONDS:
                    raise SetupError(f"The cloud did not start; its reason stands in {self._home / 'log'}.")
                time.sleep(0.025)
        self._usual_start = time.perf_counter() - began
        return self._usual_start

    def _kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


def summary(cycles: Sequence[Cycle], seed: int) -> dict[str, Any]:
    """Totals of a series: faults, each of which must be 0, and what was tried."""
    bad = {
        what: sum(len(getattr(each, what)) for each in cycles)
        for what in ("lost", "returned", "halves", "mixed", "wrong")
    }
    return {
        "cycles": len(cycles),
        "seed": seed,
        "sound": all(each.sound for each in cycles),
        **bad,
        "acknowledged": sum(each.acknowledged for each in cycles),
        "unsure": sum(each.unsure for each in cycles),
        "killed_at_start": sum(len(each.starts_killed_after) for each in cycles),
        "epochs": cycles[-1].epoch if cycles else 0,
        "seconds_a_cycle": sum(each.seconds for each in cycles) / max(1, len(cycles)),
    }


def _pages(client: httpx.Client, path: str) -> Iterator[dict[str, Any]]:
    after: str | None = None
    while True:
        query = {"limit": "500"} | ({"after": after} if after else {})
        page = client.get(path, params=query).raise_for_status().json()
        yield from page["items"]
        after = page["next"]
        if after is None:
            return


def _epoch_of(digest: str, last: int) -> int:
    """The epoch of a contract: the last one that is known of, or the next one."""
    return last + 1 if contract_of(last + 1).digest() == digest else last


def _ready(client: httpx.Client, port: int) -> bool:
    try:
        return client.get(f"http://127.0.0.1:{port}/readyz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
