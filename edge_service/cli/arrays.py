"""Reads .npz files in batches, without running code that is in them, and writes them atomically.

What a file claims of its sizes is compared with what it holds before anything is read or reserved for it.
"""

from __future__ import annotations

import contextlib
import os
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_service.models.files import replaced_file
from shared.contract import MAX_DIM
from shared.errors import BadRequest, Conflict

# RuntimeError: it is encrypted, or its header nests too deep.
_DAMAGED: Final = (
    *(ValueError, EOFError, LookupError, TypeError, SyntaxError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)
# What NumPy writes. ``zipfile`` unpacks bzip2 and LZMA without a limit: a read of one row can take gigabytes.
_COMPRESSIONS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
# NumPy writes 118 bytes, and reads no header of over 10,000 characters.
_MOST_HEADER_BYTES: Final = 65_536
# Longer than any name that can be enrolled, so that each row with such a name can be reported.
_MOST_CHARACTERS: Final = 4_096
# Of names, which are all in memory at once.
_MOST_STRINGS: Final = 2**24
_STRINGS_A_BATCH: Final = 1_024
_LAST_CODE_POINT: Final = 0x10FFFF
_MOST_NAMES_SHOWN: Final = 8


class Embeddings:
    """The array ``embeddings`` of a file, read in batches, and arrays of strings beside it.

    Args:
        path: of a file that ``numpy.savez`` or ``numpy.savez_compressed`` wrote.

    Raises:
        BadRequest: the file is missing, not an .npz, compressed in a way that NumPy does not write, has no float32
            array ``embeddings`` of n rows of up to 4,096 values, or holds less or more than it claims.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened() as archive:
            self.names = frozenset(name.removesuffix(".npy") for name in archive.namelist())
            if "embeddings" not in self.names:
                raise self._lacks("embeddings")
            with archive.open("embeddings.npy") as member:
                shape, in_columns, dtype = _header(member)
                content_bytes = archive.getinfo("embeddings.npy").file_size - member.tell()
        if dtype != np.float32:
            raise BadRequest(f"{path}: embeddings are {dtype}; save them as float32.")
        if len(shape) != 2 or not all(type(length) is int and length > 0 for length in shape) or in_columns:
            order = " in the order of columns" if in_columns else ""
            raise BadRequest(f"{path}: embeddings are {shape}{order}, not n rows of d values in the order of rows.")
        self.count, self.dim = shape
        self._dtype = dtype
        if self.dim > MAX_DIM:
            raise BadRequest(f"{path}: embeddings are {shape}; an embedding has {MAX_DIM:,} values at most.")
        if content_bytes != self.count * self.dim * dtype.itemsize:
            raise self._not_whole()

    def batches(self, rows: int) -> Iterator[NDArray[np.float32]]:
        """Yields the embeddings, (up to ``rows``, d) float32 at a time.

        Raises:
            BadRequest: the file is cut off or damaged.
        """
        with self._opened() as archive, archive.open("embeddings.npy") as member:
            _header(member)
            for content in _blocks(member, self.count, rows, self.dim * self._dtype.itemsize):
                yield np.frombuffer(content, self._dtype).astype(np.float32).reshape(-1, self.dim)

    def strings(self, name: str) -> list[str]:
        """An array of n strings.

        Raises:
            BadRequest: the file has no such array, or strings or their number are too long to be names.
        """
        if name not in self.names:
            raise self._lacks(name)
        if self.count > _MOST_STRINGS:
            raise BadRequest(f"{self.path}: holds over {_MOST_STRINGS:,} embeddings; split it into several files.")
        with self._opened() as archive, archive.open(f"{name}.npy") as member:
            shape, _, dtype = _header(member)
            if dtype.kind != "U":
                kind = "Python objects" if dtype.hasobject else str(dtype)
                raise BadRequest(
                    f"{self.path}: {name} are {kind}, not text; save a list of str: {name}=np.array([...])."
                )
            if shape != (self.count,):
                raise BadRequest(f"{self.path}: {name} is not one string for each of the {self.count} embeddings.")
            if dtype.itemsize > 4 * _MOST_CHARACTERS:
                raise BadRequest(f"{self.path}: {name} are longer than {_MOST_CHARACTERS:,} characters.")
            if not dtype.itemsize:  # every string is empty
                return [""] * self.count
            found: list[str] = []
            for content in _blocks(member, self.count, _STRINGS_A_BATCH, dtype.itemsize):
                code_points = np.frombuffer(content, np.dtype(np.uint32).newbyteorder(dtype.byteorder))
                if code_points.max() > _LAST_CODE_POINT:
                    raise ValueError
                found += np.frombuffer(content, dtype).tolist()
            return found

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                # As many bytes as a member claims are reserved for a read of it.
                size = self.path.stat().st_size
                if any(member.compress_size > size for member in archive.infolist()):
                    raise ValueError
                if any(member.compress_type not in _COMPRESSIONS for member in archive.infolist()):
                    raise BadRequest(
                        f"{self.path}: is compressed in a way that NumPy does not write; "
                        "save it again with numpy.savez or numpy.savez_compressed."
                    )
                yield archive
        except FileNotFoundError:
            raise BadRequest(f"{self.path}: there is no such file.") from None
        except OSError as error:
            raise BadRequest(f"{self.path}: cannot be read ({error.strerror}).") from None
        except _DAMAGED:
            raise self._not_whole() from None

    def _lacks(self, name: str) -> BadRequest:
        held = sorted(self.names)
        shown = ", ".join(held[:_MOST_NAMES_SHOWN]) + (", …" if len(held) > _MOST_NAMES_SHOWN else "")
        return BadRequest(f"{self.path}: holds no array named {name}; it holds {shown or 'none'}.")

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


def _blocks(member: IO[bytes], count: int, rows: int, row_bytes: int) -> Iterator[bytes]:
    """The content of ``count`` rows, up to ``rows`` at a time; a ValueError where it ends early, or does not end."""
    for start in range(0, count, rows):
        wanted = min(rows, count - start) * row_bytes
        content = member.read(wanted)
        if len(content) != wanted:
            raise ValueError
        yield content
    if member.read(1):  # also compares the checksum, which ``zipfile`` does at the end only
        raise ValueError


class _Header:
    """The beginning of an array's file. A header that claims to be longer than any is not read."""

    def __init__(self, member: IO[bytes]) -> None:
        self._member = member

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= _MOST_HEADER_BYTES:
            raise ValueError
        return self._member.read(size)


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version, file = np.lib.format.read_magic(member), _Header(member)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError
    with warnings.catch_warnings(action="ignore"):  # NumPy's of Python 2's headers, Python's of odd literals
        found: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(file)
    return found
