"""The commands ``patronus models fetch`` and ``list``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Fetch, convert and check the face models.", no_args_is_help=True, add_completion=False)

Folder = Annotated[
    Path | None,
    typer.Option(envvar="PATRONUS_MODELS", help="Folder of ready models. [default: .models]", show_default=False),
]
ManifestFile = Annotated[
    Path | None,
    typer.Option(envvar="PATRONUS_MODEL_MANIFEST", help="Manifest. [default: deploy/models.json]", show_default=False),
]


@app.command()
def fetch(
    folder: Folder = None,
    manifest: ManifestFile = None,
    sources: Annotated[
        Path | None,
        typer.Option("--from", envvar="PATRONUS_MODEL_SOURCES", help="Folder that holds source files."),
    ] = None,
    upstream_base: Annotated[
        str | None,
        typer.Option(
            envvar="PATRONUS_MODEL_UPSTREAM",
            help="Address below which the upstream project's files lie (files, not Git LFS pointers).",
        ),
    ] = None,
    embedder: Annotated[
        list[str] | None,
        typer.Option(
            envvar="PATRONUS_EDGE__EMBEDDER",
            help="Embedder to get; may be repeated. [default: the one that an edge runs by default]",
            show_default=False,
        ),
    ] = None,
    keep_source: Annotated[bool, typer.Option("--keep-source", help="Keep the files as published, too.")] = False,
) -> None:
    """Get the models that are not ready yet, check them and make them ready to run."""
    from edge_service.models.manifest import load_manifest
    from edge_service.models.store import models_dir, prepare

    prepare(
        load_manifest(manifest),
        folder or models_dir(),
        sources,
        upstream_base,
        typer.echo,
        embedders=embedder or (),
        keep_source=keep_source,
    )


@app.command("list")
def list_models(folder: Folder = None, manifest: ManifestFile = None) -> None:
    """Show every model's state; status 1 if one that is required or was fetched is not ready."""
    from edge_service.models.manifest import load_manifest
    from edge_service.models.store import REMEDY, model_file, models_dir
    from shared.errors import SetupError

    bad = []
    for entry in load_manifest(manifest).models:
        found = model_file(entry, folder or models_dir())
        digest = (found.found or "-")[:12]
        state = "optional" if entry.optional and found.state == "missing" else found.state
        typer.echo(f"{state:8} {entry.role:14} {found.path.name:22} {digest:12} {entry.licence}")
        if state not in {"ready", "optional"}:
            bad.append(found.path.name)
    if bad:
        raise SetupError(f"Not ready: {', '.join(bad)}; {REMEDY}.")
