"""``make bench-subjects``: how fast a gallery with many sealed names is enrolled, listed, searched and renamed in."""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from lab.console_table import measurements
from shared.client import Client
from shared.command import run
from shared.processes.pair import running_pair
from shared.security.process_limits import usable_cpus
from shared.security.secret_files import read_secret

_DIM = 128
_A_REQUEST = 500
# Names of several scripts and lengths.
_NAMES = ("Ada Lovelace {}", "Renée Müller {}", "王小明 {}", "محمد {}", "Ίκαρος {}", "x{}")
app = typer.Typer()


@app.command()
def main(
    subjects: Annotated[int, typer.Option(min=1000, max=200_000, help="Subjects, each with one random template.")] = (
        100_000
    ),
    calls: Annotated[int, typer.Option(min=10, max=1000, help="Calls of each kind, one after the other.")] = 50,
    out: Annotated[Path, typer.Option(help="Folder for the JSON.")] = Path("bench-results"),
) -> None:
    """Time what is done with subjects, with a pair of its own."""
    names = [_NAMES[number % len(_NAMES)].format(number) for number in range(subjects)]
    random = np.random.default_rng(1)
    found: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        running_pair(Path(folder)) as (url, key_file),
        Client(url, api_key=read_secret(key_file).decode().strip(), timeout_s=120) as client,
    ):
        client.put_gallery("many")
        began = time.perf_counter()
        for start in range(0, subjects, _A_REQUEST):
            these = names[start : start + _A_REQUEST]
            rows = random.standard_normal((len(these), _DIM))
            client.enroll_subjects("many", these, rows / np.linalg.norm(rows, axis=1, keepdims=True))
        enrolled = subjects / (time.perf_counter() - began)
        found["first page after a start"] = _seconds(1, lambda _: client.list_subjects("many", limit=100))
        chosen = [names[number] for number in random.integers(0, subjects, calls)]
        found["page of 100"] = _seconds(calls, lambda n: client.list_subjects("many", limit=100, after=chosen[n]))
        found["page of 500"] = _seconds(calls, lambda n: client.list_subjects("many", limit=500, after=chosen[n]))
        found["search by prefix"] = _seconds(
            calls, lambda n: client.list_subjects("many", limit=100, prefix=chosen[n][:4])
        )
        found["find by exact name"] = _seconds(calls, lambda n: client.get_subject("many", chosen[n]))
        found["rename"] = _seconds(calls, lambda n: client.rename_subject("many", names[n], f"renamed {n}"))
        found["page after a rename"] = _after_each(
            calls,
            lambda n: client.rename_subject("many", f"renamed {n}", names[n]),
            lambda n: client.list_subjects("many", limit=100, after=chosen[n]),
        )
    table = [
        (what, f"{statistics.median(each) * 1000:,.1f}", f"{max(each) * 1000:,.1f}") for what, each in found.items()
    ]
    Console().print(f"enrolled: {enrolled:,.0f} subjects a second")
    Console().print(measurements(f"{subjects:,} subjects, ms", ("call", "p50", "longest"), table))
    out.mkdir(parents=True, exist_ok=True)
    results = {"cores": usable_cpus(), "machine": platform.machine(), "subjects": subjects}
    times = {what: [round(second * 1000, 2) for second in each] for what, each in found.items()}
    (out / "subjects.json").write_text(
        json.dumps(results | {"enrolled_a_second": enrolled, "ms": times}, indent=1) + "\n"
    )


def _seconds(calls: int, call: Callable[[int], object]) -> list[float]:
    return _after_each(calls, lambda _: None, call)


def _after_each(calls: int, before: Callable[[int], object], call: Callable[[int], object]) -> list[float]:
    """The time of each call, each after an untimed one."""
    times = []
    for number in range(calls):
        before(number)
        began = time.perf_counter()
        call(number)
        times.append(time.perf_counter() - began)
    return times


if __name__ == "__main__":
    run(app)
