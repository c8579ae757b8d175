"""Files that only their owner may read: keys, and the digests of keys.

Here because both services must treat such a file alike: made with mode 0600, replaced whole or not at all, and refused
when anybody else can read it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from shared.errors import SetupError

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_secret(path: Path) -> bytes:
    """The bytes of a private file.

    Raises:
        FileNotFoundError: it is not there.
        SetupError: it is not a plain file, or its owner is somebody else, or others may read or change it.
    """
    try:
        # Without O_NONBLOCK, a named pipe in the file's place would hold the start up for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError:
        raise SetupError(f"The key file {path} cannot be opened as a plain file by this user.") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SetupError(f"The key file {path} is not a plain file.")
        if status.st_uid != os.geteuid():
            raise SetupError(f"The key file {path} belongs to another user; give it to the user that runs the service.")
        if status.st_mode & _OTHERS:
            raise SetupError(f"The key file {path} can be read by others; run: chmod 600 {path}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def write_secret(path: Path, content: bytes, *, replace: bool) -> None:
    """Writes a private file, whole or not at all, with mode 0600 from its first moment.

    Args:
        path: where; missing folders are made with mode 0700.
        content: what.
        replace: whether an existing file may be replaced.

    Raises:
        FileExistsError: it is there and may not be replaced.
        SetupError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp: mode 0600
    except OSError:
        raise _not_writable(path.parent) from None
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
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    _sync_folder(path.parent)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock beside ``path`` while it is read, changed and written back, across processes.

    Raises:
        SetupError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        raise _not_writable(path.parent) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _not_writable(folder: Path) -> SetupError:
    return SetupError(f"The folder {folder} cannot be written; name another with PATRONUS_HOME.")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
