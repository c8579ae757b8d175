"""The folder of an operator's own embedders: one folder each, with the file, its description, and the digests of both.

A folder appears whole, and a changed file is found. `edge_service.vision.own_embedders` adds and opens embedders.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from edge_service.models.files import sha256_of, sha256_of_file, write_whole
from shared.errors import SetupError
from shared.home import patronus_home
from shared.names import HexDigest
from shared.security.secret_files import sync_folder

DIGESTS: Final = "added.json"


class AddedDigests(BaseModel):
    """Hex SHA-256 of both files, as they were added."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    sha256: HexDigest
    description_sha256: HexDigest


@dataclass(frozen=True, slots=True)
class OwnEmbedder:
    """An embedder that was added.

    Attributes:
        name: as settings and contracts have it.
        path: of its .onnx file.
        found: hex SHA-256 of that file; None for no file.
        state: whether both files are those that were added.
    """

    name: str
    path: Path
    found: str | None
    state: Literal["ready", "missing", "damaged"]


def embedders_dir() -> Path:
    """The folder where no setting names one."""
    return patronus_home() / "embedders"


def description_file(path: Path) -> Path:
    """The description that goes with an .onnx file."""
    return path.with_suffix(".embedder.json")


def model_path(folder: Path, name: str) -> Path:
    """The .onnx file of an embedder that was added."""
    return folder / name / f"{name}.onnx"


def own_embedders(folder: Path) -> list[OwnEmbedder]:
    """The embedders in a folder, by name."""
    homes = sorted(path.parent for path in folder.glob(f"*/{DIGESTS}") if not path.parent.name.startswith("."))
    return [own_embedder(folder, home.name) for home in homes]


def own_embedder(folder: Path, name: str) -> OwnEmbedder:
    """An embedder that was added, and its state.

    Raises:
        SetupError: a file of it cannot be read.
    """
    path = model_path(folder, name)
    found, said = sha256_of_file(path), sha256_of_file(description_file(path))
    if found is None or said is None:
        return OwnEmbedder(name, path, found, "missing")
    ready = added_digests(folder, name) == AddedDigests(sha256=found, description_sha256=said)
    return OwnEmbedder(name, path, found, "ready" if ready else "damaged")


def added_digests(folder: Path, name: str) -> AddedDigests | None:
    """The digests of an embedder that was added; None where there are none that can be read."""
    try:
        return AddedDigests.model_validate_json((folder / name / DIGESTS).read_bytes())
    except (OSError, ValidationError):
        return None


def write_embedder(folder: Path, name: str, model: bytes, description: bytes) -> None:
    """Writes a finished folder, then renames it: a stop at any moment leaves no embedder, or a whole one.

    Raises:
        SetupError: the folder cannot be written, or there is one of this name with other files.
    """
    digests = AddedDigests(sha256=sha256_of(model), description_sha256=sha256_of(description))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=folder, prefix=f".{name}."))
    except OSError as problem:
        raise SetupError(
            f"The folder {folder} cannot be written ({problem.strerror}); give this account the right to write there, "
            "or set PATRONUS_EDGE__EMBEDDERS to another folder."
        ) from problem
    try:
        (beside / name).mkdir()
        path = model_path(beside, name)
        write_whole(path, model)
        write_whole(description_file(path), description)
        write_whole(path.parent / DIGESTS, digests.model_dump_json(indent=2).encode() + b"\n")
        path.parent.rename(folder / name)
    except OSError as problem:
        if not (folder / name).exists():
            raise SetupError(
                f"The folder {folder} cannot be written ({problem.strerror}); make room there."
            ) from problem
        if added_digests(folder, name) != digests:  # another command was quicker, with other files
            raise name_taken(name) from problem
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    with contextlib.suppress(OSError):  # some network file systems refuse this; the rename itself has happened
        sync_folder(folder)


def name_taken(name: str) -> SetupError:
    """The error of a name that another embedder has."""
    return SetupError(f"There is another embedder {name}; give yours another name with --name.", reason="name-taken")
