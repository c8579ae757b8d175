"""``python -m tests.load.fairness``: latency of one key's verifications while another key floods the edge.

Three loads, one after the other:

- no other callers;
- callers of another key with ordinary pictures, who retry after ``Retry-After`` (or ``--again``) when they are refused;
- callers of that key with the most expensive picture, who hang up after 1.5 s and retry at once, or after 0.05 s.

The generator shares the machine with the pair.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import numpy as np
import typer
from PIL import Image
from rich.console import Console

from shared.command import run
from shared.processes.pair import Pair, free_port
from shared.security.credentials import UNLIMITED, Scope
from shared.security.key_ring import KeyRing
from shared.security.secret_files import read_secret
from tests.load.closed_loop import read_answer, request

_HOST: Final = "127.0.0.1"
_PICTURE: Final = Path(__file__).parents[2] / "tests" / "pictures" / "obama" / "portrait.jpg"
_SIDE: Final = 640
_BOUNDARY: Final = "patronus-fairness"
_PATIENCE_SECONDS: Final = 1.5
_HOSTILE_SECONDS: Final = 0.05
_IDLE_SECONDS: Final = 8.0
app = typer.Typer()


@dataclass(slots=True)
class Seen:
    """Answers to the callers of one key.

    Attributes:
        answered: milliseconds of each answer that was no refusal.
        refused: how many were answered 429.
        hung_up: how many callers did not wait for their answer.
        other: how many answers had any other status.
    """

    answered: list[float] = field(default_factory=list)
    refused: int = 0
    hung_up: int = 0
    other: int = 0

    def add(self, other: Seen) -> None:
        """Adds the figures of others."""
        self.answered += other.answered
        self.refused += other.refused
        self.hung_up += other.hung_up
        self.other += other.other

    def at(self, percent: float) -> float:
        """A percentile of the answers, in milliseconds."""
        return float(np.percentile(self.answered, percent)) if self.answered else float("nan")


@dataclass(frozen=True, slots=True)
class _Edge:
    port: int
    process: int
    ordinary: bytes
    flood: bytes
    dearest: bytes

    async def call(
        self, asked: bytes, seconds: float, seen: Seen, patience: float | None = None, again: float | None = None
    ) -> None:
        """Asks the same again and again, on one connection or, after hanging up, on a new one.

        Args:
            asked: the request.
            seconds: for how long.
            seen: where to count.
            patience: seconds after which it hangs up; None: never.
            again: seconds after which it asks again where it was refused; None: as the answer says.
        """
        until = time.perf_counter() + seconds
        reader, writer = await asyncio.open_connection(_HOST, self.port)
        while time.perf_counter() < until:
            began = time.perf_counter()
            writer.write(asked)
            try:
                async with asyncio.timeout(patience):
                    head, _ = await read_answer(reader)
            except TimeoutError:
                seen.hung_up += 1
                writer.transport.abort()
                reader, writer = await asyncio.open_connection(_HOST, self.port)
                continue
            status = int(head[9:12])
            if status == httpx.codes.TOO_MANY_REQUESTS:
                seen.refused += 1
                said = float(head.lower().partition(b"retry-after:")[2].partition(b"\r\n")[0])
                await asyncio.sleep(said if again is None else again)
            elif status in {httpx.codes.OK, httpx.codes.UNPROCESSABLE_ENTITY}:
                seen.answered.append((time.perf_counter() - began) * 1e3)
            else:
                seen.other += 1
        writer.transport.abort()

    def cpu_seconds(self) -> float:
        """What the edge's process has used so far."""
        user, system = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@app.command()
