"""Snapshots of an index: its full segments as files, for a quick start.

A file is trusted when its digest stands in the record, and in no other case: one that is damaged, or of another record,
or of a time before a backup was restored, is not read but rebuilt. An erasure takes away the digest of each file that
holds what is erased, in its own transaction; the file is overwritten afterwards, before the erasure is acknowledged.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, delete, func, insert, select

from cloud_service.entries.queries import all_entries_of, entry_column
from cloud_service.index.segment import Segment, width_of
from cloud_service.record.database import Database
from cloud_service.record.queries import PinnedGallery
from cloud_service.record.tables import gallery, segment_file
from shared.errors import InsufficientStorage, RecordUnavailable, place_of
from shared.logs import get_logger
from shared.security.secret_files import sync_folder
from shared.wire.cloud import SnapshotInfo

_log = get_logger(__name__)

_MAGIC: Final = b"patronus segment 1\n"
# Length of a template, rows, reach, and what was lost at most; then (rows,) int64 ids and (rows, wide) uint8 codes.
_HEAD: Final = struct.Struct("<IQdd")
_CHUNK: Final = 1 << 20
_READERS: Final = 4
_NO_IDS: Final = np.empty(0, np.int64)


class Snapshots:
    """The index files of all galleries, and the journal that keeps the record's list of them.

    Args:
        database: where the record is.
        folder: of the files; made where it is missing, private.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        # A file is not swept away before its digest is written down. `_next` queues the waiting thread: the thread that
        # writes file after file would otherwise get the lock again before an erasure does.
        self._writing, self._next = threading.Lock(), threading.Lock()
        # In which file a segment stands.
        self._names: WeakKeyDictionary[Segment, str] = WeakKeyDictionary()

    def added(self, connection: Connection, pinned: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Does nothing: new entries stand in no file."""

    def removed(self, connection: Connection, pinned: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Trusts the files that hold one of these entries no more."""
        query = select(segment_file.c.id, segment_file.c.first_id, segment_file.c.last_id)
        files = connection.execute(query.where(segment_file.c.gallery_id == pinned.id)).all()
        hit = [file.id for file in files if _may_hold(file, ids)]
        if hit:
            connection.execute(delete(segment_file).where(segment_file.c.id.in_(hit)))

    def dropped(self, connection: Connection, pinned: PinnedGallery) -> None:
        """Trusts no file of the gallery any more."""
        connection.execute(delete(segment_file).where(segment_file.c.gallery_id == pinned.id))

    def info(self, pinned: PinnedGallery) -> SnapshotInfo:
        """How many files hold how many entries of a gallery."""
        query = select(func.count(), func.coalesce(func.sum(segment_file.c.templates), 0))
        with self._database.read() as connection:
            files, entries = connection.execute(query.where(*_of(pinned))).one()
        return SnapshotInfo(files=int(files), entries=int(entries))

    def load(self, pinned: PinnedGallery) -> list[Segment]:
        """The segments of a gallery that files hold, in the order of their entries.

        A file that is not as the record says is left out, and is not trusted any more.
        """
        with self._database.read() as connection:
            files = connection.execute(
                select(segment_file).where(*_of(pinned)).order_by(segment_file.c.first_id, segment_file.c.id)
            ).all()
        with ThreadPoolExecutor(_READERS) as readers:
            found = list(readers.map(lambda file: self._read(pinned, file), files))
        bad: list[int] = []
        sound: list[Segment] = []
        for file, segment in zip(files, found, strict=True):
            if segment is None or any(_share_templates(segment, other) for other in sound):
                bad.append(file.id)
            else:
                self._names[segment] = file.name
                sound.append(segment)
        if bad:
            _log.warning("snapshot_files_refused", files=len(bad))
            try:
                with self._database.write() as connection:
                    connection.execute(delete(segment_file).where(segment_file.c.id.in_(bad)))
                self.sweep()
            except (OSError, InsufficientStorage, RecordUnavailable) as error:  # a full disk: it can match all the same
                _log.error("snapshot_files_not_removed", **place_of(error))
        return sound

    def save(
        self, pinned: PinnedGallery, segment: Segment, among: Iterable[Segment], left_out: NDArray[np.int64] = _NO_IDS
    ) -> bool:
        """Writes a full segment to a file; false where it changed meanwhile and is not kept.

        Args:
            pinned: the gallery.
            segment: what is written.
            among: all segments of the gallery's index.
            left_out: (k,) int64, in order: entries of damaged templates; the record has them, the index perhaps not.

        Raises:
            OSError: the file cannot be written.
        """
        name = f"{secrets.token_hex(16)}.segment"
        with self._alone():
            ids, codes = segment.alive()  # of what is removed from now on, the sweep waits for this file
            if not len(ids):
                return False
            first, last = int(ids.min()), int(ids.max())
            live = list(among)
            within = np.concatenate([_ids_within(one, first, last) for one in live])
            damaged = left_out[(left_out >= first) & (left_out <= last)]
            within = np.concatenate([within, np.setdiff1d(damaged, within)])
            others = [self._names[one] for one in live if one in self._names and one is not segment]
            content: list[bytes | memoryview] = [_MAGIC, _HEAD.pack(segment.dim, len(ids), segment.reach, segment.lost)]
            content += [np.ascontiguousarray(ids, "<i8").data.cast("B"), codes.data.cast("B")]
            values = {"first_id": first, "last_id": last, "templates": len(ids), "name": name}
            registered = False
            try:
                self._write(name, content)
                registered = self._register(pinned, values | {"digest": _digest(content)}, within, others)
            finally:
                if not registered:
                    self._erase(self._folder / name)
            if not registered:
                return False
            self._names[segment] = name
        self.sweep()  # of segments that the index has no more
        return True

    def forget(self, pinned: PinnedGallery) -> None:
        """Trusts no file of a gallery any more, and overwrites them."""
        with self._database.write() as connection:
            self.dropped(connection, pinned)
        self.sweep()

    def sweep(self) -> None:
        """Overwrites and removes every file that the record does not trust.

        Raises:
            OSError: one of them cannot be.
        """
        with self._alone():
            # Files only: what a link names is not ours, and a volume may bring folders of its own.
            there = [path for path in self._folder.glob("*") if _is_file(path)] if self._folder.is_dir() else []
            if not there:
                return
            with self._database.read() as connection:
                trusted = set(connection.scalars(select(segment_file.c.name)))
            for path in there:
                if path.name not in trusted:
                    self._erase(path)

    def _read(self, pinned: PinnedGallery, file: Any) -> Segment | None:
        content = _content(self._folder, file)
        if content is None:
            return None
        dim, rows, reach, lost = _HEAD.unpack_from(content, len(_MAGIC))
        if dim != pinned.dim or rows != file.templates:
            return None
        at = len(_MAGIC) + _HEAD.size
        ids = np.frombuffer(content, "<i8", rows, at).astype(np.int64)
        segment = Segment(dim, rows, reach)
        codes = np.frombuffer(content, np.uint8, rows * width_of(dim), at + 8 * rows)
        segment.append_codes(ids, codes.reshape(rows, -1), lost)
        return segment

    def _register(
        self, pinned: PinnedGallery, values: dict[str, Any], within: NDArray[np.int64], others: list[str]
    ) -> bool:
        """Records a file's digest, unless the record's entries, key or rule are other ones by now.

        Of the gallery's other files only those of segments that the index still has are trusted from then on: what it
        rewrote stands in a newer file, and must not be read twice.

        The two are compared by the number of ids and their sum, which the record counts in milliseconds, while an
        erasure waits: templates reach the index after the record, so that it may have more, never others.
        """
        column = entry_column(pinned)
        there = column.between(values["first_id"], values["last_id"])
        query = select(func.count(), func.coalesce(func.sum(column), 0))
        with self._database.write() as connection:
            now = connection.execute(
                select(gallery.c.key_version, gallery.c.score_version)
                .where(gallery.c.id == pinned.id)
                .with_for_update()
            ).first()
            held, total = connection.execute(query.where(all_entries_of(pinned), there)).one()
            if now is None or tuple(now) != (pinned.key_version, pinned.score_version):
                return False
            if (int(held), int(total)) != (len(within), int(within.sum())):
                return False
            connection.execute(delete(segment_file).where(*_of(pinned), segment_file.c.name.not_in(others)))
            connection.execute(
                insert(segment_file).values(gallery_id=pinned.id, key_version=pinned.key_version, **values)
            )
        return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._next:
            self._writing.acquire()
        try:
            yield
        finally:
            self._writing.release()

    def _write(self, name: str, content: Iterable[bytes | memoryview]) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self._folder)

    @staticmethod
    def _erase(path: Path) -> None:
        try:
            with os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), "r+b") as file:
                left = os.fstat(file.fileno()).st_size
                while left > 0:
                    left -= file.write(bytes(min(left, _CHUNK)))
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError:
            return
        path.unlink(missing_ok=True)


