"""``make bench-cloud``: throughput of identification and verification, compared with FAISS and a bare FastAPI route."""

from __future__ import annotations

import asyncio
import json
import operator
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import faiss
import httpx
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sqlalchemy import insert, update

from cloud_service.bootstrap import clock_of
from cloud_service.index.snapshots import Snapshots
from cloud_service.record.checksums import to_blobs
from cloud_service.record.opening import open_database
from cloud_service.record.record import Record
from cloud_service.record.tables import gallery as gallery_table
from cloud_service.record.tables import subject, template
from cloud_service.settings import RecordSettings, RetentionSettings
from lab.console_table import measurements
from shared.command import finite, run
from shared.contract import Contract, EmbedderPin, ProfilePin
from shared.envelope import TemplateEnvelope
from shared.processes.pair import Pair, free_port
from shared.security.credentials import UNLIMITED
from shared.security.process_limits import usable_cpus
from shared.security.secret_files import read_secret
from shared.wire.cloud import GallerySpec
from shared.wire.common import BEST, NewThreshold, SubjectScore
from tests.load import plain_fastapi
from tests.load.closed_loop import Load, answers, closed_loop, request

Rows = NDArray[np.float32]
TAU: Final = 0.384
PER_PERSON: Final = 4
# Cosines of two pictures of one person are about 0.65, as SFace's are.
_SPREAD: Final = 0.75
_BATCH: Final = 64
_PROBES: Final = 512
_SECONDS: Final = 10.0
_PAIRS: Final = 5
_RATIOS: Final = {"_least": 0, "": 50, "_most": 100}
_AT_A_TIME: Final = 50_000
_CAPTION: Final = (
    "/ FAISS, / product: answers over those of IndexFlatIP in batches of 64, and of the matrix product alone; "
    "memory: of the whole process, as a multiple of the vectors' own"
)
GALLERY: Final = "bench"
RULES: Final = {"mean": SubjectScore(rule="mean", exponents=[0.6, 0.7]), "best": BEST}
app = typer.Typer()


