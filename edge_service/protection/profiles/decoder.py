"""A decoder beside a profile: a network that rebuilds a face from an embedding, to show what protection does.

``patronus lab export-decoder`` writes it into ``PROFILES/NAME.decoder``: beside the profile's folder and not in it,
since the profile's digest, which galleries are pinned to, is over all files of its folder.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, ValidationError

from edge_service.models.files import write_whole
from shared.contract import MAX_DIM
from shared.errors import Conflict, SetupError
from shared.names import HexDigest
from shared.strict_types import JsonInteger, One, StrictModel

_DOCUMENT: Final = "decoder.json"
_GRAPH: Final = "decoder.onnx"


class DecoderDocument(StrictModel):
    """What is known of a decoder.

    The graph's input ``embedding`` is (n, dim), unit rows; its output ``picture`` is (n, 3, side, side), RGB in 0..1.
    Both are float32.
    """

    version: One = 1
    family: Annotated[str, Field(min_length=1, max_length=64)]
    sha256: HexDigest = Field(description="of decoder.onnx")
    embedder_sha256: HexDigest = Field(description="of the converted file of the embedder that it rebuilds from")
    dim: JsonInteger = Field(ge=2, le=MAX_DIM)
    side: JsonInteger = Field(ge=16, le=512, description="of its pictures, in pixels")


@dataclass(frozen=True, slots=True)
class DecoderFile:
    """A decoder, read and checked against its digest."""

    document: DecoderDocument
    graph: bytes = field(repr=False)


def decoder_folder(profiles: Path, profile: str) -> Path:
    """Where the decoder of a profile is; no profile can have this folder's name."""
    return profiles / f"{profile}.decoder"


def read_decoder(profiles: Path, profile: str) -> DecoderFile | None:
    """The decoder beside a profile; None where there is none.

    Raises:
        SetupError: it is damaged, or its graph is not the one that its description names.
    """
    folder = decoder_folder(profiles, profile)
    if not folder.is_dir():
        return None
    wrong = (
        f"The decoder in {folder} is damaged; write it again with patronus lab export-decoder, or remove the folder."
    )
    try:
        document = DecoderDocument.model_validate_json((folder / _DOCUMENT).read_bytes())
        graph = (folder / _GRAPH).read_bytes()
    except (OSError, ValidationError):
        raise SetupError(wrong) from None
    if hashlib.sha256(graph).hexdigest() != document.sha256:
        raise SetupError(wrong)
    return DecoderFile(document, graph)


def write_decoder(profiles: Path, profile: str, found: DecoderFile, *, replace: bool) -> Path:
    """Writes a decoder beside a profile; the description last, so that a half-written decoder is refused.

    Returns:
        its folder.

    Raises:
        Conflict: there is one, and it is not to be replaced.
        SetupError: the folder cannot be written.
    """
    folder = decoder_folder(profiles, profile)
    if folder.exists() and not replace:
        raise Conflict(f"A decoder is in {folder} already; remove it, or replace it with --replace.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _DOCUMENT).unlink(missing_ok=True)
        write_whole(folder / _GRAPH, found.graph)
        write_whole(folder / _DOCUMENT, (found.document.model_dump_json(indent=1) + "\n").encode())
    except OSError as error:
        raise SetupError(f"The folder {folder} cannot be written ({error.strerror}).") from None
    return folder
