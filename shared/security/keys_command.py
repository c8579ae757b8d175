"""The commands ``keys list``, ``create`` and ``revoke``, for the API keys of a service."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.command import gallery_name
from shared.errors import SetupError
from shared.security.credentials import RATE_PATTERN, Scope
from shared.security.secret_files import require_folder
from shared.standard_streams import OutputFailed

if TYPE_CHECKING:
    from shared.security.key_ring import KeyRing

_MOST_LABEL = 100


def keys_command(ring: Callable[[], KeyRing], service: str) -> typer.Typer:
    """Builds the commands for one service.

    Args:
        ring: opens the service's keys.
        service: its name in the help.
    """
    app = typer.Typer(help=f"API keys of the {service}.", no_args_is_help=True)

    @app.command("list")
    def show() -> None:
        """Show all API keys: id, state, scopes, galleries, label, and any rate of their own."""
        for record in ring().records():
            state = "revoked" if record.revoked_at else "valid"
            galleries = "all" if record.galleries is None else ",".join(sorted(record.galleries))
            scopes = ",".join(sorted(record.scopes))
            rate = f"  ({record.rate})" if record.rate else ""
            typer.echo(f"{record.id}  {state:7}  {scopes:19}  {galleries}  {record.label}{rate}")

    @app.command()
    def create(
        label: Annotated[str, typer.Option(help="What the key is for.")],
        scope: Annotated[list[Scope], typer.Option(help="What it may do; repeat for several.")],
        gallery: Annotated[list[str] | None, typer.Option(help="A gallery it is for; repeat. Absent: all.")] = None,
        rate: Annotated[
            str | None, typer.Option(help="Such as 50/second;20000/hour, or unlimited. Default: the service's rate.")
        ] = None,
        out: Annotated[Path | None, typer.Option(help="Write it to this file instead of printing it.")] = None,
    ) -> None:
        """Make an API key. It is shown once and cannot be shown again."""
        if not label.isprintable() or len(label) > _MOST_LABEL:
            raise typer.BadParameter(f"a label is at most {_MOST_LABEL} printable characters")
        for name in gallery or []:
            gallery_name(name)
        if rate is not None and re.fullmatch(RATE_PATTERN, rate) is None:
            raise typer.BadParameter("a rate is like 50/second, 50/second;20000/hour, or unlimited")
        if out is not None:
            require_folder(out)
        keys = ring()
        try:
            key, record = keys.add(label, scope, gallery or None, rate, shown_in=out)
        except FileExistsError:
            raise SetupError(f"The file {out} is there already; name another.") from None
        if out is not None:
            typer.echo(f"The key {record.id} is in {out}.")
            return
        try:
            typer.echo(key)
        except (OutputFailed, OSError):  # its reader is gone, or the disk is full
            keys.withdraw(record.id)
            raise

    @app.command()
    def revoke(key_id: Annotated[str, typer.Argument(help="The key's id, as listed.")]) -> None:
        """Revoke an API key at once and for good, also under a running service."""
        ring().revoke(key_id)
        typer.echo(f"The key {key_id} is revoked.")

    return app
