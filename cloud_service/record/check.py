"""Reads a whole record and the files of its indexes, and tells what is damaged; also while a service uses them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np
from sqlalchemy import Engine, Select, and_, case, func, select, text
from sqlalchemy.exc import SQLAlchemyError

from cloud_service.audit.check import read_only_engine
from cloud_service.index.snapshots import is_as_written
from cloud_service.record.checksums import from_blobs
from cloud_service.record.opening import is_sqlite
from cloud_service.record.row_check import damaged_rows
from cloud_service.record.sqlite import file_of
from cloud_service.record.tables import gallery, segment_file, subject, template, turned
from shared.contract import MAX_DIM
from shared.errors import SetupError

# Rows of one short transaction: a long one would keep the service from overwriting what is erased meanwhile.
_ROWS: Final = 2_000
_SQLITE_FINDINGS: Final = 10
_LISTED: Final = 20
# The first revision of the tables in which templates have checksums.
_CHECKSUMS_SINCE: Final = "0003"


@dataclass(frozen=True, slots=True)
class DamagedTemplate:
    """A stored template whose bytes are not what was stored.

    ``row`` is its id in the table ``template``. ``staged`` is true where its bytes in ``turned`` are meant, which a
    change of the gallery's key wrote. ``subject`` and ``template`` name what to erase: personal data.
    """

    gallery: str
    row: int
    staged: bool
    subject: str = field(repr=False)
    template: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What was read, and what of it is damaged; ``problems`` are sentences about other things than templates."""

    galleries: int
    templates: int
    index_files: int
    damaged: list[DamagedTemplate]
    problems: list[str]


def check_record(url: str, index_folder: Path) -> CheckResult:
    """Reads all templates of all galleries, the index files, and for SQLite every page of the file.

    Args:
        url: SQLAlchemy's URL of the record.
        index_folder: where the service keeps the files of its indexes.

    Raises:
        NotFound: there is no record.
        SetupError: it cannot be read, or was not used by this version yet.
    """
    engine = read_only_engine(url)
    try:
        _require_checksums(engine)
        problems = _sqlite_problems(file_of(url)) if is_sqlite(url) else []
        damaged: list[DamagedTemplate] = []
        try:
            damaged += damaged_templates(engine)
        except SQLAlchemyError:
            problems.append("the record: not all rows of it can be read")
        files, of_files = _index_file_problems(engine, index_folder)
        with engine.connect() as connection:
            galleries, templates = connection.execute(
                select(func.count(), func.coalesce(func.sum(gallery.c.templates), 0)).select_from(gallery)
            ).one()
    except SQLAlchemyError:
        raise SetupError("The record cannot be read: it is away, damaged, or not one of Patronus.") from None
    finally:
        engine.dispose()
    return CheckResult(int(galleries), int(templates), files, damaged, problems + of_files)


def refuse_damaged(record: Path) -> None:
    """Refuses a SQLite file that holds a damaged template. One that has no checksums yet is not looked at.

    Raises:
        SetupError: names galleries and template rows.
    """
    engine = read_only_engine(f"sqlite:///{record.resolve()}")
    try:
        damaged = list(damaged_templates(engine)) if _has_checksums(engine) else []
    except SQLAlchemyError:
        raise SetupError("This is no sound record of Patronus: not all rows of it can be read.") from None
    finally:
        engine.dispose()
    if damaged:
        listed = ", ".join(f"{one.gallery}: row {one.row}" for one in damaged[:_LISTED])
        more = f" and {len(damaged) - _LISTED} more" if len(damaged) > _LISTED else ""
        raise SetupError(
            f"Stored templates are damaged ({listed}{more}); nothing was written. `patronus cloud check "
            "--show-subjects` names them in a record; erase those and enroll them anew, or restore a sound backup."
        )