@app.command()
def main(
    sizes: Annotated[str, typer.Option(help="Templates, by comma.")] = "10000,100000,1000000",
    concurrency: Annotated[str, typer.Option(help="Callers at once, by comma.")] = "1,8,64",
    dim: Annotated[int, typer.Option(min=8, max=1024, help="Length of a template.")] = 128,
    rule: Annotated[str, typer.Option(help="How subjects are compared: mean or best.")] = "mean",
    seconds: Annotated[float, typer.Option(callback=finite, min=1, max=120, help="Of each load.")] = _SECONDS,
    out: Annotated[Path, typer.Option(help="Folder for the JSON.")] = Path("bench-results"),
) -> None:
    """Time the cloud under load on this machine, the load generator beside it."""
    console = Console(stderr=True)
    lines = []
    for size in (int(part) for part in sizes.split(",")):
        for line in _measured(size, [int(part) for part in concurrency.split(",")], dim, RULES[rule], seconds, console):
            lines.append(line)
            typer.echo(json.dumps(line))
    out.mkdir(parents=True, exist_ok=True)
    (out / "cloud.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    console.print(speed_table(lines))


def people(size: int, dim: int, seed: int = 0) -> Rows:
    """Unit embeddings of people, four pictures of each in sequence: (size, dim) float32."""
    random = np.random.default_rng(seed)
    centres = _unit(random.standard_normal((-(-size // PER_PERSON), dim), dtype=np.float32))
    return pictures_of(np.repeat(centres, PER_PERSON, axis=0)[:size], random)


def pictures_of(centres: Rows, random: np.random.Generator) -> Rows:
    """Another picture of each person: (n, dim) float32, unit rows at a cosine of about 0.65 to theirs."""
    noise = _unit(random.standard_normal(centres.shape, dtype=np.float32))
    return _unit(centres + _SPREAD * noise)


def _unit(rows: Rows) -> Rows:
    unit: Rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _measured(
    size: int, callers: list[int], dim: int, score: SubjectScore, seconds: float, console: Console
) -> Iterator[dict[str, Any]]:
    console.print(f"{size:,} templates of {dim} ...")
    vectors = people(size, dim)
    random = np.random.default_rng(1)
    whose = random.integers(0, size, _PROBES)
    probes = pictures_of(vectors[whose], random)
    about: dict[str, Any] = {
        "size": size,
        "dim": dim,
        "rule": score.rule,
        "cores": usable_cpus(),
        "machine": platform.machine(),
    }
    raw = _raw(vectors, probes)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        contract = filled(home, vectors, score)
        del vectors
        port = free_port()
        environment = {
            "PATRONUS_HOME": str(home),
            "PATRONUS_CLOUD__LOG_LEVEL": "error",
            "PATRONUS_CLOUD__PORT": str(port),
            "PATRONUS_CLOUD__RATES__MATCHING": UNLIMITED,
            "PATRONUS_CLOUD__RECORD__MAX_TEMPLATES_A_GALLERY": str(max(size, 1_000_000)),
        }
        with _served(environment, port) as (_, seconds_to_start):
            about["start_from_record_seconds"] = seconds_to_start
            key = read_secret(home / "cloud" / "api_key").decode().strip()
            cloud = httpx.Client(
                base_url=f"http://127.0.0.1:{port}/v1/galleries/{GALLERY}",
                headers={"Authorization": f"Bearer {key}"},
                timeout=600,
            )
            cloud.post("/snapshot").raise_for_status()
        envelopes = [TemplateEnvelope.pack(probe, contract.digest()).model_dump() for probe in probes]
        identify = [
            request(f"{cloud.base_url}identify", key, json.dumps({"probes": [one], "top_k": 5}).encode())
            for one in envelopes
        ]
        verify = [
            request(f"{cloud.base_url}subjects/s{who // PER_PERSON}/verify", key, json.dumps({"probe": one}).encode())
            for who, one in zip(whose.tolist(), envelopes, strict=True)
        ]
        with _served(environment, port) as (process, seconds_to_start):
            about["start_seconds"] = seconds_to_start

            def measured(what: str, requests: list[bytes]) -> Iterator[dict[str, Any]]:
                asyncio.run(closed_loop("127.0.0.1", port, requests, max(callers), 1))  # warm
                for count in callers:
                    load = asyncio.run(closed_loop("127.0.0.1", port, requests, count, seconds))
                    held = _resident(process)
                    line = about | {"what": what, "concurrency": count} | asdict(load) | _beside(what, count, load, raw)
                    if what == "verify":
                        line |= _beside_plain_fastapi(port, requests, count, seconds)
                    yield line | {"memory_bytes": held, "memory_over_vectors": held / (size * dim * 4)}

            cloud.put("/index", json={"kind": "exact"}).raise_for_status()
            yield from measured("identify", identify)
            right = _best(asyncio.run(answers("127.0.0.1", port, identify)))
            yield from measured("verify", verify)
        environment["PATRONUS_CLOUD__INDEX__EXACT_UP_TO"] = "0"
        with _served(environment, port) as (process, seconds_to_start):
            about["start_seconds"] = seconds_to_start
            if cloud.put("/index", json={"kind": "approximate"}).raise_for_status().json()["kind"] == "approximate":
                found = _best(asyncio.run(answers("127.0.0.1", port, identify)))
                about["recall_at_1"] = sum(map(operator.eq, found, right)) / len(right)
                yield from measured("identify approximate", identify)


def _best(answered: list[Any]) -> list[str | None]:
    """The best candidate for each probe, if any."""
    first = (answer["results"][0]["candidates"][:1] for answer in answered)
    return [candidates[0]["subject"] if candidates else None for candidates in first]


@contextmanager
def _served(environment: dict[str, str], port: int) -> Iterator[tuple[int, float]]:
    """A cloud that is ready: its process id, and the seconds until it was ready."""
    pair, began = Pair(), time.perf_counter()
    try:
        pair.start("cloud", "cloud_service", f"http://127.0.0.1:{port}", environment)
        yield pair.process_id("cloud"), time.perf_counter() - began
    finally:
        pair.stop()


def _raw(vectors: Rows, probes: Rows) -> dict[str, float]:
    """Seconds a query of FAISS's flat index, in batches and alone, and of the matrix product, which is the limit."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    for start in range(0, len(vectors), _AT_A_TIME):
        index.add(vectors[start : start + _AT_A_TIME])
    batch = np.ascontiguousarray(probes[:_BATCH])
    into = np.empty((_BATCH, 4096), np.float32)

    def product() -> None:
        for start in range(0, len(vectors), 4096):
            block = vectors[start : start + 4096]
            np.matmul(batch, block.T, out=into[:, : len(block)])

    return {
        "faiss_batch": _middle(lambda: index.search(batch, 32)) / _BATCH,
        "faiss_alone": _middle(lambda: index.search(batch[:1], 32)),
        "product": _middle(product) / _BATCH,
    }


def _middle(work: Callable[[], object], rounds: int = 5) -> float:
    work()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return sorted(taken)[rounds // 2]


def _beside(what: str, callers: int, load: Load, raw: dict[str, float]) -> dict[str, Any]:
    if not what.startswith("identify"):
        return {}
    found: dict[str, Any] = {
        "faiss_batches_of_64_per_second": 1 / raw["faiss_batch"],
        "faiss_alone_p50_ms": 1e3 * raw["faiss_alone"],
        "product_per_second": 1 / raw["product"],
        "ratio_to_faiss": load.answered * raw["faiss_batch"],
        "ratio_to_product": load.answered * raw["product"],
    }
    if callers == 1:
        found["p50_over_faiss_alone"] = load.p50 / (1e3 * raw["faiss_alone"])
    return found


def _beside_plain_fastapi(port: int, requests: list[bytes], callers: int, seconds: float) -> dict[str, float]:
    """Loads a bare FastAPI route and the cloud alternately with the same requests.

    Other work on the machine changes by the minute: the ratio is the median of some pairs of short loads.
    """
    pair, plain_port = Pair(), free_port()
    try:
        pair.start(
            "plain_fastapi",
            "tests.load.plain_fastapi",
            f"http://127.0.0.1:{plain_port}",
            {plain_fastapi.PORT: str(plain_port)},
        )
        asyncio.run(closed_loop("127.0.0.1", plain_port, requests, callers, 1))  # warm
        loads = [
            [
                asyncio.run(closed_loop("127.0.0.1", each, requests, callers, seconds / _PAIRS))
                for each in (port, plain_port)
            ]
            for _ in range(_PAIRS)
        ]
    finally:
        pair.stop()
    ratios = [ours.answered / alone.answered for ours, alone in loads]
    return {"verify_plain_fastapi": float(np.median([alone.answered for _, alone in loads]))} | {
        f"ratio_to_plain_fastapi{name}": float(np.percentile(ratios, share)) for name, share in _RATIOS.items()
    }


def filled(home: Path, vectors: Rows, score: SubjectScore = RULES["mean"]) -> Contract:
    """Makes a cloud's home with these templates, by writing to its record: the service would take hours."""
    contract = Contract(
        dim=vectors.shape[1],
        embedder=EmbedderPin(name="bench", sha256="0" * 64, preprocessing="none"),
        profile=ProfilePin(name="bench", version=1, sha256="0" * 64),
        seal=None,
    )
    folder = home / "cloud"
    folder.mkdir(mode=0o700)
    database = open_database(f"sqlite:///{folder / 'record.db'}", RecordSettings(), connections=2)
    try:
        spec = GallerySpec(contract=contract, threshold=NewThreshold(cosine=TAU, fmr=1e-3), score=score)
        snapshots = Snapshots(database, folder / "index")
        record = Record(database, snapshots, len(vectors), 1000, clock_of(RetentionSettings()))
        gallery, _ = record.put_gallery(GALLERY, spec, by=None)
        now = {"created_at": datetime.now(UTC), "gallery_id": gallery.id}
        with database.write() as connection:
            count = -(-len(vectors) // PER_PERSON)
            for start in range(0, count, _AT_A_TIME):
                some = range(start, min(start + _AT_A_TIME, count))
                connection.execute(
                    insert(subject),
                    [
                        {"id": at + 1, "name": f"s{at}", "entry_id": at + 1 if score.rule == "mean" else None, **now}
                        for at in some
                    ],
                )
            for start in range(0, len(vectors), _AT_A_TIME):
                some = range(start, min(start + _AT_A_TIME, len(vectors)))
                blobs = to_blobs(
                    vectors[some.start : some.stop],
                    np.ones(len(some)),
                    [f"s{at // PER_PERSON}" for at in some],
                    gallery.id,
                    gallery.key_version,
                )
                rows = [
                    {"subject_id": at // PER_PERSON + 1, "uid": f"{at:032x}", "vector": blob, **now}
                    for at, blob in zip(some, blobs, strict=True)
                ]
                connection.execute(insert(template), rows)
            connection.execute(update(gallery_table).values(templates=len(vectors), subjects=count, last_entry=count))
    finally:
        database.close()
    return contract


def _resident(process: int) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def speed_table(lines: list[dict[str, Any]]) -> Table:
    """A row for each size, operation and number of callers."""
    heads = (
        "templates",
        "operation",
        "callers",
        "a second",
        "p50 ms",
        "p99 ms",
        "/ FAISS",
        "/ product",
        "start s",
        "memory",
    )
    rows = (
        (
            f"{line['size']:,}",
            line["what"],
            str(line["concurrency"]),
            f"{line['answered']:.0f}",
            f"{line['p50']:.1f}",
            f"{line['p99']:.1f}",
            *(f"{line[name]:.2f}" if name in line else "" for name in ("ratio_to_faiss", "ratio_to_product")),
            f"{line['start_seconds']:.1f}",
            f"{line['memory_over_vectors']:.2f}",
        )
        for line in lines
    )
    return measurements("The cloud, and FAISS on the same templates", heads, rows, _CAPTION)


if __name__ == "__main__":
    run(app)