def is_as_written(folder: Path, file: Any) -> bool:
    """Whether a file is as the ``name`` and ``digest`` of its row in the record say."""
    return _content(folder, file) is not None


def _content(folder: Path, file: Any) -> bytes | None:
    """What a file holds, if it is as its row says; SQLite returns whatever was stored as name and digest."""
    if not all(isinstance(one, str) and one.isascii() and one.isprintable() for one in (file.name, file.digest)):
        return None
    path = folder / file.name
    try:
        content = path.read_bytes() if _is_file(path) else b""
    except OSError as error:
        _log.warning("snapshot_file_unreadable", **place_of(error))
        return None
    return content if secrets.compare_digest(_digest([content]), file.digest) else None


def _may_hold(file: Any, ids: NDArray[np.int64]) -> bool:
    """Whether a file may hold one of some entries, which a damaged row does not rule out."""
    if not isinstance(file.first_id, int) or not isinstance(file.last_id, int):
        return True
    return bool(((ids >= file.first_id) & (ids <= file.last_id)).any())


def _of(pinned: PinnedGallery) -> tuple[Any, Any]:
    return segment_file.c.gallery_id == pinned.id, segment_file.c.key_version == pinned.key_version


def _ids_within(segment: Segment, first: int, last: int) -> NDArray[np.int64]:
    ids = segment.ids[: segment.used]
    return ids[(ids >= first) & (ids <= last)]


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _share_templates(one: Segment, other: Segment) -> bool:
    apart = one.ids.min() > other.ids.max() or one.ids.max() < other.ids.min()
    return not apart and bool(np.isin(one.ids, other.ids).any())


def _digest(content: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.blake2b(digest_size=32)
    for part in content:
        digest.update(part)
    return digest.hexdigest()
