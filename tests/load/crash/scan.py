"""Searches files for vectors, at any offset and across pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_PIECE = 8


def pieces_of(*vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
    """All pairs of values of (n, d) float32 rows, d even, as sorted 8-byte pieces."""
    return np.unique(
        np.concatenate([np.ascontiguousarray(rows, dtype="<f4").view(np.uint64).ravel() for rows in vectors])
    )


def held_in(folder: Path, pieces: NDArray[np.uint64]) -> dict[str, int]:
    """The number of these pieces in each file under a folder; files without any are left out."""
    found = {}
    for file in sorted(folder.rglob("*")):
        content = file.read_bytes() if file.is_file() and len(pieces) else b""
        held = 0
        for at in range(min(_PIECE, len(content))):
            window = np.frombuffer(content, np.uint64, count=(len(content) - at) // _PIECE, offset=at)
            places = np.minimum(np.searchsorted(pieces, window), len(pieces) - 1)
            held += int((pieces[places] == window).sum())
        if held:
            found[str(file.relative_to(folder))] = held
    return found
