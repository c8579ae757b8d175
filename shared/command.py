"""The ``patronus`` command: put together from what each part registers, so that no part imports another."""

from __future__ import annotations

import json
import math
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Annotated

import typer

from shared.errors import PatronusError
from shared.home import patronus_version


def build() -> typer.Typer:
    """The command with every registered group; the group named ``client`` lends its commands to the top level."""
    app = typer.Typer(
        name="patronus",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback()
    def options(
        _version: Annotated[
            bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and end.")
        ] = False,
    ) -> None:
        """Face recognition in which the cloud sees sealed templates, and never a face."""

    for found in sorted(entry_points(group="patronus.commands"), key=lambda entry: entry.name):
        if find_spec(found.module.split(".", maxsplit=1)[0]) is None:
            continue  # an image of one service holds no code of the other
        part: typer.Typer = found.load()
        if found.name == "client":
            app.add_typer(part)
        else:
            app.add_typer(part, name=found.name)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(patronus_version())
        raise typer.Exit


def finite(value: float | None) -> float | None:
    """For an option's ``callback``: refuses NaN, which every range lets through, and infinity.

    Raises:
        typer.BadParameter: it is one of these.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter("this takes a finite number")
    return value


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
