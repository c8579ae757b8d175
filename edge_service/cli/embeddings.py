"""The commands ``patronus protect`` and ``migrate``, for systems that store embeddings already.

``protect`` needs no service: it is the edge's own code over a file. ``migrate`` calls a running edge.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_service.cli.session import Gallery, Json, Session, calls_edge
from shared.command import gallery_name
from shared.names import is_subject_name, subject_name

app = typer.Typer()

Force = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]


@app.command()
def protect(
    source: Annotated[Path, typer.Argument(metavar="IN.npz", help="Array embeddings: (n, d) float32.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.npz", help="Arrays templates, angles and norms.")],
    profile: Annotated[
        str | None, typer.Option(help="Protection profile. [default: the gallery's, else as the edge is set]")
    ] = None,
    unsealed: Annotated[
        bool, typer.Option("--unsealed", help="Leave the seal out, and seed from a public key: for measurements.")
    ] = False,
    gallery: Annotated[
        str | None, typer.Option(callback=gallery_name, help="Seed and seal under the key of this gallery.")
    ] = None,
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
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Key file of your own system, as of patronus_face; made if missing."),
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Protect the embeddings of a file, here, without a service."""
    if unsealed + (gallery is not None) + (key is not None) != 1:
        raise typer.BadParameter("give one of --key, --gallery and --unsealed")
    if contract is not None and gallery is None:
        raise typer.BadParameter("--contract goes with --gallery")
    if subject is not None and (gallery is None or not is_subject_name(subject)):
        raise typer.BadParameter("--subject goes with --gallery and is a subject's name")
    from edge_service.cli.output import Output
    from edge_service.cli.protect_file import protect_file

    out, subject = Output(as_json=json), subject and subject_name(subject)
    protect_file(
        source,
        target,
        out,
        force=force,
        name=profile,
        gallery=gallery,
        contract=contract,
        subject=subject,
        key_file=key,
    )


@app.command()
@calls_edge
def migrate(
    session: Session,
    name: Gallery,
    source: Annotated[
        Path,
        typer.Argument(metavar="IN.npz", help="Arrays embeddings (n, d) float32, subjects (n,) and perhaps face_ids."),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="OUT.npz", help="Write the templates to a file, and enroll nobody.")
    ] = None,
    force: Force = False,
) -> None:
    """Enroll stored embeddings into a gallery, without pictures. Run again after a stop, it stores nothing twice."""
    from edge_service.cli.migration import Migration
    from shared.client.call import check_name

    check_name("gallery", name)  # before the file is read
    migration = Migration(source, session, name)
    if out is not None:
        migration.write_templates(out, force=force)
    elif not migration.enroll():
        raise typer.Exit(1)
