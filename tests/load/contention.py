"""``make contention``: latency of searches at a fixed rate, while others enroll and erase."""

from __future__ import annotations

import asyncio
import base64
import json
import tempfile
import uuid
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from rich.console import Console

from shared.command import finite, run
from shared.processes.pair import Pair, free_port
from shared.security.credentials import UNLIMITED
from shared.security.secret_files import read_secret
from tests.load.bench_cloud import filled, people
from tests.load.closed_loop import closed_loop, request
from tests.load.open_loop import Request, Response, open_loop

_HOST: Final = "127.0.0.1"
_GALLERY: Final = "bench"
_PROBES: Final = 256
_CALLERS: Final = 8
_CONNECTIONS: Final = 64
_WARM_SECONDS: Final = 2.0
_ROUNDS: Final = 6
app = typer.Typer()


@dataclass(frozen=True, slots=True)
class _Cloud:
    """A running cloud with a filled gallery."""

    port: int
    key: str
    digest: str
    probes: list[bytes]

    def enroll(self, subject: str, row: np.ndarray[Any, Any]) -> bytes:
        body = {"templates": [{"id": uuid.uuid4().hex, "template": envelope(row, self.digest)}]}
        return self._request("POST", f"/subjects/{subject}/templates", json.dumps(body).encode())

    def erase(self, subject: str) -> bytes:
        return self._request("DELETE", f"/subjects/{subject}", b"")

    def _request(self, method: str, path: str, body: bytes) -> bytes:
        return request(f"http://{_HOST}:{self.port}/v1/galleries/{_GALLERY}{path}", self.key, body, method)


