"""The ``patronus`` command: put together from what each part registers, so that no part imports another."""

from __future__ import annotations

import json
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec

import typer

from shared.errors import PatronusError


def build() -> typer.Typer:
    """The command with every registered group; the group named ``client`` lends its commands to the top level."""
    app = typer.Typer(
        name="patronus",
        help="Face recognition in which the cloud never holds anything a face can be rebuilt from.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for found in sorted(entry_points(group="patronus.commands"), key=lambda entry: entry.name):
        if find_spec(found.module.split(".", maxsplit=1)[0]) is None:
            continue  # an image of one service holds no code of the other
        part: typer.Typer = found.load()
        if found.name == "client":
            app.add_typer(part)
        else:
            app.add_typer(part, name=found.name)
    return app


def main() -> None:
    """Runs ``patronus``."""
    run(build())


def run(app: typer.Typer) -> None:
    """Runs a command. Exit status: 0 done, 1 refused or failed, 2 wrong usage."""
    try:
        app()
    except PatronusError as error:
        if "--json" in sys.argv:
            problem = getattr(error, "problem", {"detail": error.detail, "reason": error.reason})
            typer.echo(json.dumps(problem, ensure_ascii=False))
        typer.echo(error.detail, err=True)
        sys.exit(1)
