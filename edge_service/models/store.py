"""Manages the folder of ready models: fills it, checks it, and returns only files whose digest is right."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_service.models.files import check_digest, folder_lock, sha256_of, sha256_of_file, write_whole
from edge_service.models.manifest import CHECKOUT, Manifest, ModelEntry, load_manifest
from shared.errors import SetupError

REMEDY = "run `patronus models fetch`"


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A model file whose digest was right when this was made."""

    path: Path
    sha256: str
    entry: ModelEntry

    def read(self) -> bytes:
        """Reads the file and checks it once more, so that a session is built from checked bytes.

        Raises:
            SetupError: the file changed, or is gone, since this was made.
        """
        try:
            data = self.path.read_bytes()
        except OSError as problem:
            raise SetupError(
                f"The model file {self.path.name} cannot be read ({problem.strerror}); {REMEDY}."
            ) from problem
        check_digest(f"The model file {self.path.name}", data, self.sha256, REMEDY)
        return data


@dataclass(frozen=True, slots=True)
class FileState:
    """What `verify` found out about one converted file; `found` is its digest."""

    entry: ModelEntry
    path: Path
    state: Literal["ready", "missing", "damaged"]
    found: str | None


def models_dir() -> Path:
    """The folder of ready models: PATRONUS_MODELS, else .models in the checkout."""
    return Path(os.environ.get("PATRONUS_MODELS") or CHECKOUT / ".models")


def sources_dir() -> Path | None:
    """The folder that the operator keeps source files in: PATRONUS_MODEL_SOURCES, else none."""
    folder = os.environ.get("PATRONUS_MODEL_SOURCES")
    return Path(folder) if folder else None


def upstream_base() -> str | None:
    """The address below which the upstream project's files lie: PATRONUS_MODEL_UPSTREAM, else none."""
    return os.environ.get("PATRONUS_MODEL_UPSTREAM") or None


def prepare(
    manifest: Manifest,
    folder: Path,
    sources: Path | None = None,
    upstream_base: str | None = None,
    on_event: Callable[[str], None] | None = None,
    *,
    embedders: Collection[str] = (),
    keep_source: bool = False,
) -> list[PreparedModel]:
    """Puts the models of the manifest into the folder, converted and with the right digest.

    Where they are there already, it only reads their digests: no network, no pip, no onnx, no writing.

    Args:
        manifest: the models.
        folder: where they belong; made if it is missing.
        sources: a folder that may hold source files.
        upstream_base: the address below which the upstream project's files lie.
        on_event: called with one line a step.
        embedders: the embedders that are wanted, by name; none: the manifest's own, and nothing optional.
        keep_source: also writes the source file, as published, when a model is made.

    Raises:
        SetupError: a model cannot be fetched, converted or written. Models that were ready stay as they were.
    """
    report = on_event or (lambda _: None)
    entries = manifest.wanted(embedders)
    ready = [_ready(entry, folder) for entry in entries]
    if None in ready:
        with folder_lock(folder, lambda: report("waiting for another set-up of the same folder")):
            # Checks again under the lock: a set-up that ran meanwhile may have done the work.
            for at, entry in enumerate(entries):
                ready[at] = _ready(entry, folder) or _make(
                    entry, folder, sources=sources, upstream_base=upstream_base, report=report, keep_source=keep_source
                )
    prepared = [model for model in ready if model is not None]
    for model in prepared:
        report(f"{model.path.name}: ready")
    return prepared


def locate(
    role: str, folder: Path | None = None, manifest: Manifest | None = None, *, name: str | None = None
) -> PreparedModel:
    """Returns the ready model of a role, after checking its digest.

    Args:
        role: what it is for.
        folder: of ready models; none: ``models_dir``.
        manifest: the models; none: ``load_manifest``.
        name: one of the role's models; none: the one that is not optional.

    Raises:
        SetupError: there is no such model, or its file is missing or not the one that the manifest pins.
    """
    entry = (manifest or load_manifest()).for_role(role, name)
    state = _state(entry, folder or models_dir())
    remedy = REMEDY.replace("fetch", f"fetch --embedder {entry.name}") if entry.optional else REMEDY
    if state.state == "missing":
        raise SetupError(f"The model file {state.path.name} is missing; {remedy}.")
    if state.state == "damaged":
        raise SetupError(
            f"The model file {state.path.name} has SHA-256 {str(state.found)[:12]}… "
            f"where the manifest has {entry.converted.sha256[:12]}…; {remedy}."
        )
    return PreparedModel(state.path, entry.converted.sha256, entry)


def verify(manifest: Manifest | None = None, folder: Path | None = None) -> list[FileState]:
    """The state of every converted file, in the manifest's order.

    Raises:
        SetupError: the manifest is not valid, or a file cannot be read.
    """
    return [_state(entry, folder or models_dir()) for entry in (manifest or load_manifest()).models]


def _state(entry: ModelEntry, folder: Path) -> FileState:
    path = folder / entry.converted.file
    found = sha256_of_file(path)
    if found is None:
        return FileState(entry, path, "missing", None)
    return FileState(entry, path, "ready" if found == entry.converted.sha256 else "damaged", found)


def _ready(entry: ModelEntry, folder: Path) -> PreparedModel | None:
    state = _state(entry, folder)
    return PreparedModel(state.path, entry.converted.sha256, entry) if state.state == "ready" else None


def _make(
    entry: ModelEntry,
    folder: Path,
    *,
    sources: Path | None,
    upstream_base: str | None,
    report: Callable[[str], None],
    keep_source: bool,
) -> PreparedModel:
    from edge_service.models import convert, fetch  # noqa: PLC0415 - numpy and httpx; not where all is ready

    source = fetch.fetch_source(entry, sources=sources, upstream_base=upstream_base, on_event=report)
    report(f"{entry.converted.file}: converting")
    converted = convert.to_runnable(source, entry.converted, entry.source.format)
    check_digest(
        f"The converted model {entry.converted.file}",
        converted,
        entry.converted.sha256,
        "install the onnx version that this release names, and report it to the project if that is what you have",
    )
    if keep_source:
        write_whole(folder / entry.source.file, source)
    receipt = {  # for people: nothing is decided by it
        "source_file": entry.source.file,
        "source_sha256": sha256_of(source),
        "converted_sha256": sha256_of(converted),
        "converter": convert.converter_version(),
    }
    # The model last: a service finds it only once everything else is there.
    write_whole(folder / entry.receipt, json.dumps(receipt, indent=2).encode() + b"\n")
    write_whole(folder / entry.converted.file, converted)
    return PreparedModel(folder / entry.converted.file, entry.converted.sha256, entry)
