"""Adds embedders of an operator's own, and opens the embedder that an edge is to run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge_service.models.own_folder import (
    DIGESTS,
    OwnEmbedder,
    added_digests,
    description_file,
    model_path,
    name_taken,
    own_embedder,
    own_embedders,
    write_embedder,
)
from edge_service.models.store import locate
from edge_service.protection.profiles.document import ANY_EMBEDDER
from edge_service.protection.profiles.files import load_profile
from edge_service.settings import InferenceSettings
from edge_service.vision.embed import EMBEDDERS, Embedder, EmbedderSpec
from edge_service.vision.embedder_check import Separation, check_embedder
from edge_service.vision.embedder_files import EmbedderFile
from edge_service.vision.sessions import OrtSession
from shared.contract import EmbedderPin
from shared.errors import SetupError

# As long as contracts allow. A bare file name: what is added stays in its folder.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def add_embedder(
    source: Path, folder: Path, name: str | None = None, *, check: Callable[[EmbedderFile], Separation] = check_embedder
) -> tuple[OwnEmbedder, Separation]:
    """Checks an ONNX embedder on sample faces, and copies it with its description.

    Adding the same files again checks them again and changes nothing.

    Args:
        source: the .onnx file, with the description beside it.
        folder: of the operator's own embedders; made if missing.
        name: how settings and contracts call it; None: as the file.
        check: runs it on the sample faces. For a file that is not trusted yet: ``embedder_trial.try_embedder``.

    Raises:
        SetupError: no such file, or one that cannot be served; a name that is taken or not one; or a folder that cannot
            be written.
    """
    name = source.stem if name is None else name
    if not _NAME.fullmatch(name):
        raise SetupError(
            f"An embedder's name is 1 to 64 letters, digits, dots, dashes and underscores, not {name!r}; give one with "
            "--name."
        )
    if name in EMBEDDERS or name == ANY_EMBEDDER:
        raise name_taken(name)
    file = EmbedderFile.open(source)
    if file.description.dim is None:
        raise SetupError(f"{description_file(source)} does not say dim, the length of the embeddings; add it.")
    load_profile("seal", dim=file.description.dim)
    exists = (folder / name).exists()
    if exists and added_digests(folder, name) != file.digests:
        raise name_taken(name)
    separation = check(file)
    if not exists:
        write_embedder(folder, name, file.data, file.json)
    return own_embedder(folder, name), separation


def open_embedder(name: str, folder: Path, settings: InferenceSettings) -> tuple[Embedder, EmbedderPin]:
    """The embedder that an edge is to run, ready, and how contracts name it.

    Args:
        name: of one that Patronus knows, or of one that was added.
        folder: of the operator's own embedders.
        settings: how to run it.

    Raises:
        SetupError: there is no such embedder, or its files are missing or not those that are pinned.
    """
    session: OrtSession
    if name in EMBEDDERS:
        model, spec = locate("face-embedder", name=name), EMBEDDERS[name]
        session, digest = OrtSession(model, settings), model.sha256
    else:
        file = _added(name, folder)
        session, digest = file.session(settings), file.sha256
        dim = file.description.dim or 0  # was there when it was added
        spec = EmbedderSpec(name=name, dim=dim, description=file.description, threshold=None)
    return Embedder(session, spec), EmbedderPin(name=name, sha256=digest, preprocessing=spec.preprocessing)


def _added(name: str, folder: Path) -> EmbedderFile:
    if not _NAME.fullmatch(name) or not (folder / name / DIGESTS).exists():
        known = ", ".join([*EMBEDDERS, *(one.name for one in own_embedders(folder))])
        raise SetupError(
            f"There is no embedder {name}; set PATRONUS_EDGE__EMBEDDER to one of: {known}; or add your own with "
            "patronus models add.",
            reason="unknown-embedder",
        )
    file = EmbedderFile.open(model_path(folder, name))
    if file.digests != added_digests(folder, name):
        raise SetupError(
            f"The embedder {name} or its description was changed after it was added (SHA-256 of the file: "
            f"{file.sha256[:12]}…); remove {folder / name} and add it again.",
            reason="digest-mismatch",
        )
    return file
