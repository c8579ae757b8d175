"""``make bench-edge``: verifications over HTTP beside the models alone, OpenCV and a bare upload route.

Other work on the machine changes by the minute, so the loads take turns, a few seconds each, and a ratio is the median
over the rounds of what was measured in one round. Processor time a picture varies less than pictures a second.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import numpy as np
import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from lab.console_table import measurements
from shared.command import finite, run
from shared.processes.pair import Pair, free_port
from shared.security.credentials import UNLIMITED
from shared.security.process_limits import usable_cpus
from shared.security.secret_files import read_secret
from tests.load.closed_loop import closed_loop, request
from tests.load.edge import plain_upload
from tests.load.edge.models_alone import WAYS
from tests.load.edge.pictures import FORM, enrolled, form, pictures

_HOST: Final = "127.0.0.1"
_PATH: Final = "/v1/galleries/bench/subjects/obama/verify"
_LIMIT: Final = "decode, converted"
_STEPS: Final = ("decode", "detect", "align", "realign", "embed", "protect", "cloud")
_MODELS_CAPTION: Final = (
    "cpu: processor time of edge and cloud a picture; / models: answers over those of the models as published, without "
    "decoding, one a processor; / limit: over decoding and the converted models; cpu /: the same of processor time"
)
app = typer.Typer()
Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Services:
    """What is loaded: an edge with its cloud, a bare route, and the process that runs models alone."""

    edge_port: int
    plain_port: int
    key: str
    processes: dict[str, int]
    models: subprocess.Popen[str]

    def requests(self, port: int) -> list[bytes]:
        """A verification of each picture."""
        url = f"http://{_HOST}:{port}{_PATH}"
        return [request(url, self.key, form(each), kind=FORM) for each in pictures().values()]

    def alone(self, way: str, threads: int, seconds: float) -> Line:
        """What ``tests.load.edge.models_alone`` measures."""
        assert self.models.stdin is not None
        assert self.models.stdout is not None
        self.models.stdin.write(json.dumps({"way": way, "threads": threads, "seconds": seconds}) + "\n")
        self.models.stdin.flush()
        found: Line = json.loads(self.models.stdout.readline())
        return found

    def load(self, port: int, callers: int, seconds: float) -> Line:
        """A load of verifications."""
        found = asyncio.run(closed_loop(_HOST, port, self.requests(port), callers, seconds))
        return {"answered": found.answered, "refused": found.refused} | {
            name: getattr(found, name) for name in ("p50", "p95", "p99")
        }

    def edge(self, callers: int, seconds: float) -> Line:
        """A load of the edge, with its steps and its processor time a picture, in milliseconds."""
        used, steps = self._used(), self._steps()
        found = self.load(self.edge_port, callers, seconds)
        after, steps_after = self._used(), self._steps()
        count = max(1, steps_after["decode"][1] - steps["decode"][1])
        for name in self.processes:
            found[f"{name}_cpu_ms"] = (after[name] - used[name]) / count * 1e3
        found["cpu_ms"] = sum(found[f"{name}_cpu_ms"] for name in self.processes)
        found["steps_ms"] = {
            name: (steps_after[name][0] - steps.get(name, (0, 0))[0]) / count * 1e3 for name in steps_after
        }
        return found

    def peak_mb(self) -> dict[str, float]:
        """The most memory that each service has had."""
        return {name: _status(process, "VmHWM") for name, process in self.processes.items()}

    def _used(self) -> dict[str, float]:
        return {name: _cpu_seconds(process) for name, process in self.processes.items()}

    def _steps(self) -> dict[str, tuple[float, float]]:
        """Of each step of the edge: seconds so far, and how often it was taken."""
        text = httpx.get(f"http://{_HOST}:{self.edge_port}/metrics", headers=_bearer(self.key), trust_env=False).text
        sums: dict[str, dict[str, float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.startswith("patronus_edge_step_seconds_") and "le" not in sample.labels:
                    sums.setdefault(sample.labels["step"], {})[sample.name.rpartition("_")[2]] = sample.value
        return {name: (each["sum"], each["count"]) for name, each in sums.items()}


@app.command()
def main(
    callers: Annotated[str, typer.Option(help="Callers at once, by comma.")] = "1,2,8,32",
    seconds: Annotated[float, typer.Option(callback=finite, min=1, max=60, help="Of each load in each round.")] = 5.0,
    rounds: Annotated[int, typer.Option(min=1, max=50, help="How often the loads take turns.")] = 7,
    quick: Annotated[bool, typer.Option(envvar="QUICK", help="A minute: fewer callers, shorter loads.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the JSON.")] = Path("bench-results"),
) -> None:
    """Time an edge of its own on this machine, with its cloud and the load generator beside it."""
    counts = [int(part) for part in ("1,8" if quick else callers).split(",")]
    seconds, rounds = (1.5, 2) if quick else (seconds, rounds)
    found: list[dict[str, Line]] = []
    with _running() as services:
        for each in [*counts, 1]:  # warm
            services.edge(each, 1)
        for number in range(rounds):
            sys.stderr.write(f"round {number + 1} of {rounds} ...\n")
            found.append(_round(services, counts, seconds))
        peak = services.peak_mb()
    lines = [_line(found, count) for count in counts]
    lines += [_beside(found, way) for way in found[0] if not way.startswith("edge ")]
    about = {"cores": usable_cpus(), "machine": platform.machine(), "rounds": rounds, "seconds": seconds, "peak": peak}
    out.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(about | line) + "\n" for line in lines)
    (out / "edge.jsonl").write_text(text)
    typer.echo(text, nl=False)
    _show(lines, peak)


def _round(services: _Services, counts: list[int], seconds: float) -> dict[str, Line]:
    """All loads in turn, by name."""
    cores, made = usable_cpus(), {}
    made["published, alone"] = services.alone("published", 1, seconds)
    made["limit, alone"] = services.alone(_LIMIT, 1, seconds)
    for count in counts:
        made[f"edge {count}"] = services.edge(count, seconds)
        if count != counts[-1]:  # beside the loads, not all before or after them
            made.setdefault(_LIMIT, services.alone(_LIMIT, cores, seconds))
    for way in WAYS:
        if way not in made:
            made[way] = services.alone(way, cores, seconds)
    made["upload route"] = services.load(services.plain_port, 8, seconds)
    return made


@contextmanager
def _running() -> Iterator[_Services]:
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cloud, edge, plain = free_port(), free_port(), free_port()
        environment = {
            "PATRONUS_HOME": str(home),
            "PATRONUS_EDGE__LOG_LEVEL": "error",
            "PATRONUS_CLOUD__LOG_LEVEL": "error",
            "PATRONUS_CLOUD__PORT": str(cloud),
            "PATRONUS_EDGE__PORT": str(edge),
            "PATRONUS_EDGE__CLOUD__URL": f"http://{_HOST}:{cloud}",
            "PATRONUS_EDGE__RATES__MATCHING": UNLIMITED,
            # One key may fill three quarters of the queue, and all callers here have the same one.
            "PATRONUS_EDGE__WORK__WAITING": "64",
            "PATRONUS_CLOUD__RATES__MATCHING": UNLIMITED,
            plain_upload.PORT: str(plain),
        }
        pair = Pair()
        stack.callback(pair.stop)
        pair.start("cloud", "cloud_service", f"http://{_HOST}:{cloud}", environment)
        pair.start("edge", "edge_service", f"http://{_HOST}:{edge}", environment)
        pair.start("upload route", "tests.load.edge.plain_upload", f"http://{_HOST}:{plain}", environment)
        models = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "tests.load.edge.models_alone"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # OpenCV warns of its own engine
                text=True,
            )
        )
        key = read_secret(home / "edge" / "api_key").decode().strip()
        with httpx.Client(
            base_url=f"http://{_HOST}:{edge}", headers=_bearer(key), trust_env=False, timeout=60
        ) as client:
            client.put("/v1/galleries/bench").raise_for_status()
            client.post("/v1/galleries/bench/subjects/obama/faces", files={"image": enrolled()}).raise_for_status()
        yield _Services(edge, plain, key, {name: pair.process_id(name) for name in ("edge", "cloud")}, models)
        assert models.stdin is not None
        models.stdin.close()


def _line(found: list[dict[str, Line]], count: int) -> Line:
    """The edge's figures with so many callers: the median of the rounds."""
    name = f"edge {count}"
    line = {"what": "verify", "callers": count} | _medians([each[name] for each in found])
    steps = [each[name]["steps_ms"] for each in found]
    line["steps_ms"] = _medians(steps)
    line["ratio_to_models"] = _ratio(found, (name, "answered"), ("published", "answered"))
    line["ratio_to_models_decoded"] = _ratio(found, (name, "answered"), ("decode, published", "answered"))
    line["ratio_to_limit"] = _ratio(found, (name, "answered"), (_LIMIT, "answered"))
    line["ratio_to_opencv"] = _ratio(found, (name, "answered"), ("OpenCV", "answered"))
    line["cpu_ratio_to_models"] = _ratio(found, ("published", "cpu_ms"), (name, "cpu_ms"))
    line["cpu_ratio_to_limit"] = _ratio(found, (_LIMIT, "cpu_ms"), (name, "cpu_ms"))
    if count == 1:
        line["ms_beside_decode_and_models"] = float(
            np.median([each[name]["p50"] - each["limit, alone"]["p50"] for each in found])
        )
    return line


