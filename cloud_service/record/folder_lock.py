"""A lock file beside the record: of two processes on one record, the second is refused."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from shared.errors import SetupError


class FolderLock:
    """Held from making it until ``release``, and let go by the system when the process dies.

    The index lives in one process: a second writer would leave it behind the record without noticing.

    Args:
        path: the file of the record; missing folders are made with mode 0700.

    Raises:
        SetupError: somebody else holds it, or the folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock_file = path.with_name(f".{path.name}.lock")
            self._descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            raise SetupError(
                f"The folder {path.parent} cannot be written; name another with PATRONUS_CLOUD__HOME."
            ) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise SetupError(f"A cloud service is using the record {path}; stop it first.") from None

    def release(self) -> None:
        """Lets go of the record."""
        os.close(self._descriptor)
