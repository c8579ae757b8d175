"""Where decoded pictures and their embeddings are kept between runs: a folder of ``.npy`` files that git ignores.

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
from numpy.lib import format as npy
from numpy.typing import NDArray

from edge_service.models.files import replaced_file
from shared.errors import SetupError

DEFAULT: Final = Path(".lab")


def digest_of(*parts: object) -> str:
    """The hex SHA-256 of some plain values, as JSON."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()


class NpyWriter:
    """Rows of one shape, written one by one into a ``.npy`` file; their number goes into its header at the end."""

    def __init__(self, file: IO[bytes], row_shape: tuple[int, ...], dtype: str) -> None:
        self._file, self._row, self._dtype = file, row_shape, np.dtype(dtype)
        self.rows = 0
        self._header()

    def add(self, row: NDArray[Any]) -> None:
        """One more row, of the shape and type."""
        if row.shape != self._row or row.dtype != self._dtype:
            raise ValueError(f"a row of {row.shape} {row.dtype} is not {self._row} {self._dtype}")
        self._file.write(np.ascontiguousarray(row).tobytes())
        self.rows += 1

    def finish(self) -> None:
        """Writes the number of rows over the header's first one; NumPy leaves room for it to grow."""
        self._file.seek(0)
        self._header()

    def _header(self) -> None:
        shape = (self.rows, *self._row)
        header = {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(self._file, header)


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