def main(
    seconds: Annotated[float, typer.Option(min=2, max=60, help="Of each load, in each round.")] = 10.0,
    rounds: Annotated[int, typer.Option(min=1, max=9, help="How often the loads take turns.")] = 3,
    callers: Annotated[int, typer.Option(min=1, max=200, help="Connections of the key that floods.")] = 36,
    again: Annotated[float | None, typer.Option(min=0, help="Seconds after which the refused ask again.")] = None,
    dearest: Annotated[Path | None, typer.Option(help="The picture that costs most; else one is made.")] = None,
) -> None:
    """Measure what one key's flood does to another key."""
    with tempfile.TemporaryDirectory() as folder:
        home, pair = Path(folder), Pair()
        cloud, edge = free_port(), free_port()
        environment = {
            "PATRONUS_HOME": folder,
            "PATRONUS_EDGE__LOG_LEVEL": "error",
            "PATRONUS_CLOUD__LOG_LEVEL": "error",
            "PATRONUS_EDGE__RATES__MATCHING": UNLIMITED,
            "PATRONUS_CLOUD__RATES__MATCHING": UNLIMITED,
            "PATRONUS_CLOUD__PORT": str(cloud),
            "PATRONUS_EDGE__PORT": str(edge),
            "PATRONUS_EDGE__CLOUD__URL": f"http://{_HOST}:{cloud}",
        }
        try:
            pair.start("cloud", "cloud_service", f"http://{_HOST}:{cloud}", environment)
            pair.start("edge", "edge_service", f"http://{_HOST}:{edge}", environment)
            process = pair.process_id("edge")
            tried = _prepared(home, edge, process, dearest.read_bytes() if dearest else _dearest())
            found = asyncio.run(_measured(tried, seconds, rounds, callers, again))
        finally:
            pair.stop()
    Console(soft_wrap=True).print_json(json.dumps(found))


def _prepared(home: Path, port: int, process: int, dearest: bytes) -> _Edge:
    url, picture = f"http://{_HOST}:{port}/v1/galleries/door", _smaller(_PICTURE)
    first = read_secret(home / "edge" / "api_key").decode().strip()
    key, _ = KeyRing(home / "edge" / "api_keys.json").add("flood", [Scope.MATCH], None)
    with httpx.Client(headers={"Authorization": f"Bearer {first}"}, timeout=60, trust_env=False) as client:
        client.put(url).raise_for_status()
        client.post(f"{url}/subjects/one/faces", files={"image": picture}).raise_for_status()
    kind = f"multipart/form-data; boundary={_BOUNDARY}"

    def verify(who: str, data: bytes) -> bytes:
        return request(f"{url}/subjects/one/verify", who, _form(data), kind=kind)

    return _Edge(port, process, verify(first, picture), verify(key, picture), verify(key, dearest))


async def _measured(edge: _Edge, seconds: float, rounds: int, callers: int, again: float | None) -> dict[str, Any]:
    await edge.call(edge.ordinary, 2, Seen())  # warm
    alone = Seen()
    for _ in range(3):
        await edge.call(edge.dearest, 0.01, alone)  # one call
    loads: dict[str, tuple[bytes, float | None, float | None] | None] = {
        "quiet": None,
        "ordinary": (edge.flood, None, again),
        "hostile": (edge.dearest, _PATIENCE_SECONDS, _HOSTILE_SECONDS),
    }
    ours, theirs = {name: Seen() for name in loads}, {name: Seen() for name in loads}
    after = []
    for _ in range(rounds):
        for name, load in loads.items():
            flood = (
                []
                if load is None
                else [
                    asyncio.create_task(edge.call(load[0], seconds + 1, theirs[name], *load[1:]))
                    for _ in range(callers)
                ]
            )
            await asyncio.sleep(1)
            await edge.call(edge.ordinary, seconds, ours[name])
            await asyncio.gather(*flood)
            if name == "hostile":
                before = edge.cpu_seconds()
                await asyncio.sleep(_IDLE_SECONDS)
                after.append(edge.cpu_seconds() - before)
    quiet, dear = ours["quiet"].at(99), max(alone.answered)
    found: dict[str, Any] = {"one_dearest_picture_ms": dear, "cpu_seconds_after_all_hung_up": after}
    for name, seen in ours.items():
        p99 = seen.at(99)
        found[name] = {
            "answered": len(seen.answered),
            "p50_ms": seen.at(50),
            "p99_ms": p99,
            "p99_over_quiet": p99 / quiet,
            "p99_less_quiet_over_dearest": (p99 - quiet) / dear,
            "refused": seen.refused,
            "other": seen.other,
            "flood_answered": len(theirs[name].answered),
            "flood_refused": theirs[name].refused,
            "flood_hung_up": theirs[name].hung_up,
        }
    return found


def _smaller(path: Path) -> bytes:
    with Image.open(path) as image:
        image.thumbnail((_SIDE, _SIDE))
        target = io.BytesIO()
        image.convert("RGB").save(target, "JPEG", quality=90)
    return target.getvalue()


def _dearest() -> bytes:
    target = io.BytesIO()
    Image.new("RGBA", (4990, 4990)).save(target, "WEBP", lossless=True)
    return target.getvalue()


def _form(picture: bytes) -> bytes:
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="p"\r\n\r\n'
    return head.encode() + picture + f"\r\n--{_BOUNDARY}--\r\n".encode()


if __name__ == "__main__":
    run(app)
