"""Reads .npz files in batches, without running code that is in them, and writes them atomically."""

from __future__ import annotations

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_service.models.files import replaced_file
from shared.errors import BadRequest, Conflict

# RuntimeError: it is encrypted; MemoryError: a header claims more than there is.
_DAMAGED: Final = (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, RuntimeError, MemoryError)


class Embeddings:
    """The array ``embeddings`` of a file, read in batches, and arrays of strings beside it.

    Args:
        path: of a file that ``numpy.savez`` or ``numpy.savez_compressed`` wrote.

    Raises:
        BadRequest: the file is missing, not an .npz, or has no float32 array ``embeddings`` of n rows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened() as archive:
            self.names = frozenset(name.removesuffix(".npy") for name in archive.namelist())
            if "embeddings" not in self.names:
                raise BadRequest(f"{path}: holds no array named embeddings.")
            with archive.open("embeddings.npy") as member:
                shape, in_columns, dtype = _header(member)
        if dtype != np.float32:
            raise BadRequest(f"{path}: embeddings are {dtype}; save them as float32.")
        if len(shape) != 2 or not all(type(length) is int and length > 0 for length in shape) or in_columns:
            order = " in the order of columns" if in_columns else ""
            raise BadRequest(f"{path}: embeddings are {shape}{order}, not n rows of d values in the order of rows.")
        self.count, self.dim = shape
        self._dtype = dtype

    def batches(self, rows: int) -> Iterator[NDArray[np.float32]]:
        """Yields the embeddings, (up to ``rows``, d) float32 at a time.

        Raises:
            BadRequest: the file is cut off or damaged.
        """
        row_bytes = self.dim * self._dtype.itemsize
        with self._opened() as archive, archive.open("embeddings.npy") as member:
            _header(member)
            for start in range(0, self.count, rows):
                wanted = min(rows, self.count - start)
                content = member.read(wanted * row_bytes)
                if len(content) != wanted * row_bytes:
                    raise ValueError
                yield np.frombuffer(content, self._dtype).astype(np.float32).reshape(wanted, self.dim)

    def strings(self, name: str) -> list[str]:
        """An array of n strings.

        Raises:
            BadRequest: the file has no such array.
        """
        if name not in self.names:
            raise BadRequest(f"{self.path}: holds no array named {name}.")
        with self._opened() as archive, archive.open(f"{name}.npy") as member:
            _, _, dtype = _header(member)
            if dtype.kind != "U":
                kind = "Python objects" if dtype.hasobject else str(dtype)
                raise BadRequest(
                    f"{self.path}: {name} are {kind}, not text; save a list of str: {name}=np.array([...])."
                )
        with self._opened() as archive, archive.open(f"{name}.npy") as member:
            found = np.lib.format.read_array(member, allow_pickle=False)
        if found.shape != (self.count,):
            raise BadRequest(f"{self.path}: {name} is not one string for each of the {self.count} embeddings.")
        strings: list[str] = found.tolist()
        return strings

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        except FileNotFoundError:
            raise BadRequest(f"{self.path}: there is no such file.") from None
        except OSError as error:
            raise BadRequest(f"{self.path}: cannot be read ({error.strerror}).") from None
        except _DAMAGED:
            raise self._not_whole() from None

    def _not_whole(self) -> BadRequest:
        with contextlib.suppress(OSError), self.path.open("rb") as file:
            if file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
                return BadRequest(
                    f"{self.path}: is an .npy, one array without a name; give an .npz, as "
                    'np.savez("FILE.npz", embeddings=array) writes it, for migrate also with subjects=names.'
                )
        return BadRequest(f"{self.path}: is not a whole .npz file of plain arrays.")


def in_few_digits(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Numbers of nine digits that are these float32 values when they are rounded: written as JSON, half as long.

    Args:
        rows: (n, d) float32.

    Returns:
        (n, d) float64; a value that has no such number stays as it is.
    """
    wide = rows.astype(np.float64)
    with np.errstate(all="ignore"):
        scale = 10.0 ** (8 - np.floor(np.log10(np.abs(wide))))
        short = np.rint(wide * scale) / scale
        return np.where(short.astype(np.float32) == rows, short, wide)


@contextmanager
def new_rows(archive: zipfile.ZipFile, name: str, count: int, dim: int) -> Iterator[IO[bytes]]:
    """Adds a float32 array (count, dim); the caller writes its rows, little-endian, to the yielded file."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, dim)}
        np.lib.format.write_array_header_1_0(member, header)
        yield member


def put_array(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    """Adds a whole array."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


@contextmanager
def new_arrays_file(path: Path, *, force: bool) -> Iterator[zipfile.ZipFile]:
    """Writes a file of arrays that appears only when this ends well. Only its owner can read it.

    Args:
        path: of the new file.
        force: whether an existing file may be replaced.

    Raises:
        Conflict: it exists and may not be replaced.
        BadRequest: the folder cannot be written.
    """
    try:
        _refuse_existing(path, force=force)
        with replaced_file(path) as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                yield archive
            _refuse_existing(path, force=force)
    except OSError as error:
        raise BadRequest(f"{path}: cannot be written ({error.strerror}).") from None


def _refuse_existing(path: Path, *, force: bool) -> None:
    if path.is_dir() or (os.path.lexists(path) and not force):
        raise Conflict(f"{path}: exists already; choose another name, or replace it with --force.")


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError
    found: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(member)
    return found
