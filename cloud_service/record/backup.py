"""Backups of the record: taken while the service runs, and checked."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloud_service.erasure.carry_over import CarriedOver, carry_over, read_replaced
from cloud_service.erasure.erasure_list import load_erasures
from cloud_service.record.check import file_damage, refuse_damaged
from cloud_service.record.exclusive import exclusive_use
from cloud_service.record.opening import open_database
from cloud_service.record.sqlite import is_damage, open_read_only, unsound
from cloud_service.settings import RecordSettings
from shared.errors import Conflict, NotFound, SetupError
from shared.names import is_utf8
from shared.security.secret_files import require_folder, sync_folder

_COMPANIONS: Final = ("-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class Held:
    """What is in a record: numbers of galleries, subjects and templates."""

    galleries: int
    subjects: int
    templates: int


@dataclass(frozen=True, slots=True)
class Restored:
    """What is in a restored record, and what was carried over into it."""

    held: Held
    carried: CarriedOver


def back_up(record: Path, target: Path, *, replace: bool = False) -> Held:
    """Writes the record as it is at one moment to a file of its own, while the service goes on.

    Of what was erased before, nothing is in it: free pages are not copied. It is as sensitive as the record, and is
    made readable for its owner only.

    Args:
        record: the SQLite file of the record.
        target: the backup.
        replace: whether a file that is there may be replaced.

    Raises:
        NotFound: there is no record. Conflict: the target is there.
        SetupError: the record or a template in it is damaged, or the target's folder is missing, cannot be written, or
            is not in UTF-8.
    """
    if not record.is_file():
        raise NotFound(f"There is no record {record} to back up.")
    require_folder(target)
    if target.exists() and (not replace or not target.is_file() or target.samefile(record)):
        raise Conflict(f"{target} is there already; choose another name, or say --force to replace a file.")
    if not is_utf8(str(target.absolute())):
        raise SetupError(f"{target} is a path that is not in UTF-8, which SQLite needs; choose another.")
    with _beside(target) as part:
        try:
            with closing(open_read_only(record)) as source:
                source.execute("VACUUM INTO ?", (str(part),))
        except sqlite3.DatabaseError as error:
            if is_damage(error):
                raise unsound(record) from None
            raise SetupError(f"The record {record} cannot be backed up to {target} ({error}).") from None
        held = _checked(part)
        _into_place(part, target)
    return held


def restore(backup: Path, record: Path, *, replace: bool = False, erasures: Path | None = None) -> Restored:
    """Puts a backup in the place of the record, whole or not at all. The service must not run.

    What is known to have been erased since the backup was taken is erased from it first: by the audit log of the record
    that is replaced, and by a list of erasures. Everything else is as it was when the backup was taken.

    Args:
        backup: a file that ``back_up`` wrote.
        record: the SQLite file of the record.
        replace: whether a record that is there may be replaced.
        erasures: a list that ``export_erasures`` wrote.

    Raises:
        NotFound: there is no such backup, or no such list. Conflict: there is a record.
        SetupError: the backup is damaged or of a newer version, a service uses the record, the list is of another
            record, or the audit log of the record is broken or cannot be read and there is no list.
    """
    if not backup.is_file():
        raise NotFound(f"There is no backup {backup}.")
    listed = None if erasures is None else load_erasures(erasures)
    with exclusive_use(record):
        if record.exists() and (not replace or backup.samefile(record)):
            raise Conflict(f"There is a record {record}; say --force to replace it and lose what is in it.")
        with _beside(record) as part:
            shutil.copyfile(backup, part)
            _checked(part)
            before, unread = read_replaced(record, required=listed is None)
            settings = RecordSettings(busy_timeout_s=1)
            with closing(open_database(f"sqlite:///{part.resolve()}", settings, connections=1)) as database:
                carried = carry_over(database, before, listed, unread)
                database.scrub()
            held = _checked(part)
            for companion in _COMPANIONS:  # of the old record: its log must never meet the new file
                record.with_name(record.name + companion).unlink(missing_ok=True)
            _into_place(part, record)
    return Restored(held, carried)


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A temporary private file in the target's folder, removed with SQLite's files beside it."""
    part = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            yield part
        finally:
            for name in (part.name, *(part.name + companion for companion in _COMPANIONS), f".{part.name}.lock"):
                part.with_name(name).unlink(missing_ok=True)
    except OSError as error:
        raise SetupError(f"{target} cannot be written ({error.strerror}).") from None


def _checked(path: Path) -> Held:
    """Checks every page, row and template of a file, and counts what is in it."""
    try:
        with closing(open_read_only(path)) as file:
            for damage in file_damage(file):
                raise sqlite3.DatabaseError(damage)
            counts = (file.execute(f"SELECT count(*) FROM {table}") for table in ("gallery", "subject", "template"))  # noqa: S608 - these three
            held = Held(*(int(count.fetchone()[0]) for count in counts))
    except sqlite3.DatabaseError as error:
        raise SetupError(
            f"This is no sound record of Patronus ({error}); nothing was replaced. Restore a sound backup."
        ) from None
    refuse_damaged(path)
    return held


def _into_place(part: Path, target: Path) -> None:
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
    sync_folder(target.parent)
