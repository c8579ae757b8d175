"""``patronus cloud erasures``: keep a list of what was erased, for a restore when the record is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.command import counted

app = typer.Typer(help="What was erased: listed in a file, and erased again.", no_args_is_help=True)


@app.command()
def export(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="The list to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Write all erasures of the record to a file, while the service runs or not. It names no subject."""
    from cloud_service.audit.check import reading
    from cloud_service.erasure.erasure_list import export_erasures
    from cloud_service.settings import Settings
    from shared.service_settings import load_settings

    with reading(load_settings(Settings).record_url) as connection:
        found = export_erasures(connection, target, replace=force)
    typer.echo(f"{target}: {counted(len(found.erasures), 'erasure')}, up to entry {found.head.seq} of the audit log.")


@app.command()
def apply(source: Annotated[Path, typer.Argument(metavar="FILE", help="A list of erasures.")]) -> None:
    """Erase again what a list names, from the record; the service must not run. For PostgreSQL, after pg_restore."""
    from cloud_service.erasure.carry_over import apply_list
    from cloud_service.settings import Settings
    from shared.service_settings import load_settings

    done = apply_list(load_settings(Settings), source)
    typer.echo(
        counted(done.erasures, "erasure was", "erasures were")
        + f" done again, which took away {counted(done.subjects, 'subject')}, {counted(done.templates, 'template')}."
    )
