"""``make soak``: a steady mixed load for a long time; measures the growth of memory, descriptors and files."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from lab.console_table import measurements
from shared.command import finite, run
from shared.processes.pair import Pair, free_port
from shared.security.credentials import UNLIMITED
from shared.security.secret_files import read_secret
from tests.load.closed_loop import request
from tests.load.crash.model import TAU, Vectors, contract_of
from tests.load.open_loop import Request, Response, open_loop

_HOST: Final = "127.0.0.1"
_PICTURES: Final = Path(__file__).parents[2] / "tests" / "pictures"
_GALLERY: Final = "soak"
_CONNECTIONS: Final = 16
# Of the whole time, the share in which caches and pools fill; it is not judged.
_WARM_UP: Final = 0.25
_MAY_GROW: Final = 1.05
_COME_AND_GO: Final = frozenset({"descriptors", "threads"})
_BOUNDARY: Final = b"soak-part"
app = typer.Typer()


@dataclass(frozen=True, slots=True)
class Sample:
    """Figures of one process and of its folder at one moment.

    Attributes:
        at: seconds from the beginning.
        memory_bytes: resident.
        descriptors: open ones.
        wal_bytes: of the record's write-ahead log; 0 for the edge.
        file_bytes: of all files of its folder.
        p99: milliseconds of the answers since the sample before; nan where there were none.
    """

    service: str
    at: float
    memory_bytes: int
    descriptors: int
    threads: int
    wal_bytes: int
    file_bytes: int
    p99: float


class _Mix:
    """Draws requests: half of the writes enroll a new subject, half erase one of those.

    Args:
        make: makes a request of a kind (verify, identify, enroll, erase) about a subject.
        standing: subjects that are never erased, to be verified.
    """

    def __init__(self, make: Callable[[str, str], bytes], standing: list[str]) -> None:
        self._make = make
        self._standing = standing
        self._present: list[str] = []
        self._chance = random.Random(1)

    def draw(self) -> Request:
        """The next request."""
        kind = self._chance.choices(("identify", "verify", "enroll", "erase"), (4, 3, 1.5, 1.5))[0]
        if kind == "erase" and self._present:
            at = self._chance.randrange(len(self._present))
            self._present[at], self._present[-1] = self._present[-1], self._present[at]
            return Request(kind, self._make(kind, self._present.pop()))
        if kind in {"erase", "enroll"}:
            subject = f"s{uuid.uuid4().hex[:12]}"
            done = self._present.append
            return Request(
                "enroll", self._make("enroll", subject), lambda status: done(subject) if status == 201 else None
            )
        return Request(kind, self._make(kind, self._chance.choice(self._standing)))


@app.command()
def main(
    minutes: Annotated[float, typer.Option(callback=finite, min=0.2, help="How long.")] = 20.0,
    rate: Annotated[float, typer.Option(callback=finite, min=1, help="Requests a second.")] = 40.0,
    standing: Annotated[int, typer.Option(min=8, max=20_000, help="Templates that are there all the time.")] = 2_000,
    pictures: Annotated[bool, typer.Option("--pictures", help="Pictures to an edge, too.")] = False,
    picture_rate: Annotated[float, typer.Option(callback=finite, min=0.1, help="Pictures a second.")] = 3.0,
    every: Annotated[float, typer.Option(callback=finite, min=0.5, help="Seconds between two samples.")] = 5.0,
    out: Annotated[Path, typer.Option(help="Folder for the JSON.")] = Path("bench-results"),
) -> None:
    """Load a cloud, or a pair, steadily; the exit status is 1 where memory, descriptors or threads grow."""
    out.mkdir(parents=True, exist_ok=True)
    services = ["cloud", "edge"] if pictures else ["cloud"]
    ports = {name: free_port() for name in services}
    pair = Pair()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        environment = {"PATRONUS_HOME": folder}
        for name, port in ports.items():
            environment |= {f"PATRONUS_{name.upper()}__PORT": str(port), f"PATRONUS_{name.upper()}__LOG_LEVEL": "error"}
            environment[f"PATRONUS_{name.upper()}__RATES__MATCHING"] = UNLIMITED
        environment["PATRONUS_EDGE__CLOUD__URL"] = f"http://{_HOST}:{ports['cloud']}"
        try:
            for name, port in ports.items():
                pair.start(name, f"{name}_service", f"http://{_HOST}:{port}", environment)
            loads = [(ports["cloud"], _templates(home, ports["cloud"], standing), rate)]
            if pictures:
                loads.append((ports["edge"], _faces(home, ports["edge"]), picture_rate))
            processes = {name: pair.process_id(name) for name in services}
            samples, answers = _soaked(home, processes, ports, loads, 60 * minutes, every)
        finally:
            pair.stop()
    verdict = judged(samples, answers)
    (out / "soak.json").write_text(json.dumps({**verdict, "samples": [asdict(one) for one in samples]}, indent=1))
    Console(stderr=True).print(growth_table(samples))
    typer.echo(json.dumps(verdict))
    if not verdict["sound"]:
        raise typer.Exit(1)


def judged(samples: list[Sample], answers: list[Response]) -> dict[str, Any]:
    """Compares the last third of the time after warming up with the first third.

    Memory may grow by 5 % of its median. Of descriptors and threads, which come and go with
    connections to the record, the maximum may not grow. Every request must succeed or be refused for load.
    """
    found: dict[str, Any] = {"sound": True, "requests": len(answers)}
    failed = [answer for answer in answers if not answer.ok and answer.status != httpx.codes.TOO_MANY_REQUESTS]
    found["failed"], found["refused"] = len(failed), sum(not answer.ok for answer in answers) - len(failed)
    found["sound"] = not failed
    for service in dict.fromkeys(sample.service for sample in samples):
        its = [sample for sample in samples if sample.service == service]
        its = its[int(_WARM_UP * len(its)) :]
        third = max(1, len(its) // 3)
        for name in ("memory_bytes", "descriptors", "threads", "wal_bytes", "file_bytes"):
            what = np.max if name in _COME_AND_GO else np.median
            first, last = (float(what([getattr(one, name) for one in part])) for part in (its[:third], its[-third:]))
            found[f"{service}_{name}"] = [first, last]
            may_grow = {"memory_bytes": _MAY_GROW, "descriptors": 1.0, "threads": 1.0}.get(name)
            if may_grow is not None and last > may_grow * first:
                found["sound"] = False
        found[f"{service}_p99_ms"] = [
            float(np.nanmedian([one.p99 for one in part])) for part in (its[:third], its[-third:])
        ]
    return found


def _soaked(
    home: Path,
    processes: dict[str, int],
    ports: dict[str, int],
    loads: list[tuple[int, _Mix, float]],
    seconds: float,
    every: float,
) -> tuple[list[Sample], list[Response]]:
    samples: list[Sample] = []
    answers: dict[str, list[Response]] = {name: [] for name in processes}
    over = threading.Event()

    def watch() -> None:
        began, seen = time.perf_counter(), dict.fromkeys(processes, 0)
        while not over.wait(every):
            for name, process in processes.items():
                times = [answer.ms for answer in answers[name][seen[name] :] if answer.ok]
                seen[name] = len(answers[name])
                p99 = float(np.percentile(times, 99)) if times else float("nan")
                samples.append(_sampled(name, process, home / name, time.perf_counter() - began, p99))

    async def load() -> None:
        names = {port: name for name, port in ports.items()}
        async with asyncio.TaskGroup() as going:
            for port, mix, rate in loads:
                tell = answers[names[port]].append
                going.create_task(open_loop(_HOST, port, mix.draw, rate, seconds, _CONNECTIONS, tell))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        asyncio.run(load())
    finally:
        over.set()
        watcher.join()
    return samples, [answer for each in answers.values() for answer in each]


def _sampled(service: str, process: int, folder: Path, at: float, p99: float) -> Sample:
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines() if ":" in line
    )
    sizes = {}
    for file in folder.rglob("*"):
        try:
            sizes[file.name] = file.stat().st_size
        except FileNotFoundError:  # a temporary one
            continue
    return Sample(
        service=service,
        at=at,
        memory_bytes=int(status["VmRSS"].split()[0]) * 1024,
        descriptors=_descriptors(process, status),
        threads=int(status["Threads"]),
        wal_bytes=sizes.get("record.db-wal", 0),
        file_bytes=sum(sizes.values()),
        p99=p99,
    )


def _templates(home: Path, port: int, standing: int) -> _Mix:
    """Fills a gallery of the cloud, and makes requests to it."""
    url, key = f"http://{_HOST}:{port}/v1/galleries/{_GALLERY}", _key(home / "cloud")
    vectors, chance = Vectors(1), random.Random(2)
    numbers = {f"standing-{number}": number for number in range(standing)}
    with httpx.Client(headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=30) as client:
        spec = {
            "contract": contract_of(0).model_dump(mode="json"),
            "threshold": {"cosine": TAU, "fmr": 0.001},
            "score": {"rule": "best"},
        }
        client.put(url, json=spec).raise_for_status()
        for subject, number in numbers.items():
            body = {"templates": [{"id": f"{number:032x}", "template": vectors.envelope(number, 0)}]}
            client.post(f"{url}/subjects/{subject}/templates", json=body).raise_for_status()

    def make(kind: str, subject: str) -> bytes:
        probe = vectors.envelope(numbers.get(subject, chance.randrange(standing)), 0)
        if kind == "identify":
            return request(f"{url}/identify", key, json.dumps({"probes": [probe], "top_k": 5}).encode())
        if kind == "verify":
            return request(f"{url}/subjects/{subject}/verify", key, json.dumps({"probe": probe}).encode())
        if kind == "erase":
            return request(f"{url}/subjects/{subject}", key, b"", "DELETE")
        new = {"id": uuid.uuid4().hex, "template": Vectors(chance.randrange(1 << 40)).envelope(0, 0)}
        return request(f"{url}/subjects/{subject}/templates", key, json.dumps({"templates": [new]}).encode())

    return _Mix(make, list(numbers))


def _faces(home: Path, port: int) -> _Mix:
    """Makes a gallery of the edge with one person, and requests with the sample pictures to it."""
    url, key = f"http://{_HOST}:{port}/v1/galleries/faces", _key(home / "edge")
    pictures = [path.read_bytes() for path in sorted(_PICTURES.glob("*/*.*"))]
    chance = random.Random(3)
    with httpx.Client(headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=30) as client:
        client.put(url).raise_for_status()
        client.post(f"{url}/subjects/standing/faces", files={"image": pictures[-1]}).raise_for_status()

    def make(kind: str, subject: str) -> bytes:
        if kind == "erase":
            return request(f"{url}/subjects/{subject}", key, b"", "DELETE")
        disposition = b'Content-Disposition: form-data; name="image"; filename="face"\r\n\r\n'
        head = b"--" + _BOUNDARY + b"\r\n" + disposition
        body = head + chance.choice(pictures) + b"\r\n--" + _BOUNDARY + b"--\r\n"
        paths = {"identify": "identify", "verify": f"subjects/{subject}/verify", "enroll": f"subjects/{subject}/faces"}
        form = f"multipart/form-data; boundary={_BOUNDARY.decode()}"
        return request(f"{url}/{paths[kind]}", key, body, kind=form)

    return _Mix(make, ["standing"])


def _descriptors(process: int, status: dict[str, str]) -> int:
    try:
        return sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())
    except PermissionError:  # services let none but root look into them; this is the room that they have for open files
        return int(status["FDSize"])


def _key(folder: Path) -> str:
    return read_secret(folder / "api_key").decode().strip()


def growth_table(samples: list[Sample]) -> Table:
    """Some forty of the samples, in order of time."""
    heads = ("service", "minute", "memory MB", "descriptors", "threads", "WAL kB", "files MB", "p99 ms")
    rows = (
        (
            sample.service,
            f"{sample.at / 60:.1f}",
            f"{sample.memory_bytes / 1e6:.1f}",
            str(sample.descriptors),
            str(sample.threads),
            f"{sample.wal_bytes / 1e3:.0f}",
            f"{sample.file_bytes / 1e6:.1f}",
            f"{sample.p99:.0f}",
        )
        for sample in samples[:: max(1, len(samples) // 40)]
    )
    return measurements("Growth under a steady load", heads, rows)


if __name__ == "__main__":
    run(app)
