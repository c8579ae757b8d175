"""``patronus cloud audit``: check the audit log, and find what it says of a subject."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

import typer

from shared.command import counted
from shared.errors import BadRequest

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from shared.wire.cloud import AuditHead

app = typer.Typer(help="The audit log: check it, and search it.", no_args_is_help=True)


@app.command()
def verify(
    head: Annotated[
        str | None, typer.Option(metavar="SEQ:DIGEST", help="A head, or a receipt's id and digest, noted earlier.")
    ] = None,
) -> None:
    """Check that no entry was changed, taken out or put in; names the first that does not fit, or a restore."""
    from cloud_service.audit.check import check

    noted = _noted(head)
    with _reading() as connection:
        found = check(connection, noted)
    if found.wrong is not None:
        typer.echo(f"The audit log was tampered with: {found.wrong}.", err=True)
        raise typer.Exit(1)
    if found.restored is not None:
        typer.echo(found.restored, err=True)
        raise typer.Exit(1)
    typer.echo(f"{counted(found.entries, 'entry', 'entries')}, each in its place. The head, to be noted elsewhere:")
    typer.echo(f"{found.head.seq}:{found.head.digest}")


@app.command()
def find(
    gallery: Annotated[str, typer.Argument(metavar="GALLERY", help="The gallery.")],
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="The subject's name, which is not in the log.")],
) -> None:
    """Show the erasures of a subject, one JSON object a line."""
    from cloud_service.audit.log import about

    with _reading() as connection:
        found = [entry.model_dump_json() for entry in about(connection, gallery, subject)]
    for line in found:
        typer.echo(line)
    if not found:
        typer.echo("The log has no erasure of this subject.", err=True)


def _noted(head: str | None) -> AuditHead | None:
    from cloud_service.audit.log import parse_head

    try:
        return None if head is None else parse_head(head)
    except ValueError:
        raise BadRequest("A head is a number, a colon, and 64 hexadecimal digits.") from None


def _reading() -> AbstractContextManager[Connection]:
    from cloud_service.audit.check import reading
    from cloud_service.settings import Settings
    from shared.service_settings import load_settings

    return reading(load_settings(Settings).record_url)
