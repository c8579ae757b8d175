"""``patronus protect`` and ``patronus migrate``: for systems that have embeddings already.

``protect`` needs no service: it is the edge's own code over a file. ``migrate`` is a caller of a running edge.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from edge_service.cli.client import Edge, Gallery, Json, KeyFile
from shared.names import GALLERY_PATTERN, SUBJECT_PATTERN

app = typer.Typer()

Source = Annotated[Path, typer.Argument(metavar="IN.npz", help="Array embeddings: (n, d) float32.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]


@app.command()
def protect(
    source: Source,
    target: Annotated[Path, typer.Argument(metavar="OUT.npz", help="Arrays templates, angles and norms.")],
    profile: Annotated[str | None, typer.Option(help="Protection profile. [default: as the edge is set]")] = None,
    unsealed: Annotated[
        bool, typer.Option("--unsealed", help="Leave the seal out, and seed from a public key: for measurements.")
    ] = False,
    gallery: Annotated[str | None, typer.Option(help="Seed and seal under the key of this gallery.")] = None,
    subject: Annotated[
        str | None, typer.Option(help="Whose embeddings they all are; needed where the gallery is verify-only.")
    ] = None,
    contract: Annotated[
        Path | None,
        typer.Option(
            metavar="GALLERY.json",
            help="What `patronus gallery show GALLERY --json` printed. [default: the cloud is asked]",
        ),
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Protect the embeddings of a file, here, without a service."""
    if unsealed == (gallery is not None):
        raise typer.BadParameter("give either --unsealed or --gallery")
    if gallery is not None and re.fullmatch(GALLERY_PATTERN, gallery) is None:
        raise typer.BadParameter("a gallery's name is 1 to 64 letters, digits, dots, underscores or hyphens")
    if contract is not None and gallery is None:
        raise typer.BadParameter("--contract goes with --gallery")
    if subject is not None and (gallery is None or re.fullmatch(SUBJECT_PATTERN, subject) is None):
        raise typer.BadParameter("--subject goes with --gallery and is a subject's name")
    from edge_service.cli.output import Output
    from edge_service.cli.protect_file import choose, protect_file

    protect_file(source, target, choose(profile, gallery, contract, subject), Output(as_json=json), force=force)


@app.command()
def migrate(
    name: Gallery,
    source: Annotated[
        Path,
        typer.Argument(metavar="IN.npz", help="Arrays embeddings (n, d) float32, subjects (n,) and perhaps face_ids."),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="OUT.npz", help="Write the templates to a file, and enroll nobody.")
    ] = None,
    force: Force = False,
    edge: Edge = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Enroll stored embeddings into a gallery, without pictures. Run again after a stop, it stores nothing twice."""
    from edge_service.cli.client import gallery_path
    from edge_service.cli.edge_client import connect
    from edge_service.cli.migration import Migration
    from edge_service.cli.output import Output

    path = gallery_path(name)
    migration = Migration(source)
    client, printed = connect(edge, key_file), Output(as_json=json)
    if out is not None:
        migration.write(client, name, out, printed, force=force)
    elif not migration.enroll(client, path, printed):
        raise typer.Exit(1)
