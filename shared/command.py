"""The ``patronus`` command: put together from what each part registers, so that no part imports another."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from shared.errors import PatronusError
from shared.home import patronus_version
from shared.security.process_secrets import keep_out_of_dumps
from shared.standard_streams import guard_standard_streams


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
    keep_out_of_dumps()
    guard_standard_streams()
    if find_spec("structlog") is not None:  # it comes with the services
        from shared.logs import silence_logs  # noqa: PLC0415 - not in every installation

        silence_logs()  # a service that is started here turns its log on
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # what cannot be written is told now, not as a traceback when Python ends
    except PatronusError as error:
        problem = getattr(error, "problem", {"detail": error.detail, "reason": error.reason})
        _fail(error.detail, problem)
    except OSError as error:
        sentence = f"The system refused this: {_place(error)}{error.strerror or type(error).__name__}."
        _fail(sentence, {"detail": sentence, "reason": None})


def _place(error: OSError) -> str:
    return "" if error.filename is None else f"{os.fsdecode(error.filename)}: "


def _fail(sentence: str, problem: dict[str, Any]) -> None:
    if "--json" in sys.argv:
        with contextlib.suppress(PatronusError):  # standard output may be what failed
            typer.echo(json.dumps(problem, ensure_ascii=False))
    with contextlib.suppress(OSError):
        typer.echo(sentence, err=True)
    sys.exit(1)
