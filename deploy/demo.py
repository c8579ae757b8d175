"""``make demo``: runs a session of the command line against its own pair, on the sample pictures."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import typer

from shared.command import run
from shared.processes.pair import running_pair

_PICTURES = Path("tests/pictures")
_SESSION = (
    "gallery create presidents",
    f"enroll presidents obama {_PICTURES}/obama/portrait.jpg {_PICTURES}/obama/standing.jpg",
    f"enroll presidents biden {_PICTURES}/biden",
    f"verify presidents obama {_PICTURES}/obama/speech.jpg",
    f"verify presidents biden {_PICTURES}/obama/speech.jpg",
    f"identify presidents {_PICTURES}/obama/speech.jpg",
    f"identify presidents {_PICTURES}/collins/portrait.png",
    "gallery show presidents",
    "subject delete presidents obama --yes",
    f"identify presidents {_PICTURES}/obama/speech.jpg",
)


def main() -> None:
    """Enroll, verify, identify and erase. Keys and data are deleted afterwards."""
    patronus = Path(sys.executable).with_name("patronus")
    with tempfile.TemporaryDirectory() as home, running_pair(Path(home)) as (url, _):
        environment = {**os.environ, "PATRONUS_HOME": home, "PATRONUS_EDGE_URL": url}
        for words in _SESSION:
            typer.secho(f"\n$ patronus {words}", bold=True)
            subprocess.run([patronus, *words.split()], env=environment, check=True)


if __name__ == "__main__":
    run(main)