@app.command()
def main(
    sizes: Annotated[str, typer.Option(help="Templates, by comma.")] = "1000000",
    dim: Annotated[int, typer.Option(min=8, max=1024, help="Length of a template.")] = 128,
    share: Annotated[
        float, typer.Option(callback=finite, min=0.05, max=0.9, help="Share of the cloud's capacity.")
    ] = 0.5,
    writes: Annotated[
        float, typer.Option(callback=finite, min=0.1, help="Enrollments a second, and as many erasures.")
    ] = 5.0,
    seconds: Annotated[float, typer.Option(callback=finite, min=2, help="Of each load, in rounds.")] = 60.0,
    out: Annotated[Path, typer.Option(help="Folder for the JSON.")] = Path("bench-results"),
) -> None:
    """Time searches without writers, beside one that enrolls, and beside one that enrolls and one that erases."""
    console = Console(stderr=True)
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    for size in (int(part) for part in sizes.split(",")):
        console.print(f"{size:,} templates of {dim} ...")
        lines.append(_measured(size, dim, share, writes, seconds))
        typer.echo(json.dumps(lines[-1]))
    (out / "contention.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def envelope(row: np.ndarray[Any, Any], digest: str) -> dict[str, Any]:
    """A template as it goes over the wire."""
    data = base64.b64encode(row.astype("<f4").tobytes()).decode()
    return {"version": 1, "contract": digest, "dim": len(row), "dtype": "float32", "data": data}


def _measured(size: int, dim: int, share: float, writes: float, seconds: float) -> dict[str, Any]:
    vectors = people(size, dim)
    new = people(4 * int(3 * seconds * writes + 8), dim, seed=2)
    probes = vectors[np.random.default_rng(1).integers(0, size, _PROBES)]
    with tempfile.TemporaryDirectory() as folder:
        home, pair, port = Path(folder), Pair(), free_port()
        digest = filled(home, vectors).digest()
        del vectors
        environment = {
            "PATRONUS_HOME": folder,
            "PATRONUS_CLOUD__LOG_LEVEL": "error",
            "PATRONUS_CLOUD__RATES__MATCHING": UNLIMITED,
            "PATRONUS_CLOUD__PORT": str(port),
            "PATRONUS_CLOUD__RECORD__MAX_TEMPLATES_A_GALLERY": str(2 * size + 1_000_000),
        }
        try:
            pair.start("cloud", "cloud_service", f"http://{_HOST}:{port}", environment)
            key = read_secret(home / "cloud" / "api_key").decode().strip()
            url = f"http://{_HOST}:{port}/v1/galleries/{_GALLERY}/identify"
            searches = [
                request(url, key, json.dumps({"probes": [envelope(row, digest)], "top_k": 5}).encode())
                for row in probes
            ]
            return {"size": size, "dim": dim} | asyncio.run(
                _compared(_Cloud(port, key, digest, searches), new, share, writes, seconds)
            )
        finally:
            pair.stop()


async def _compared(
    cloud: _Cloud, new: np.ndarray[Any, Any], share: float, writes: float, seconds: float
) -> dict[str, Any]:
    await closed_loop(_HOST, cloud.port, cloud.probes, _CALLERS, _WARM_SECONDS)
    capacity = (await closed_loop(_HOST, cloud.port, cloud.probes, _CALLERS, max(_WARM_SECONDS, seconds / 4))).answered
    rate = share * capacity
    rows, there = iter(new), deque[str]()
    one, other = (_Writer(cloud, rows, there, writes, erases=erases) for erases in (False, True))
    loads: dict[str, list[_Writer]] = {"quiet": [], "enrolling": [one], "enrolling_and_erasing": [one, other]}
    # In rounds: other work on the machine changes by the minute. A load is compared with the quiet one of its round.
    # The report has the median of these ratios, and the ratio of all rounds together.
    answers: dict[str, list[list[Response]]] = {name: [] for name in loads}
    for _ in range(_ROUNDS):
        for name, writers in loads.items():
            answers[name].append(await _searched(cloud, rate, seconds / _ROUNDS, writers))
    found: dict[str, Any] = {"capacity": capacity, "searches_a_second": rate, "writes_a_second": writes}
    times = {name: _times([answer for one in rounds for answer in one]) for name, rounds in answers.items()}
    p99 = {name: np.array([_times(one)["p99"] for one in rounds]) for name, rounds in answers.items()}
    for name, load in times.items():
        found[name] = load
        ratios = p99[name] / p99["quiet"]
        found[f"{name}_p99_ratio"] = float(np.median(ratios))
        found[f"{name}_p99_ratio_of_all"] = load["p99"] / times["quiet"]["p99"]
        found[f"{name}_p99_ratios"] = ratios.round(2).tolist()
    return found


@dataclass(frozen=True, slots=True)
class _Writer:
    """Enrolls new subjects, or erases those, at a rate."""

    cloud: _Cloud
    rows: Any
    there: deque[str]
    rate: float
    erases: bool

    def draw(self) -> Request:
        if self.erases and self.there:
            return Request("erase", self.cloud.erase(self.there.popleft()))
        subject = f"new-{uuid.uuid4().hex}"
        return Request(
            "enroll", self.cloud.enroll(subject, next(self.rows)), lambda _status: self.there.append(subject)
        )


async def _searched(cloud: _Cloud, rate: float, seconds: float, writers: list[_Writer]) -> list[Response]:
    answers: list[Response] = []
    probes = iter(int(at) for at in np.random.default_rng(3).integers(0, len(cloud.probes), int(rate * seconds) + 1))

    def search() -> Request:
        return Request("search", cloud.probes[next(probes)])

    async with asyncio.TaskGroup() as loads:
        loads.create_task(open_loop(_HOST, cloud.port, search, rate, seconds, _CONNECTIONS, answers.append))
        for writer in writers:
            loads.create_task(open_loop(_HOST, cloud.port, writer.draw, writer.rate, seconds, 1, answers.append))
    return answers


def _times(answers: list[Response]) -> dict[str, Any]:
    found: dict[str, Any] = {"not_answered": sum(not answer.ok for answer in answers)}
    for kind in sorted({answer.kind for answer in answers}):
        times = [answer.ms for answer in answers if answer.kind == kind and answer.ok]
        p50, p99 = np.percentile(times, [50, 99]) if times else (float("nan"),) * 2
        prefix = "" if kind == "search" else f"{kind}_"
        found |= {f"{prefix}answers": len(times), f"{prefix}p50": float(p50), f"{prefix}p99": float(p99)}
    return found


if __name__ == "__main__":
    run(app)
