"""``make kill-test``: kills a cloud under load, restarts it, and checks that nothing acknowledged is lost."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from shared.command import run
from tests.load.crash.series import Cycle, Series, summary

app = typer.Typer()


@app.command()
def main(
    cycles: Annotated[int, typer.Option(min=1, help="How often it is killed under load.")] = 200,
    seed: Annotated[int, typer.Option(help="The same one does the same.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for the log and the JSON.")] = Path("bench-results/kills"),
) -> None:
    """Kill a cloud with SIGKILL at moments drawn by chance; the exit status is 1 where anything was lost."""
    console = Console(stderr=True)
    out.mkdir(parents=True, exist_ok=True)
    done: list[Cycle] = []
    with (
        tempfile.TemporaryDirectory() as home,
        (out / "cycles.jsonl").open("w") as log,
        Series(Path(home), seed) as series,
    ):
        for cycle in series.cycles(cycles):
            done.append(cycle)
            log.write(json.dumps(asdict(cycle)) + "\n")
            log.flush()
            console.print(
                f"{cycle.cycle:>4}  load {cycle.killed_after:.2f} s  +{len(cycle.starts_killed_after)} starts  "
                f"{cycle.acknowledged:>4} acknowledged  {cycle.unsure} unsure  {cycle.templates} templates  "
                f"epoch {cycle.epoch}  {cycle.seconds:.1f} s  {'sound' if cycle.sound else 'NOT SOUND'}",
                highlight=False,
            )
    result = summary(done, seed)
    (out / "summary.json").write_text(json.dumps(result, indent=2) + "\n")
    typer.echo(json.dumps(result))
    if not result["sound"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    run(app)
