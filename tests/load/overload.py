"""``python -m tests.load.overload``: the cloud's answers to more requests than it can handle.

First it measures the capacity, with callers that wait for their answers. Then requests arrive at random at a multiple
of that rate, whether or not earlier ones are answered. The generator shares the
machine: the table says how much it sent.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from lab.console_table import measurements
from shared.command import finite, run
from shared.envelope import TemplateEnvelope
from shared.processes.pair import Pair, free_port
from shared.security.secret_files import read_secret
from tests.load.bench_cloud import GALLERY, PER_PERSON, filled, people, pictures_of
from tests.load.closed_loop import closed_loop, request

_DIM: Final = 128
_TEMPLATES: Final = 4000
_PROBES: Final = 512
_CALLERS: Final = 64
_CONNECTIONS: Final = 512
_LAST_SECONDS: Final = 5.0
app = typer.Typer()


@dataclass(slots=True)
class Outcome:
    """Answers to requests that arrived at random.

    Attributes:
        seconds: for how long they arrived.
        sent: how many were sent.
        unsent: how many found no free connection.
        answered: milliseconds of each answer of status 200.
        refused: milliseconds of each of status 429.
        failed: how many got another answer, or none.
    """

    seconds: float
    sent: int = 0
    unsent: int = 0
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failed: int = 0


class _Connection(asyncio.Protocol):
    """A connection that stays open; one request at a time."""

    def __init__(self, free: deque[_Connection], outcome: Outcome) -> None:
        self._free, self._outcome = free, outcome
        self._got = b""
        self._since = 0.0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Marks the connection as free."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._free.append(self)

    def send(self, data: bytes) -> None:
        """Sends a request."""
        self._since = time.perf_counter()
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Counts a complete answer."""
        self._got += data
        end = self._got.find(b"\r\n\r\n")
        if end < 0:
            return
        length = self._got[:end].lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if len(self._got) < end + 4 + int(length):
            return
        taken, status = (time.perf_counter() - self._since) * 1e3, self._got[9:12]
        outcome = self._outcome
        if status == b"200":
            outcome.answered.append(taken)
        elif status == b"429":
            outcome.refused.append(taken)
        else:
            outcome.failed += 1
        self._got, self._since = b"", 0.0
        self._free.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Counts a request without an answer."""
        if self._since:
            self._outcome.failed += 1
        elif self in self._free:
            self._free.remove(self)


async def poisson_load(host: str, port: int, requests: list[bytes], rate: float, seconds: float) -> Outcome:
    """Sends requests as a Poisson process of this rate, over as many connections as are free, up to 512.

    Args:
        host: of the service.
        port: of the service.
        requests: as ``tests.load.closed_loop.request`` makes them; sent in order, over and over.
        rate: a second.
        seconds: for how long.
    """
    loop, random = asyncio.get_running_loop(), np.random.default_rng(0)
    free: deque[_Connection] = deque()
    outcome = Outcome(seconds)
    opened = [await loop.create_connection(lambda: _Connection(free, outcome), host, port) for _ in range(_CONNECTIONS)]
    due = np.cumsum(random.exponential(1 / rate, int(rate * seconds * 1.2))).tolist()
    began, at = time.perf_counter(), 0
    while at < len(due) and due[at] < seconds:
        now = time.perf_counter() - began
        while at < len(due) and due[at] <= min(now, seconds):
            if free:
                free.popleft().send(requests[at % len(requests)])
                outcome.sent += 1
            else:
                outcome.unsent += 1
            at += 1
        await asyncio.sleep(0.001)
    outcome.seconds = time.perf_counter() - began
    deadline = time.perf_counter() + _LAST_SECONDS
    while len(outcome.answered) + len(outcome.refused) + outcome.failed < outcome.sent:
        if time.perf_counter() > deadline:
            break
        await asyncio.sleep(0.01)
    outcome.failed = outcome.sent - len(outcome.answered) - len(outcome.refused)
    for transport, _ in opened:
        transport.close()
    return outcome


@app.command()
def main(
    times: Annotated[str, typer.Option(help="How many times the capacity, by comma.")] = "1,2,5,10",
    seconds: Annotated[float, typer.Option(callback=finite, min=1, max=60, help="Of each load.")] = 10.0,
    rounds: Annotated[int, typer.Option(min=1, max=9, help="Repetitions; the middle one is shown.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for the JSON.")] = Path("bench-results"),
) -> None:
    """Load the cloud with more verifications than it can handle."""
    random = np.random.default_rng(0)
    vectors = people(_TEMPLATES, _DIM)
    whose = random.integers(0, _TEMPLATES, _PROBES)
    probes = pictures_of(vectors[whose], random)
    with tempfile.TemporaryDirectory() as folder:
        home, port, pair = Path(folder), free_port(), Pair()
        contract = filled(home, vectors)
        environment = {
            "PATRONUS_HOME": str(home),
            "PATRONUS_CLOUD__LOG_LEVEL": "error",
            "PATRONUS_CLOUD__PORT": str(port),
            "PATRONUS_CLOUD__RATES__MATCHING": "unlimited",
        }
        try:
            pair.start("cloud", "cloud_service", f"http://127.0.0.1:{port}", environment)
            base = f"http://127.0.0.1:{port}/v1/galleries/{GALLERY}/subjects"
            key = read_secret(home / "cloud" / "api_key").decode().strip()
            requests = []
            for who, probe in zip(whose.tolist(), probes, strict=True):
                body = {"probe": TemplateEnvelope.pack(probe, contract.digest()).model_dump()}
                requests.append(request(f"{base}/s{who // PER_PERSON}/verify", key, json.dumps(body).encode()))
            lines = list(_measured(port, requests, [float(part) for part in times.split(",")], seconds, rounds))
        finally:
            pair.stop()
    out.mkdir(parents=True, exist_ok=True)
    (out / "overload.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Console().print(load_table(lines))


def _measured(
    port: int, requests: list[bytes], times: list[float], seconds: float, rounds: int
) -> list[dict[str, float]]:
    asyncio.run(closed_loop("127.0.0.1", port, requests, _CALLERS, 2))  # warm
    found: dict[float, list[dict[str, float]]] = {part: [] for part in times}
    for _ in range(rounds):
        # Measured in each round: other work on the machine changes it by the minute.
        capacity = asyncio.run(closed_loop("127.0.0.1", port, requests, _CALLERS, seconds / 2)).answered
        for part in times:
            outcome = asyncio.run(poisson_load("127.0.0.1", port, requests, part * capacity, seconds))
            found[part].append(_line(part, capacity, outcome))
    return [sorted(lines, key=lambda line: line["goodput_over_capacity"])[rounds // 2] for lines in found.values()]


def _line(part: float, capacity: float, outcome: Outcome) -> dict[str, float]:
    goodput = len(outcome.answered) / outcome.seconds

    def at(values: list[float], percent: float) -> float:
        return float(np.percentile(values, percent)) if values else float("nan")

    return {
        "times": part,
        "capacity": capacity,
        "sent_over_capacity": outcome.sent / outcome.seconds / capacity,
        "unsent": outcome.unsent / max(1, outcome.sent + outcome.unsent),
        "goodput": goodput,
        "goodput_over_capacity": goodput / capacity,
        "refused": len(outcome.refused) / max(1, outcome.sent),
        "failed": outcome.failed / max(1, outcome.sent),
        "answered_p50_ms": at(outcome.answered, 50),
        "answered_p99_ms": at(outcome.answered, 99),
        "refused_p50_ms": at(outcome.refused, 50),
        "refused_p99_ms": at(outcome.refused, 99),
    }


def load_table(lines: list[dict[str, float]]) -> Table:
    """A row for each load: what was sent, answered, refused and failed."""
    heads = ("load", "sent", "answered a second", "answered / capacity", "refused", "failed")
    percentiles = ("answered p50 ms", "answered p99 ms", "refused p50 ms", "refused p99 ms")
    names = ("answered_p50_ms", "answered_p99_ms", "refused_p50_ms", "refused_p99_ms")
    rows = (
        (
            f"{line['times']:g}",
            f"{line['sent_over_capacity']:.1f}",
            f"{line['goodput']:.0f}",
            f"{line['goodput_over_capacity']:.2f}",
            f"{line['refused']:.0%}",
            f"{line['failed']:.0%}",
            *(f"{line[name]:.0f}" for name in names),
        )
        for line in lines
    )
    return measurements(
        "Verifications that arrive at random",
        (*heads, *percentiles),
        rows,
        "load, sent: over the capacity; refused, failed: of what was sent",
    )


if __name__ == "__main__":
    run(app)
