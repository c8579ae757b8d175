"""Checks digests, writes files atomically, and locks a folder against a second set-up."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

from shared.errors import SetupError
from shared.security.secret_files import sync_folder

# A first set-up downloads 10 MB and converts for seconds; a lock held longer than this belongs to a stuck process.
LOCK_PATIENCE_S = 900.0
LOCK_POLL_S = 0.1
READABLE_FOR_OTHERS = 0o644
_PREFIX: Final = ".patronus."
_OWN_DESCRIPTORS: Final = Path("/proc/self/fd")
# How a file system, or an old kernel, says that it has no files without a name.
_HAS_NONE: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOSYS, errno.EINVAL})


def sha256_of(data: bytes) -> str:
    """The hex SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str | None:
    """The hex SHA-256 of a file, or None where there is no file.

    Raises:
        SetupError: the file is there but cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as problem:
        raise SetupError(
            f"The file {path.name} cannot be read ({problem.strerror}); give this account the right to read it."
        ) from problem


def read_at_most(path: Path, most: int) -> bytes:
    """The bytes of a small file.

    Args:
        path: of it.
        most: bytes that it may have.

    Raises:
        OSError: it cannot be read, or is larger (``EFBIG``).
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return content


def check_digest(what: str, data: bytes, expected: str, remedy: str) -> None:
    """Compares the digest of some bytes with the one that the manifest pins.

    Args:
        what: names the bytes, as the start of a sentence.
        data: the bytes.
        expected: hex SHA-256.
        remedy: what to do, as the end of a sentence without its full stop.

    Raises:
        SetupError: they differ; `extra` holds both digests in full.
    """
    found = sha256_of(data)
    if found != expected:
        raise SetupError(
            f"{what} has SHA-256 {found[:12]}… where the manifest has {expected[:12]}…; {remedy}.",
            reason="digest-mismatch",
            expected=expected,
            found=found,
        )


@contextlib.contextmanager
def replaced_file(path: Path, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """Writes a file that takes its place whole, and on the disk, when the block ends without an error.

    A reader, or a crash at any moment, finds the old file or the new one. Where the file system can (Linux, most of
    them), the file has no name until it is whole, so that a killed process leaves nothing; elsewhere ``SIGTERM``, which
    else ends a process at once, removes it.

    Raises:
        OSError: the folder cannot be written, or is full.
    """
    temporary: Path | None = None
    with contextlib.ExitStack() as ends:
        file = _unnamed_file(path.parent)
        if file is None:
            ends.enter_context(_unwound_by_sigterm())
            file = tempfile.NamedTemporaryFile(dir=path.parent, prefix=_PREFIX, delete=False)  # noqa: SIM115
            temporary = Path(file.name)
            ends.callback(temporary.unlink, missing_ok=True)
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), mode)
            if temporary is None:
                temporary = path.with_name(f"{_PREFIX}{secrets.token_hex(4)}")
                ends.callback(temporary.unlink, missing_ok=True)
                _name_file(file, temporary)
        temporary.replace(path)
    with contextlib.suppress(OSError):  # some network file systems refuse this; the rename itself has happened
        sync_folder(path.parent)


def _unnamed_file(folder: Path) -> IO[bytes] | None:
    """A new file without a name, mode 0600; None where the system has none."""
    if not hasattr(os, "O_TMPFILE") or not _OWN_DESCRIPTORS.is_dir():
        return None
    try:
        return os.fdopen(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), "w+b")
    except OSError as problem:
        if problem.errno in _HAS_NONE:
            return None
        raise


def _name_file(file: IO[bytes], path: Path) -> None:
    """Gives a file without a name one that no other file has (open(2), O_TMPFILE)."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(_OWN_DESCRIPTORS / str(file.fileno()), path.name, dst_dir_fd=folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _unwound_by_sigterm() -> Iterator[None]:
    """Ends the process through its ``finally`` blocks, unless the program has a way of its own."""
    alone = threading.current_thread() is threading.main_thread()
    if not alone or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file atomically, for services under other accounts to read.

    Raises:
        SetupError: the folder cannot be written, or is full.
    """
    try:
        with replaced_file(path, READABLE_FOR_OTHERS) as file:
            file.write(data)
    except OSError as problem:
        raise SetupError(
            f"The folder {path.parent} cannot hold {path.name} ({problem.strerror}); make room there and give this "
            "account the right to write."
        ) from problem


@contextlib.contextmanager
def folder_lock(folder: Path, on_wait: Callable[[], None], patience_s: float = LOCK_PATIENCE_S) -> Iterator[None]:
    """Holds the folder's lock; a second set-up waits and then finds the work done.

    The operating system frees the lock when its holder ends, however it ends. The lock file may stay.

    Raises:
        SetupError: the folder cannot be written, or another process holds the lock for longer than `patience_s`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, READABLE_FOR_OTHERS)
    except OSError as problem:
        raise SetupError(
            f"The models folder cannot hold its lock file ({problem.strerror}); make room and give this account the "
            "right to write there, or set PATRONUS_MODELS to another folder."
        ) from problem
    try:
        if not _locks(handle):
            on_wait()
            deadline = time.monotonic() + patience_s
            while not _locks(handle):
                if time.monotonic() >= deadline:
                    raise SetupError(
                        "Another set-up has held the models folder for too long; end that process and try again."
                    )
                time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(handle)


def _locks(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
