"""Sends 200 hostile pictures at once to an edge of four workers in a control group of 3 GB.

Reports the answers, and the memory that the kernel counted. Needs root and writable control groups (version 1 or 2).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import httpx

from shared.processes.pair import free_port
from tests.support.hostile_pictures import (
    GREY_ALPHA,
    PROGRESSIVE,
    RGBA,
    jpeg,
    png,
    progressive_scans,
    sides,
    webp,
    webp_of_tables,
)

LIMIT_BYTES = 3 << 30
AT_ONCE = 200
_SECONDS = 400


def _group() -> tuple[Path, str, str, str]:
    """A new control group, and its files for the limit, the peak, and how often the limit was met or killed."""
    root = Path("/sys/fs/cgroup")
    if (root / "memory").is_dir():
        names = ("memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control")
        folder = root / "memory" / f"patronus-flood-{os.getpid()}"
    else:
        names = ("memory.max", "memory.peak", "memory.events")
        folder = root / f"patronus-flood-{os.getpid()}"
    folder.mkdir()
    (folder / names[0]).write_text(str(LIMIT_BYTES))
    return folder, *names


def _pictures() -> list[bytes]:
    forty = sides(39_900_000)
    return [
        webp(6324, 6324),
        webp_of_tables(6000, 4000),
        webp(*sides(24_900_000)),
        png(*sides(24_700_000), RGBA, 16),
        png(*forty, GREY_ALPHA, interlaced=True),
        jpeg(*forty),
        jpeg(*sides(38_000_000), kind=PROGRESSIVE, scans=progressive_scans(3, 12)),
    ]


def _edge(home: Path, folder: Path) -> tuple[subprocess.Popen[bytes], str, str]:
    (home / "cloud").mkdir(parents=True)
    key = home / "cloud" / "api_key"
    key.write_text("x" * 43)
    key.chmod(0o600)
    port = free_port()
    enter = f"echo $$ > {folder}/cgroup.procs && exec {sys.executable} -m edge_service serve --port {port}"
    environment = os.environ | {"PATRONUS_HOME": str(home), "PATRONUS_EDGE__WORK__WORKERS": "4"}
    environment |= {"PATRONUS_EDGE__LOG_LEVEL": "error"}
    process = subprocess.Popen(["/bin/sh", "-c", enter], env=environment)
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            httpx.get(url + "/healthz", timeout=2)
            break
        except httpx.TransportError:
            time.sleep(0.2)
    return process, url, (home / "edge" / "api_key").read_text().strip()


def main() -> None:
    """Prints one line of JSON."""
    folder, _, peak, events = _group()
    with tempfile.TemporaryDirectory() as home:
        pictures = _pictures()
        process, url, key = _edge(Path(home), folder)
        idle = int((folder / peak).read_text())
        seen: Counter[str] = Counter()
        ready = threading.Barrier(AT_ONCE)

        def send(position: int) -> None:
            files = {"image": ("x", pictures[position % len(pictures)], "image/jpeg")}
            ready.wait()
            try:
                answer = httpx.post(
                    url + "/v1/detect", files=files, headers={"Authorization": f"Bearer {key}"}, timeout=_SECONDS
                )
                body = answer.json()
                reason = body.get("reason") or body.get("type", "").rpartition(":")[2]
                seen[f"{answer.status_code} {reason}".strip()] += 1
            except httpx.HTTPError as error:
                seen[type(error).__name__] += 1

        began = time.monotonic()
        threads = [threading.Thread(target=send, args=(position,)) for position in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = {
            "seconds": round(time.monotonic() - began),
            "answers": dict(seen),
            "alive": process.poll() is None,
            "idle_mb": idle // 1_000_000,
            "peak_mb": int((folder / peak).read_text()) // 1_000_000,
            "kernel": (folder / events).read_text().split(),
        }
        process.terminate()
        process.wait(30)
    sys.stdout.write(json.dumps(found) + "\n")
    folder.rmdir()


if __name__ == "__main__":
    main()
