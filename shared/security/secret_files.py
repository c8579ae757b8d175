"""Files that only their owner may read: keys, and the digests of keys.

Here because both services must treat such a file alike: made with mode 0600, replaced whole or not at all, and refused
when anybody else can read it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shared.errors import SetupError

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
# What `tempfile.mkstemp` appends to a prefix.
_RANDOM_SUFFIX: Final = re.compile(r"[a-z0-9_]{8}")
# The largest are a service's digests of API keys, at some 300 bytes a key.
_MOST_BYTES: Final = 16 * 1024**2
# Bytes of a name in a folder (Linux and macOS), and those that a temporary file's or a lock's has beside its own.
_LONGEST_NAME: Final = 255
_BESIDE: Final = 10
# What to do about a folder that cannot be written: a service's own, and one that somebody named on a command line or in
# a program.
NAME_ANOTHER_HOME: Final = "name another, for keys and data with PATRONUS_HOME"
NAME_ANOTHER_FILE: Final = "name a file in a folder that this user can write"


def read_secret(path: Path) -> bytes:
    """The bytes of a private file.

    Raises:
        FileNotFoundError: it is not there.
        SetupError: it is not a plain file, larger than any, or its owner is somebody else, or others may read or change
            it.
    """
    try:
        # Without O_NONBLOCK, a named pipe in the file's place would hold the start up for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SetupError(
                f"The key file {path} is a symbolic link, and no plain file; name the file that it leads to."
            ) from None
        raise SetupError(f"The key file {path} cannot be opened by this user ({error.strerror}).") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SetupError(f"The key file {path} is not a plain file.")
        if status.st_uid != os.geteuid():
            raise SetupError(f"The key file {path} belongs to another user; give it to the user that runs the service.")
        if status.st_mode & _OTHERS:
            raise SetupError(f"The key file {path} can be read by others; run: chmod 600 {path}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            if status.st_size > _MOST_BYTES:
                raise SetupError(f"The file {path} is over {_MOST_BYTES // 1024**2} MiB, which no key file is.")
            return file.read()
    finally:
        os.close(descriptor)


def write_secret(path: Path, content: bytes, *, replace: bool, remedy: str = NAME_ANOTHER_HOME) -> None:
    """Writes a private file, whole or not at all, with mode 0600 from its first moment.

    Args:
        path: where; missing folders are made with mode 0700.
        content: what.
        replace: whether an existing file may be replaced.
        remedy: what to do where the folder cannot be written.

    Raises:
        FileExistsError: it is there and may not be replaced.
        SetupError: the folder cannot be written, or its disk is full, or the name is too long.
    """
    with _writing_to(path, remedy):
        make_private_folder(path.parent)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp: mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            os.link(temporary, path)  # fails if it exists: of two first starts at once, one wins
        sync_folder(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise SetupError(f"The file {path} cannot be written ({error.strerror}).") from None
    finally:
        temporary.unlink(missing_ok=True)


def leftovers(path: Path) -> list[Path]:
    """Temporary files of ``write_secret`` whose process was killed, or is still writing.

    They hold secrets, and a killed writer's file may even be a second link to ``path``. Remove them only while holding
    the lock that every writer of ``path`` takes.
    """
    prefix = f".{path.name}."
    return [
        found
        for found in (path.parent.iterdir() if path.parent.is_dir() else ())
        if found.name.startswith(prefix) and _RANDOM_SUFFIX.fullmatch(found.name.removeprefix(prefix))
    ]


def remove_leftovers(*paths: Path) -> None:
    """Removes files that killed writers left; the caller holds the lock of all writers.

    Raises:
        SetupError: the folder cannot be written.
    """
    for path in paths:
        with _writing_to(path):
            for found in leftovers(path):
                found.unlink(missing_ok=True)


def make_private_folder(folder: Path) -> None:
    """Makes a folder with mode 0700, and those above it, so that they outlast a loss of power.

    Raises:
        OSError: it cannot be made.
    """
    if folder.is_dir():
        return
    make_private_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def require_folder(path: Path) -> None:
    """Refuses a file whose folder is not there: perhaps that of a disk that is not mounted.

    Raises:
        SetupError: there is no such folder.
    """
    if not path.parent.is_dir():
        raise SetupError(f"There is no folder {path.parent}; make it, or mount its disk, and try again.")


@contextlib.contextmanager
def locked(path: Path, *, remedy: str = NAME_ANOTHER_HOME) -> Iterator[None]:
    """Holds a lock of ``path`` across processes while it is read, changed and written.

    Args:
        path: of the file.
        remedy: what to do where the folder cannot be written.

    Raises:
        SetupError: the folder cannot be written, or the name is too long.
    """
    with _writing_to(path, remedy):
        make_private_folder(path.parent)
        descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Writes a folder's names to the disk, so that a rename survives a loss of power.

    Raises:
        OSError: it cannot be opened or synchronized.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _writing_to(path: Path, remedy: str = NAME_ANOTHER_HOME) -> Iterator[None]:
    """Says it in one sentence if the folder of a file cannot be written."""
    if len(os.fsencode(path.name)) > _LONGEST_NAME - _BESIDE:
        raise SetupError(f"The name of the file {path} is too long; give it one of up to 245 bytes.")
    try:
        yield
    except OSError as error:
        raise SetupError(f"The folder {path.parent} cannot be written ({error.strerror}); {remedy}.") from None