def damaged_templates(engine: Engine) -> Iterator[DamagedTemplate]:
    """Reads all stored templates and gives those that are damaged.

    Raises:
        SQLAlchemyError: the record cannot be read.
    """
    # While a change of key settles, what still stands in the template's own row is under the key before.
    unsettled = and_(turned.c.template_id == template.c.id, turned.c.turn == gallery.c.turn)
    version = case((turned.c.id.is_not(None), gallery.c.turn - 1), else_=gallery.c.turn)
    own = _columns(template, version).outerjoin(turned, unsettled)
    staged = _columns(turned, turned.c.turn).join(turned, turned.c.template_id == template.c.id)
    yield from _damaged(engine, own.order_by(template.c.id).limit(_ROWS), template.c.id, staged=False)
    yield from _damaged(engine, staged.order_by(turned.c.id).limit(_ROWS), turned.c.id, staged=True)


def _columns(of: Any, version: Any) -> Select[Any]:
    return (
        select(
            of.c.id.label("place"),
            of.c.vector,
            template.c.id.label("row"),
            template.c.uid,
            subject.c.name.label("subject"),
            gallery.c.id.label("gallery_id"),
            gallery.c.name.label("gallery"),
            gallery.c.dim,
            version.label("key_version"),
        )
        .select_from(template)
        .join(subject, subject.c.id == template.c.subject_id)
        .join(gallery, gallery.c.id == template.c.gallery_id)
    )


def _damaged(engine: Engine, query: Select[Any], place: Any, *, staged: bool) -> Iterator[DamagedTemplate]:
    last = -1
    while True:
        with engine.connect() as connection:
            rows = connection.execute(query.where(place > last)).all()
        if not rows:
            return
        last = rows[-1].place
        groups: dict[tuple[int, int, int], list[Any]] = {}
        for row in rows:
            groups.setdefault((row.dim, row.gallery_id, row.key_version), []).append(row)
        for (dim, gallery_id, key_version), group in groups.items():
            subjects = [row.subject for row in group]
            if isinstance(dim, int) and 0 < dim <= MAX_DIM and isinstance(key_version, int):
                _, sound = from_blobs([row.vector for row in group], subjects, dim, gallery_id, key_version)
            else:  # the gallery's own row is damaged
                sound = np.zeros(len(group), bool)
            for at in np.flatnonzero(~sound):
                row = group[at]
                yield DamagedTemplate(row.gallery, row.row, staged, row.subject, row.uid)


def _has_checksums(engine: Engine) -> bool:
    with engine.connect() as connection:
        return str(connection.scalar(text("SELECT version_num FROM alembic_version"))) >= _CHECKSUMS_SINCE


def _require_checksums(engine: Engine) -> None:
    if not _has_checksums(engine):
        raise SetupError("The record was not used by this version of Patronus yet; start the cloud service once.")


def _sqlite_problems(path: Path) -> list[str]:
    """What SQLite's own check of its file finds: every page of tables and of their indexes, and references."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as file:
            found = [str(row[0]) for row in file.execute(f"PRAGMA integrity_check({_SQLITE_FINDINGS})")]
            found = [] if found == ["ok"] else found
            broken = file.execute("PRAGMA foreign_key_check").fetchone()
            if broken is not None:
                found.append(
                    f"row {broken[1]} of the table {broken[0]} belongs to a row of {broken[2]} that is not there"
                )
            rows = list(damaged_rows(file))
    except sqlite3.DatabaseError as error:
        return [f"the record's file: {error}"]
    return [f"the record's file: {line}" for finding in found for line in finding.splitlines()] + rows


def _index_file_problems(engine: Engine, folder: Path) -> tuple[int, list[str]]:
    query = select(segment_file.c.id, segment_file.c.name, segment_file.c.digest, gallery.c.name.label("gallery")).join(
        gallery, gallery.c.id == segment_file.c.gallery_id
    )
    with engine.connect() as connection:
        files: Sequence[Any] = connection.execute(query).all()
    wrong = [file for file in files if not is_as_written(folder, file)]
    with engine.connect() as connection:  # an erasure may have taken some away meanwhile
        left = set(connection.scalars(select(segment_file.c.id)))
    return len(files), [
        f"gallery {file.gallery}: the index file {file.name} is missing or not what was written"
        for file in wrong
        if file.id in left
    ]
