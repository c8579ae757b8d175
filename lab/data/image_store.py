"""Where decoded pictures and their embeddings are kept between runs: files in a folder that git ignores.

Each entry is keyed by a digest of all that it was made from, so nothing is ever out of date; it can be deleted at any
time. An entry is written beside its place and moved there whole, so that runs at the same time, or a crash, do no harm.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_service.models.files import replaced_file
from shared.errors import SetupError

DEFAULT: Final = Path(".lab")


def digest_of(*parts: object) -> str:
    """The hex SHA-256 of some plain values, as JSON."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears at its place, whole, when the block ends without an error.

    Raises:
        SetupError: the folder cannot be written, or is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(path) as file:
            yield file
    except OSError as problem:
        raise SetupError(
            f"The folder {path.parent} cannot hold {path.name} ({problem.strerror}); "
            "make room there, or name another folder.",
            reason="folder-unwritable",
        ) from problem


def load_rows(path: Path) -> NDArray[Any] | None:
    """A ``.npy`` file, mapped and read-only; None where there is none, or a damaged one."""
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError):
        return None
