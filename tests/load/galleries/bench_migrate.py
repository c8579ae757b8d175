"""``make bench-migrate``: how fast stored embeddings are migrated into a gallery, and protected in a file."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from lab.console_table import measurements
from shared.client import Client
from shared.command import run
from shared.processes.pair import running_pair
from shared.security.process_limits import usable_cpus
from shared.security.secret_files import read_secret

_DIM = 128
# Embeddings of one subject: they match each other.
_OF_A_SUBJECT = 4
_SPREAD = 0.05
# Fewer subjects take the slow way, one request each.
_ONE_BY_ONE = 250
app = typer.Typer()


@app.command()
def main(
    embeddings: Annotated[int, typer.Option(min=1000, max=10_000_000, help="Random embeddings, 4 a subject.")] = 20_000,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Rounds, one after the other.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for the JSON.")] = Path("bench-results"),
) -> None:
    """Time ``patronus migrate`` and ``protect`` with a pair of its own, beside a request for each subject."""
    found: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder, running_pair(Path(folder)) as (url, key_file):
        rows, subjects = _people(embeddings)
        source = Path(folder) / "in.npz"
        np.savez(source, embeddings=rows, subjects=np.array(subjects))
        environment = {"PATRONUS_HOME": folder, "PATRONUS_EDGE_URL": url}
        with Client(url, api_key=read_secret(key_file).decode().strip()) as client:
            for number in range(rounds):
                client.put_gallery(f"each-{number}")
                client.put_gallery(f"bulk-{number}")
                each = _one_by_one(client, f"each-{number}", rows, subjects)
                bulk = embeddings / _seconds(["migrate", f"bulk-{number}", str(source)], environment)
                again = embeddings / _seconds(["migrate", f"bulk-{number}", str(source)], environment)
                protect = ["protect", str(source), f"{folder}/out-{number}.npz", "--key", f"{folder}/own.key"]
                in_a_file = embeddings / _seconds(protect, environment)
                found.append(
                    {
                        "a_request_a_subject": round(each),
                        "migrate": round(bulk),
                        "ratio": round(bulk / each, 1),
                        "migrate_again": round(again),
                        "protect": round(in_a_file),
                    }
                )
    columns = ("a request a subject", "migrate", "ratio", "migrate again", "protect a file")
    table = [(str(number), *(f"{value:,}" for value in each.values())) for number, each in enumerate(found, 1)]
    Console().print(measurements("embeddings a second", ("round", *columns), table))
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"cores": usable_cpus(), "machine": platform.machine(), "embeddings": embeddings}
    (out / "migrate.json").write_text(json.dumps(results | {"rounds": found}, indent=1) + "\n")


def _people(count: int) -> tuple[NDArray[np.float32], list[str]]:
    """(count, 128) float32 unit rows, and whose they are."""
    random = np.random.default_rng(1)
    people = random.standard_normal((-(-count // _OF_A_SUBJECT), _DIM)) / np.sqrt(_DIM)
    rows = people.repeat(_OF_A_SUBJECT, axis=0)[:count] + _SPREAD * random.standard_normal((count, _DIM))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), [f"subject {row // _OF_A_SUBJECT}" for row in range(count)]


def _one_by_one(client: Client, gallery: str, rows: NDArray[np.float32], subjects: list[str]) -> float:
    """Embeddings a second, with a request for each subject."""
    began = time.perf_counter()
    for start in range(0, _ONE_BY_ONE * _OF_A_SUBJECT, _OF_A_SUBJECT):
        client.enroll_embeddings(gallery, subjects[start], rows[start : start + _OF_A_SUBJECT])
    return _ONE_BY_ONE * _OF_A_SUBJECT / (time.perf_counter() - began)


def _seconds(arguments: list[str], environment: dict[str, str]) -> float:
    """The time of a command, from its start to its end."""
    program = [sys.executable, "-c", "from shared.command import main; main()", *arguments]
    began = time.perf_counter()
    subprocess.run(program, env=os.environ | environment, check=True, capture_output=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    run(app)
