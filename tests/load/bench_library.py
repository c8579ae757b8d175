"""``make bench-library``: the time of ``Protector.protect``, for one embedding and for many."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from lab.console_table import measurements
from patronus_face import Key, Protector
from shared.command import run

_WARM_UP = 50
_ROWS = 2048
app = typer.Typer()


@app.command()
def main(
    rounds: Annotated[int, typer.Option(min=100, max=1_000_000, help="Embeddings, one at a time.")] = 5000,
    out: Annotated[Path, typer.Option(help="Folder for the JSON.")] = Path("bench-results"),
) -> None:
    """Time the library in this process, on random embeddings of each one's dimension."""
    results: dict[str, object] = {"machine": platform.machine(), "rounds": rounds, "import_cpu_s": _import_seconds()}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for profile, dim in (("default-2", 128), ("seal", 128), ("seal", 512)):
            name = f"{profile}, {dim} values"
            key = Key.load_or_create(Path(folder) / f"{profile}-{dim}.key")
            found = _time(Protector.open(profile, key=key, dim=dim), dim, rounds)
            results[name] = found
            rows.append((name, *(f"{value:,.3f}" for value in found.values())))
    columns = ("profile", "p50 ms", "p95 ms", "embeddings/s", "CPU ms, one of many")
    Console().print(f"import of Key and Protector: {results['import_cpu_s']:.2f} s of CPU")
    Console().print(measurements("patronus_face.Protector.protect", columns, rows))
    out.mkdir(parents=True, exist_ok=True)
    (out / "library.json").write_text(json.dumps(results, indent=1) + "\n")


def _import_seconds() -> float:
    """The least of three."""
    program = (
        "import time; b = time.process_time(); from patronus_face import Key, Protector; print(time.process_time() - b)"
    )
    command = [sys.executable, "-c", program]
    return min(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(3))


def _time(protector: Protector, dim: int, rounds: int) -> dict[str, float]:
    rows = np.random.default_rng(1).standard_normal((_ROWS, dim)).astype(np.float32)
    one_at_a_time = []
    for number in range(_WARM_UP + rounds):
        row = rows[number % _ROWS]
        began = time.perf_counter()
        protector.protect(row)
        one_at_a_time.append((time.perf_counter() - began) * 1000)
    p50, p95 = (float(value) for value in np.percentile(one_at_a_time[_WARM_UP:], [50, 95]))
    many = max(1, rounds // _ROWS)
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(many):
        protector.protect(rows)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    return {
        "p50_ms": round(p50, 3),
        "p95_ms": round(p95, 3),
        "embeddings_a_second": round(many * _ROWS / seconds),
        "cpu_ms_of_many": round(cpu_seconds / (many * _ROWS) * 1000, 4),
    }


if __name__ == "__main__":
    run(app)
