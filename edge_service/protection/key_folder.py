"""The files of a key folder. Each change is one rename, or is completed at the next start.

::

    master.key               the secret from which the keys of galleries follow, and its check
    gallery_keys/NAME.key    a key of another edge, encrypted under the master key
    picture_ids/NAME.key     the secret that ids of pictures follow from, where a former master key made it
    before/                  old keys, in a folder of the same form
    .before.new, .before.old `before` while it is being built, and while it is being destroyed

Names and bytes only, no cryptography. ``KeyStore`` interprets the bytes.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from shared.errors import SetupError
from shared.security.secret_files import leftovers, locked, read_secret, sync_folder, write_secret

_MASTER: Final = "master.key"
_IMPORTED: Final = "gallery_keys"
_PICTURE_IDS: Final = "picture_ids"
_BEFORE: Final = "before"
_BUILT: Final = ".before.new"
_DESTROYED: Final = ".before.old"


class KeyFolder:
    """One key folder.

    Args:
        folder: private; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.master = folder / _MASTER
        self.before = folder / _BEFORE

    def imported(self, gallery: str) -> Path:
        """The file of a gallery's imported key."""
        return self.folder / _IMPORTED / f"{gallery}.key"

    def picture_ids(self, gallery: str) -> Path:
        """The file of a gallery's secret for picture ids, if a former master key made it."""
        return self.folder / _PICTURE_IDS / f"{gallery}.key"

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Locks the folder for a change, and first completes an unfinished one.

        Raises:
            SetupError: the folder cannot be written.
        """
        with locked(self.master):
            self._finish()
            if self.before.exists() and not (self.before / _MASTER).exists():
                self.destroy_before()  # earlier versions removed file by file, the master key first
            yield

    def finish(self) -> None:
        """Completes the change of a program that was killed; writes nothing if there is none.

        Raises:
            SetupError: there is one, and the folder cannot be written.
        """
        if self._unfinished():
            with locked(self.master):  # waits for a program that is still changing the folder
                self._finish()

    def put_before(self, master: bytes, imported: dict[str, bytes]) -> None:
        """Creates the folder of old keys by one rename; the caller has locked the folder.

        Args:
            master: the content of its master key's file.
            imported: the contents of its imported keys' files, by gallery.

        Raises:
            SetupError: the folder cannot be written.
        """
        built = KeyFolder(self.folder / _BUILT)
        write_secret(built.master, master, replace=True)
        for gallery, content in imported.items():
            write_secret(built.imported(gallery), content, replace=True)
        self._rename(built.folder, self.before)

    def imported_files(self) -> dict[str, bytes]:
        """The contents of the imported keys' files, by gallery.

        Raises:
            SetupError: one is foreign, or readable by others.
        """
        return {path.stem: read_secret(path) for path in sorted((self.folder / _IMPORTED).glob("[!.]*.key"))}

    def destroy_before(self) -> None:
        """Destroys the old keys, unusable after one rename; the caller has locked the folder.

        Raises:
            SetupError: the folder cannot be written.
        """
        self._rename(self.before, self.folder / _DESTROYED)
        self._remove(self.folder / _DESTROYED)

    def _rename(self, source: Path, target: Path) -> None:
        try:
            source.rename(target)
            sync_folder(self.folder)
        except OSError as error:
            raise SetupError(f"The folder {self.folder} cannot be written ({error.strerror}).") from None

    def _remove(self, found: Path) -> None:
        try:
            if found.is_dir():
                shutil.rmtree(found)
            else:
                found.unlink(missing_ok=True)
            sync_folder(found.parent)
        except OSError as error:
            raise SetupError(f"{found} cannot be removed ({error.strerror}).") from None

    def _finish(self) -> None:
        while steps := self._unfinished():
            for step in steps:
                step()

    def _unfinished(self) -> list[Callable[[], None]]:
        """The steps that complete an unfinished change."""
        stale = [found for name in (_BUILT, _DESTROYED) if (found := self.folder / name).exists()]
        stale += leftovers(self.master)
        for folder in (self.folder / _IMPORTED, self.folder / _PICTURE_IDS):
            written = {path.name.removeprefix(".").rsplit(".", 1)[0] for path in folder.glob(".*")}
            stale += [found for name in written for found in leftovers(folder / name)]
        if stale:
            return [partial(self._remove, found) for found in stale]
        return self._unfinished_renewal()

    def _unfinished_renewal(self) -> list[Callable[[], None]]:
        """Steps of a renewal: copy keys to ``before``, replace the master, remove imported keys."""
        old = KeyFolder(self.before)
        try:
            # The secrets alone: a file of an earlier version has no check behind it.
            renewed = read_secret(old.master).split()[:1] != read_secret(self.master).split()[:1]
        except FileNotFoundError:
            return []
        ours, theirs = self.imported_files(), old.imported_files()
        if renewed:  # a key that was imported since is under a nonce of its own, and so never equal
            same = [gallery for gallery in ours if theirs.get(gallery) == ours[gallery]]
            return [partial(self._remove, self.imported(gallery)) for gallery in same]
        # The master key was not replaced, so nothing was changed: all keys go back to where they were.
        missing = [
            partial(write_secret, self.imported(gallery), content, replace=True)
            for gallery, content in theirs.items()
            if gallery not in ours
        ]
        if missing:
            return [*missing]
        adds_nothing = ours.items() >= theirs.items() and not old.before.exists()
        return [self.destroy_before] if adds_nothing else []
