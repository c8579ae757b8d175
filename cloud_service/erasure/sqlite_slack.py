"""Overwrites the copies that SQLite leaves of rows that it moved (docs/decisions/0017).

``secure_delete`` overwrites a row where it stands when it is deleted, and whole pages that become free. But where
SQLite balances pages after a deletion, it may rewrite a page's rows towards its end and leave what stood before
in the gap between the page's list of rows and its rows (btree.c, ``rebuildPage``): copies of rows that are deleted
later, and are then overwritten in their new place only. The same holds for pages of indexes, which hold names. Nothing
reads that gap; here it is filled with zeros.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

# https://www.sqlite.org/fileformat2.html: sections 1.3 (the file's header), 1.6 (pages of trees) and 4.1 (the log).
_HEADER: Final = 100
# The length of the header of pages that hold rows or names, by their kind: leaves of tables, and both kinds of indexes.
_PAGE_HEADERS: Final = {0x0D: 8, 0x0A: 8, 0x02: 12}
_LOG_HEADER: Final = 32
_FRAME_HEADER: Final = 24


class SqliteSlack:
    """Finds and overwrites the gaps of one file's pages.

    Its file stays open until ``close``, which must come after SQLite has closed all of its own: closing one descriptor
    of a file frees all locks that the process holds on it.

    Args:
        path: the SQLite file, in WAL mode; it exists.
    """

    def __init__(self, path: Path) -> None:
        self._log = path.with_name(f"{path.name}-wal")
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._pages: set[int] = set()
        # How far which log was scanned.
        self._scanning = threading.Lock()
        self._salts = b""
        self._seen = _LOG_HEADER

    @property
    def pending(self) -> bool:
        """Whether a gap was found and is not overwritten yet."""
        return bool(self._pages)

    def scan_log(self) -> None:
        """Finds the pages that were written since the last scan and have something in their gap.

        To be called after each commit: the log starts over when all of it is in the file.
        """
        with self._scanning, suppress(FileNotFoundError), self._log.open("rb", buffering=0) as log:
            self._scan_frames(log.fileno())

    def _scan_frames(self, log: int) -> None:
        header = os.pread(log, _LOG_HEADER, 0)
        if len(header) < _LOG_HEADER:
            return
        (size,) = struct.unpack_from(">I", header, 8)
        salts = header[16:24]
        if salts != self._salts:
            self._salts, self._seen = salts, _LOG_HEADER
        frame_size = _FRAME_HEADER + size
        at = self._seen
        while True:
            frame = os.pread(log, frame_size, at)
            if len(frame) < frame_size or frame[8:16] != salts:
                return  # the end, or what is left of a former log
            page, committed = struct.unpack_from(">II", frame)
            if _gap_in(frame[_FRAME_HEADER:], page) is not None:
                self._pages.add(page)
            at += frame_size
            if committed:
                self._seen = at  # what follows may still be rolled back, and rewritten

    def scan_file(self) -> None:
        """Scans the whole file: after a crash the list of gaps is lost."""
        size = self._page_size()
        count = os.fstat(self._file).st_size // size if size else 0
        self._pages |= set(self._gaps_of(range(1, count + 1), size))

    def overwrite(self, connection: sqlite3.Connection) -> bool:
        """Fills the gaps that were found with zeros; true where there was something.

        Does nothing where somebody else writes, or has written since the log was emptied: try again. Connections may
        keep what was there in their memory, and write it again with the page: after this, all of them must be closed
        and reopened.

        Args:
            connection: to the file, in no transaction. It keeps others from writing meanwhile; who reads may go on.

        Raises:
            OSError: the disk does not take it.
        """
        if not self._pages:
            return False
        try:
            connection.execute("BEGIN IMMEDIATE").close()
        except sqlite3.OperationalError:
            return False
        try:
            if self._log.exists() and self._log.stat().st_size:
                return False
            size = self._page_size()
            found = self._gaps_of(sorted(self._pages), size)
            for page, (start, end) in found.items():
                os.pwrite(self._file, bytes(end - start), (page - 1) * size + start)
            if found:
                os.fsync(self._file)
            self._pages.clear()
            return bool(found)
        finally:
            connection.execute("ROLLBACK").close()

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)

    def _gaps_of(self, pages: Iterable[int], size: int) -> dict[int, tuple[int, int]]:
        read = ((page, os.pread(self._file, size, (page - 1) * size)) for page in pages)
        found = ((page, _gap_in(image, page)) for page, image in read if len(image) == size)
        return {page: gap for page, gap in found if gap is not None}

    def _page_size(self) -> int:
        header = os.pread(self._file, _HEADER, 0)
        if len(header) < _HEADER:
            return 0
        (size,) = struct.unpack_from(">H", header, 16)
        return 65536 if size == 1 else int(size)


def _gap_in(image: bytes, page: int) -> tuple[int, int] | None:
    """The start and end of a page's gap; None: it is no page with rows or names, or holds zeros only."""
    header = _HEADER if page == 1 else 0
    length = _PAGE_HEADERS.get(image[header])
    if length is None:
        return None
    rows, content = struct.unpack_from(">HH", image, header + 3)
    start, end = header + length + 2 * rows, content or 65536
    if not start < end <= len(image) or image.count(0, start, end) == end - start:
        return None
    return start, end
