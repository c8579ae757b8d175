"""Pictures to send: files, bytes and open files. A file is read while it is sent, and never held whole."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Final

from shared.errors import BadRequest
from shared.strict_types import wrong_type

# A path, the content of a file, or a file that is open for reading bytes.
Picture = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]
Part = tuple[str, tuple[str, bytes | IO[bytes], str]]

# No edge takes more in one request.
_MOST_BYTES: Final = 64 * 1024 * 1024


@contextmanager
def parts(pictures: Sequence[Picture]) -> Iterator[list[Part]]:
    """The parts ``image`` of a multipart body, for one sending of it. Files that it opened are closed afterwards.

    The name of a file is not sent: it may be that of a person.

    Raises:
        BadRequest: a file cannot be read, is not a plain one, or is larger than any edge takes.
        TypeError: it is no picture.
    """
    with ExitStack() as opened:
        yield [("image", ("picture", _content(one, opened), "application/octet-stream")) for one in pictures]


def _content(picture: Picture, opened: ExitStack) -> bytes | IO[bytes]:
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, str | os.PathLike):
        return opened.enter_context(_plain_file(Path(os.fsdecode(picture))))
    if isinstance(picture, list | tuple | set | frozenset):
        raise TypeError(f"a picture is not a {type(picture).__name__} of them; pass them one by one: *pictures")
    if not all(hasattr(picture, name) for name in ("read", "seek", "seekable")):
        raise wrong_type("a picture", "a path, bytes, or a file open for reading bytes", picture)
    try:
        if not picture.seekable():
            raise BadRequest("This file cannot be read twice; read it, and give the bytes.", reason="not_seekable")
        picture.seek(0)  # it is sent from its beginning, at a second sending too
        if not isinstance(picture.read(0), bytes):
            raise TypeError("a picture is a file open for reading bytes, not text; open it with mode 'rb'")
    except (OSError, ValueError):
        raise BadRequest("This file is closed, or not open for reading; open it with mode 'rb'.") from None
    return picture


def _plain_file(path: Path) -> IO[bytes]:
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for whoever writes into it
            raise BadRequest(f"{path}: is not a plain file; give a JPEG, PNG or WebP picture.")
        if path.stat().st_size > _MOST_BYTES:
            raise BadRequest(f"{path}: is too large to be a picture.")
        return path.open("rb")
    except OSError as error:
        raise BadRequest(f"{path}: cannot be read ({error.strerror}).") from None
    except ValueError:  # a null byte, or half a surrogate pair
        raise BadRequest(f"No file can have the name {str(path)!r}.") from None
