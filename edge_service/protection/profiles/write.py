"""Writes a profile atomically."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from edge_service.protection.profiles.document import ProfileDocument
from edge_service.protection.profiles.load import CARD, DOCUMENT, Profile, read_profile
from shared.errors import Conflict, SetupError


def write_profile(
    folder: Path,
    document: ProfileDocument,
    graph: bytes | None = None,
    card: bytes | None = None,
    *,
    replace: bool = False,
) -> Profile:
    """Writes a profile into ``folder / document.name``, by way of a folder of another name beside it.

    Args:
        folder: of profiles; made if missing.
        document: whose patronus step, if there is one, names the graph's SHA-256.
        graph: the network's file, where a step runs one.
        card: the model card, Markdown.
        replace: whether a profile of this name may be replaced.

    Returns:
        The profile as it was read back.

    Raises:
        Conflict: a profile of this name is there and is not to be replaced.
        SetupError: graph and document do not belong together, or the folder cannot be written.
    """
    if (graph is None) != (document.patronus is None):
        raise SetupError(f"The protection profile {document.name!r} needs a graph exactly where a step runs one.")
    home = folder / document.name
    if home.exists() and not replace:
        raise Conflict(f"A protection profile {document.name!r} is there already; name another, or replace it.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=folder, prefix=f".{document.name}."))
    except OSError as error:
        raise SetupError(f"The folder of profiles cannot be written ({error.strerror}).") from None
    try:
        made = beside / document.name
        made.mkdir()
        if graph is not None and document.patronus is not None:
            _write(made / document.patronus.file, graph)
        if card is not None:
            _write(made / CARD, card)
        text = document.model_dump_json(indent=2) + "\n"
        _write(made / DOCUMENT, text.encode())
        profile = read_profile(made)
        _put_in_place(made, home, beside / "replaced")
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return profile


def _put_in_place(made: Path, home: Path, aside: Path) -> None:
    if home.exists():
        home.rename(aside)
    try:
        made.rename(home)
    except OSError:
        if aside.exists():
            aside.rename(home)
        raise SetupError(f"The folder of profiles cannot be written ({home.name}).") from None


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
