"""The commands ``patronus models fetch``, ``add`` and ``list``."""

from __future__ import annotations

from functools import partial
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

Embedders = Annotated[
    Path | None,
    typer.Option(
        envvar="PATRONUS_EDGE__EMBEDDERS",
        help="Folder of your own embedders. [default: embedders in PATRONUS_HOME]",
        show_default=False,
    ),
]


@app.command()
def fetch(
    context: typer.Context,
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

    known, source = load_manifest(manifest), context.get_parameter_source("embedder")
    if source is not None and source.name == "ENVIRONMENT":
        # What an edge is to run may be the operator's own, which is added and not fetched.
        for name in known.unknown_embedders(embedder or ()):
            typer.echo(f"{name}: not fetched; an edge runs it once it was added with `patronus models add`")
        embedder = [name for name in embedder or () if not known.unknown_embedders([name])]
    prepare(
        known,
        folder or models_dir(),
        sources,
        upstream_base,
        typer.echo,
        embedders=embedder or (),
        keep_source=keep_source,
    )


@app.command()
def add(
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="With FILE.embedder.json beside it.")],
    name: Annotated[
        str | None, typer.Option(help="Its name in settings. [default: the file's]", show_default=False)
    ] = None,
    embedders: Embedders = None,
    # SFace's trial takes a second; the largest network allowed, some 70 faces through 1 GB of weights, takes minutes.
    timeout: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="Stop a trial that takes longer.")] = 600,
    details: Annotated[
        bool, typer.Option("--details", help="Show on standard error what ONNX Runtime says of a refused file.")
    ] = False,
) -> None:
    """Try an embedder of your own on sample faces, and copy it to where the edge finds it."""
    from edge_service.models.own_folder import embedders_dir
    from edge_service.vision.embedder_trial import try_embedder
    from edge_service.vision.own_embedders import add_embedder

    check = partial(try_embedder, timeout_s=timeout, details=details)
    added, found = add_embedder(file, embedders or embedders_dir(), name, check=check)
    typer.echo(
        f"{added.name}: ready, SHA-256 {added.found}. On the sample faces, pictures of one person have cosines of "
        f"{found.same.min():.2f} or more, of two people {found.different.max():.2f} or less. Run the edge with "
        f"PATRONUS_EDGE__EMBEDDER={added.name}, the profile seal or one that was trained for it, and a threshold."
    )


@app.command("list")
def list_models(folder: Folder = None, manifest: ManifestFile = None, embedders: Embedders = None) -> None:
    """Show every model's state; status 1 if one that is required, was fetched or was added is not ready."""
    from edge_service.models.manifest import load_manifest
    from edge_service.models.own_folder import embedders_dir, own_embedders
    from edge_service.models.store import REMEDY, model_file, models_dir
    from shared.errors import SetupError

    bad = []
    for entry in load_manifest(manifest).models:
        found = model_file(entry, folder or models_dir())
        path, digest, _ = found.fault or (found.run_path, found.run_found, "")
        state = "optional" if entry.optional and found.found is None else found.state
        typer.echo(f"{state:8} {entry.role:14} {path.name:22} {(digest or '-')[:12]:12} {entry.licence}")
        if state not in {"ready", "optional"}:
            bad.append(path.name)
    changed = []
    for own in own_embedders(embedders or embedders_dir()):
        typer.echo(f"{own.state:8} {'face-embedder':14} {own.path.name:22} {(own.found or '-')[:12]:12} your own")
        if own.state != "ready":
            changed.append(own.path.name)
    if changed:
        raise SetupError(f"Not as they were added: {', '.join(changed)}; remove their folders and add them again.")
    if bad:
        raise SetupError(f"Not ready: {', '.join(bad)}; {REMEDY}.")
