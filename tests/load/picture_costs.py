"""Measures memory and CPU time of the most expensive pictures: ``picture_costs.py [--search] [NAME ...]``.

In this process, one picture after the other; the kernel's peak of memory is set back before each (Linux only).
"""

from __future__ import annotations

import json
import re
import sys
import time
from functools import cache
from pathlib import Path
from typing import TypedDict

from edge_service.picture_memory import unmap_large_blocks
from edge_service.settings import EdgeSettings, PictureLimits
from edge_service.vision.decode import decode, inspect
from edge_service.vision.reader import FaceReader
from shared.errors import PatronusError
from shared.metrics import Metrics
from tests.support.hostile_pictures import costly_files, jpeg, largest_pictures


class Cost(TypedDict):
    """The cost of one picture."""

    name: str
    outcome: str
    file_bytes: int
    megapixels: float
    charged_mb: float
    peak_mb: float
    cpu_s: float


def resident_mb(which: str) -> float:
    """Memory of this process in MB: ``VmRSS`` now, or ``VmHWM`` at its peak."""
    found = re.search(which + r":\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def cost(name: str, data: bytes, *, search: bool = False) -> Cost:
    """Decodes a picture, and looks for faces in it if asked to.

    Returns:
        Its cost; the peak is what this process took beyond what it took before.
    """
    charged, megapixels = 0.0, 0.0
    reader = _reader() if search else None
    Path("/proc/self/clear_refs").write_text("5")
    before, began = resident_mb("VmRSS"), time.process_time()
    try:
        if reader is None:
            decode(data, PictureLimits())
        else:
            reader.read(data, every_face=True)
        outcome = "decoded"
    except PatronusError as error:
        outcome = error.reason or error.kind
    seconds, peak = time.process_time() - began, resident_mb("VmHWM") - before
    if outcome == "decoded":
        header = inspect(data, PictureLimits())
        charged, megapixels = header.charged_bytes / 1e6, header.pixels / 1e6
    return Cost(
        name=name,
        outcome=outcome,
        file_bytes=len(data),
        megapixels=round(megapixels, 1),
        charged_mb=round(charged),
        peak_mb=round(peak),
        cpu_s=round(seconds, 2),
    )


@cache
def _reader() -> FaceReader:
    return FaceReader(EdgeSettings(), Metrics("edge"))


def main(arguments: list[str]) -> None:
    """Prints one line of JSON for each picture."""
    search = "--search" in arguments
    pictures = largest_pictures() | costly_files()
    names = [name for name in arguments if name != "--search"] or list(pictures)
    unmap_large_blocks()
    cost("warm-up", jpeg(1600, 1200), search=search)
    for name in names:
        sys.stdout.write(json.dumps(cost(name, pictures[name](), search=search)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
