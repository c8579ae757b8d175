"""Fills and checks the folder of ready models; returns only files with the right digest."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from edge_service.models.files import check_digest, folder_lock, sha256_of, sha256_of_file, write_whole
from edge_service.models.manifest import CHECKOUT, Manifest, ModelEntry, load_manifest
from shared.errors import SetupError

REMEDY = "run `patronus models fetch`"
_OTHER_ONNX = "install the onnx version that this release names, and report it to the project if that is what you have"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model that is ready to run.

    Attributes:
        entry: of the manifest.
        path: of the converted file.
        found: the digest that it had when this was made, None for no file.
        run_path: of the file that ONNX Runtime loads, the faster one where there is one.
        run_found: its digest, in the same way.
    """

    entry: ModelEntry
    path: Path
    found: str | None
    run_path: Path
    run_found: str | None

    @property
    def sha256(self) -> str:
        """The digest that contracts and profiles name: that of the converted file, whichever equal one runs."""
        return self.entry.converted.sha256

    @property
    def state(self) -> Literal["ready", "missing", "damaged"]:
        """Whether the files are there and their digests right."""
        fault = self.fault
        if fault is None:
            return "ready"
        return "missing" if fault[1] is None else "damaged"

    @property
    def fault(self) -> tuple[Path, str | None, str] | None:
        """The first file that is missing or damaged: its path, its digest (None for no file), the right digest."""
        for path, found, expected in (
            (self.path, self.found, self.sha256),
            (self.run_path, self.run_found, self.entry.run.sha256),
        ):
            if found != expected:
                return path, found, expected
        return None

    def read(self) -> bytes:
        """Reads the file to run and checks it once more, so that a session is built from checked bytes.

        Raises:
            SetupError: the file changed, or is gone, since this was made.
        """
        try:
            data = self.run_path.read_bytes()
        except OSError as problem:
            raise SetupError(
                f"The model file {self.run_path.name} cannot be read ({problem.strerror}); {REMEDY}."
            ) from problem
        check_digest(f"The model file {self.run_path.name}", data, self.entry.run.sha256, REMEDY)
        return data


def models_dir() -> Path:
    """The folder of ready models: PATRONUS_MODELS, else .models in the checkout."""
    return Path(os.environ.get("PATRONUS_MODELS") or CHECKOUT / ".models")


def prepare(
    manifest: Manifest,
    folder: Path,
    sources: Path | None = None,
    upstream_base: str | None = None,
    on_event: Callable[[str], None] | None = None,
    *,
    embedders: Collection[str] = (),
    keep_source: bool = False,
) -> list[ModelFile]:
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
    files = [model_file(entry, folder) for entry in entries]
    if any(file.state != "ready" for file in files):
        from edge_service.models.fetch import fetch_source  # noqa: PLC0415 - httpx; not where all is ready

        with folder_lock(folder, lambda: report("waiting for another set-up of the same folder")):
            for entry in entries:
                # Checks again under the lock: a set-up that ran meanwhile may have done the work.
                file = model_file(entry, folder)
                if file.found == file.sha256 and file.state != "ready":  # as an earlier release left it
                    report(f"{entry.run.file}: making it of {entry.converted.file}")
                    _write(entry, folder, file.path.read_bytes())
                elif file.state != "ready":
                    source = fetch_source(entry, sources=sources, upstream_base=upstream_base, on_event=report)
                    report(f"{entry.converted.file}: converting")
                    _convert(entry, folder, source, keep_source=keep_source)
        files = [model_file(entry, folder) for entry in entries]
    for file in files:
        report(f"{file.path.name}: ready")
    return files


def locate(
    role: str, folder: Path | None = None, manifest: Manifest | None = None, *, name: str | None = None
) -> ModelFile:
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
    file = model_file(entry, folder or models_dir())
    remedy = REMEDY.replace("fetch", f"fetch --embedder {entry.name}") if entry.optional else REMEDY
    if file.fault is not None:
        path, found, expected = file.fault
        if found is None:
            raise SetupError(f"The model file {path.name} is missing; {remedy}.")
        raise SetupError(
            f"The model file {path.name} has SHA-256 {found[:12]}… where the manifest has {expected[:12]}…; {remedy}."
        )
    return file


def model_file(entry: ModelEntry, folder: Path) -> ModelFile:
    """The state of a model's files.

    Raises:
        SetupError: a file cannot be read.
    """
    path, run_path = folder / entry.converted.file, folder / entry.run.file
    found = sha256_of_file(path)
    return ModelFile(entry, path, found, run_path, found if run_path == path else sha256_of_file(run_path))


def _convert(entry: ModelEntry, folder: Path, source: bytes, *, keep_source: bool) -> None:
    converted = _conversion().to_runnable(source, entry.converted, entry.source.format)
    check_digest(f"The converted model {entry.converted.file}", converted, entry.converted.sha256, _OTHER_ONNX)
    if keep_source:
        write_whole(folder / entry.source.file, source)
    _write(entry, folder, converted, source)


def _write(entry: ModelEntry, folder: Path, converted: bytes, source: bytes | None = None) -> None:
    """Writes what ONNX Runtime loads, and a receipt."""
    run = None
    if entry.faster is not None:
        from edge_service.models.fast_graph import faster  # noqa: PLC0415 - set-up only

        run = faster(converted)
        check_digest(f"The model {entry.faster.file}", run, entry.faster.sha256, _OTHER_ONNX)
    receipt = {  # for people: nothing is decided by it
        "source_file": entry.source.file,
        "source_sha256": entry.source.sha256 if source is None else sha256_of(source),
        "converted_sha256": sha256_of(converted),
        "run_sha256": sha256_of(converted if run is None else run),
        "converter": _conversion().CONVERTER,
    }
    # The model last: a service finds it only once everything else is there.
    write_whole(folder / entry.receipt, json.dumps(receipt, indent=2).encode() + b"\n")
    if run is not None:
        write_whole(folder / entry.run.file, run)
    write_whole(folder / entry.converted.file, converted)


def _conversion() -> ModuleType:
    try:
        import edge_service.models.convert as convert  # noqa: PLC0415, PLR0402 - set-up only
    except ImportError as problem:
        raise SetupError(
            "Converting a model needs the package onnx; install this project with its extra 'models'."
        ) from problem
    return convert
