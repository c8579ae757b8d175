"""``make bench``: the time of one verification, and where it goes, step by step."""

from __future__ import annotations

import io
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import typer
from PIL import Image
from rich.console import Console

from lab.console_table import measurements
from shared.command import run
from shared.processes.pair import running_pair
from shared.security.process_limits import usable_cpus
from shared.security.secret_files import read_secret

_PICTURES = Path(__file__).resolve().parents[2] / "tests" / "pictures"
_WARM_UP = 10
app = typer.Typer()


@app.command()
def main(
    rounds: Annotated[int, typer.Option(min=20, max=5000, help="Verifications a picture.")] = 200,
    out: Annotated[Path, typer.Option(help="Folder for the JSON.")] = Path("bench-results"),
) -> None:
    """Time verifications one after another against a pair of its own on this machine."""
    pictures = {
        "portrait 910x1137": _jpeg("obama/speech.jpg", None),
        "door camera 640x480": _jpeg("obama/speech.jpg", 640),
    }
    results: dict[str, object] = {
        "cores": usable_cpus(),
        "machine": platform.machine(),
        "rounds": rounds,
    }
    with tempfile.TemporaryDirectory() as home, running_pair(Path(home)) as (url, key_file):
        headers = {"Authorization": f"Bearer {read_secret(key_file).decode().strip()}"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=30) as edge:
            _prepare(edge)
            for name, picture in pictures.items():
                results[name] = _show(name, _time(edge, picture, rounds))
    out.mkdir(parents=True, exist_ok=True)
    (out / "verify.json").write_text(json.dumps(results, indent=1) + "\n")


def _prepare(edge: httpx.Client) -> None:
    edge.put("/v1/galleries/bench").raise_for_status()
    portrait = (_PICTURES / "obama" / "portrait.jpg").read_bytes()
    edge.post("/v1/galleries/bench/subjects/obama/faces", files={"image": portrait}).raise_for_status()


def _jpeg(name: str, width: int | None) -> bytes:
    """A sample picture as it is, or cut and scaled to a camera's 4:3 frame."""
    data = (_PICTURES / name).read_bytes()
    if width is None:
        return data
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    cut = picture.crop((0, 100, picture.width, 100 + picture.width * 3 // 4)).resize((width, width * 3 // 4))
    written = io.BytesIO()
    cut.save(written, "JPEG", quality=90)
    return written.getvalue()


def _time(edge: httpx.Client, picture: bytes, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each round, by step; ``all`` is what the caller waited, ``rest`` what no step accounts for."""
    taken: dict[str, list[float]] = {}
    for number in range(_WARM_UP + rounds):
        start = time.perf_counter()
        answer = edge.post("/v1/galleries/bench/subjects/obama/verify", files={"image": picture})
        whole = (time.perf_counter() - start) * 1000
        answer.raise_for_status()
        if number < _WARM_UP:
            continue
        steps = {
            part.split(";")[0].strip(): float(part.split("dur=")[1])
            for part in answer.headers["server-timing"].split(",")
        }
        for step, ms in {**steps, "rest": whole - sum(steps.values()), "all": whole}.items():
            taken.setdefault(step, []).append(ms)
    return taken


def _show(name: str, taken: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    found, rows = {}, []
    for step, values in taken.items():
        p50, p95 = (float(value) for value in np.percentile(values, [50, 95]))
        found[step] = {"p50_ms": round(p50, 3), "p95_ms": round(p95, 3)}
        rows.append((step, f"{p50:.2f}", f"{p95:.2f}"))
    Console().print(measurements(f"verify, {name}", ("step", "p50 ms", "p95 ms"), rows))
    return found


if __name__ == "__main__":
    run(app)