def _beside(found: list[dict[str, Line]], way: str) -> Line:
    return {"what": way} | _medians([each[way] for each in found])


def _medians(lines: list[Line]) -> Line:
    return {
        name: float(np.median([line[name] for line in lines if name in line]))
        for name, value in lines[0].items()
        if isinstance(value, float)
    }


def _ratio(found: list[dict[str, Line]], above: tuple[str, str], below: tuple[str, str]) -> float:
    """The median over the rounds of one figure over another one."""
    return float(np.median([each[above[0]][above[1]] / each[below[0]][below[1]] for each in found]))


def _show(lines: list[Line], peak: dict[str, float]) -> None:
    console = Console()
    loads = [line for line in lines if line["what"] == "verify"]
    heads = (
        "callers",
        "a second",
        "p50 ms",
        "p95",
        "p99",
        "cpu ms",
        "/ models",
        "/ limit",
        "cpu / models",
        "cpu / limit",
    )
    figures = (("answered", 1), ("p50", 0), ("p95", 0), ("p99", 0), ("cpu_ms", 1), ("ratio_to_models", 2),
               ("ratio_to_limit", 2), ("cpu_ratio_to_models", 2), ("cpu_ratio_to_limit", 2))  # fmt: skip
    rows = [(str(line["callers"]), *_shown(line, figures)) for line in loads]
    console.print(measurements("verify over HTTP", heads, rows, _MODELS_CAPTION))
    steps = [(str(line["callers"]), *(f"{line['steps_ms'].get(step, 0):.1f}" for step in _STEPS)) for line in loads]
    console.print(measurements("steps, ms in the mean", ("callers", *_STEPS), steps))
    others = [
        (line["what"], *_shown(line, (("answered", 1), ("p50", 1)))) for line in lines if line["what"] != "verify"
    ]
    console.print(measurements("beside it", ("what", "a second", "p50 ms"), others))
    lone = [line["ms_beside_decode_and_models"] for line in loads if "ms_beside_decode_and_models" in line]
    console.print(*(f"a lone verification less decoding and models: {value:.1f} ms" for value in lone))
    console.print("most memory: " + ", ".join(f"{name} {value:.0f} MB" for name, value in peak.items()))


def _shown(line: Line, figures: Iterable[tuple[str, int]]) -> list[str]:
    return [f"{line[name]:.{digits}f}" for name, digits in figures]


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _cpu_seconds(process: int) -> float:
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _status(process: int, name: str) -> float:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    return float("nan")


if __name__ == "__main__":
    run(app)
