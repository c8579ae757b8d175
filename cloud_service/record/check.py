"""Checks a whole record and its index files, also while a service uses them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
from sqlalchemy import Engine, Select, and_, func, literal, select, text
from sqlalchemy.exc import SQLAlchemyError

from cloud_service.index.snapshots import is_as_written
from cloud_service.record.checksums import from_blobs, gallery_checksum, weights_of
from cloud_service.record.opening import read_only
from cloud_service.record.sqlite import open_read_only, sqlite_file
from cloud_service.record.tables import gallery, rekeyed, segment_file, subject, template
from cloud_service.record.template_queries import OWNER_NAME
from shared.contract import MAX_DIM, Contract
from shared.errors import SetupError
from shared.wire.common import MAX_AGE

# Rows of one short transaction: a long one would keep the service from overwriting what is erased meanwhile.
_ROWS: Final = 2_000
_SQLITE_FINDINGS: Final = 10
_LISTED: Final = 20
# The first revisions of the tables: in which templates have checksums, and whose names are the present ones.
_CHECKSUMS_SINCE: Final = "0003"
_PRESENT_NAMES_SINCE: Final = "0005"
_WEIGHTS_SINCE: Final = "0006"
_SEALED_NAMES_SINCE: Final = "0007"
# Names of subjects, as the wire has them.
_PLAIN: Final = "(length(name) BETWEEN 1 AND 128 AND name NOT GLOB '*[^A-Za-z0-9._@-]*')"
_SEALED: Final = "({0} GLOB '~*' AND length({0}) BETWEEN 65 AND 748 AND substr({0}, 2) NOT GLOB '*[^A-Za-z0-9_-]*')"
# By table and its key: what damages a row, in SQLite's words; and the column that records of the first revision lack.
_DAMAGE: Final[dict[tuple[str, str], tuple[tuple[str, str | None], ...]]] = {
    ("gallery", "id"): (
        ("datetime(created_at) IS NULL OR typeof(dim) <> 'integer' OR NOT json_valid(contract)", None),
        ("typeof(name) <> 'text' OR length(name) NOT BETWEEN 1 AND 64 OR name GLOB '*[^A-Za-z0-9._-]*'", None),
        ("typeof(threshold_cosine) <> 'real' OR threshold_cosine NOT BETWEEN 1e-300 AND 0.9999999999999999", None),
        ("typeof(threshold_fmr) <> 'real' OR threshold_fmr NOT BETWEEN 0 AND 1", None),
        ("typeof(templates) <> 'integer' OR templates NOT BETWEEN 0 AND 1000000000000", "templates"),
        ("subjects <> (SELECT count(*) FROM subject WHERE gallery_id = gallery.id)", "subjects"),
        ("typeof(last_entry) <> 'integer' OR last_entry NOT BETWEEN 0 AND 1000000000000000", "last_entry"),
        ("last_entry < (SELECT max(entry_id) FROM subject WHERE gallery_id = gallery.id)", "last_entry"),
        (f"max_age_seconds NOT BETWEEN 1 AND {MAX_AGE}", "max_age_seconds"),
        ("typeof(max_age_seconds) NOT IN ('integer', 'null') OR typeof(key_version) <> 'integer'", "key_version"),
        ("next_contract IS NOT NULL AND NOT json_valid(next_contract)", "next_contract"),
    ),
    ("subject", "id"): (
        ("datetime(created_at) IS NULL", None),
        (f"typeof(name) <> 'text' OR NOT ({_PLAIN} OR {_SEALED.format('name')})", None),
        (f"next_name IS NOT NULL AND NOT ({_SEALED.format('next_name')})", "next_name"),
        ("(name GLOB '~*') <> (SELECT sealed_names FROM gallery WHERE gallery.id = gallery_id)", "mark"),
        ("length(mark) <> 64 OR mark GLOB '*[^0-9a-f]*'", "mark"),
        ("expires_at IS NOT NULL AND datetime(expires_at) IS NULL", "expires_at"),
        # One entry for each subject where the rule is `mean`, and none where it is `best`.
        ("typeof(entry_id) NOT IN ('integer', 'null') OR entry_id < 1", "entry_id"),
        (
            "(entry_id IS NULL) = coalesce((SELECT json_extract(score, '$.rule') = 'mean' FROM gallery "
            "WHERE gallery.id = gallery_id AND json_valid(score)), 0)",
            "entry_id",
        ),
    ),
    ("template", "id"): (
        ("datetime(created_at) IS NULL", None),
        ("typeof(uid) <> 'text' OR length(uid) <> 32 OR uid GLOB '*[^0-9a-f]*'", None),
    ),
    ("audit", "seq"): (("datetime(at) IS NULL OR NOT json_valid(details)", "details"),),
    ("record_value", "name"): (
        ("name = 'time_seen' AND datetime(value) IS NULL", "value"),
        ("name = 'time_seen' AND datetime(value) > datetime('now', '+366 days')", "value"),
        ("name = 'audit_salt' AND (length(value) <> 64 OR value GLOB '*[^0-9a-f]*')", "value"),
        ("name = 'audit_head' AND value NOT GLOB '[0-9]*:*'", "value"),
    ),
}
_VALUES: Final = ("audit_head", "audit_salt", "time_seen")


@dataclass(frozen=True, slots=True)
class DamagedTemplate:
    """A stored template whose bytes are not what was stored.

    ``row`` is its id in the table ``template``. ``staged``: its bytes in ``rekeyed_template`` are meant, which a
    change of the gallery's key wrote. ``subject`` and ``template`` name what to erase: personal data.
    """

    gallery: str
    row: int
    staged: bool
    subject: str = field(repr=False)
    template: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How much was read, and what is damaged.

    ``problems`` are sentences about other things than templates.
    """

    galleries: int
    templates: int
    index_files: int
    damaged: list[DamagedTemplate]
    problems: list[str]


def check_record(url: str, index_folder: Path) -> CheckResult:
    """Reads all templates, the index files, and for SQLite every page of the file.

    Args:
        url: SQLAlchemy's URL of the record.
        index_folder: where the service keeps the files of its indexes.

    Raises:
        NotFound: there is no record.
        SetupError: it cannot be read, or was not used by this version yet.
    """
    path = sqlite_file(url)
    problems: list[str] = []
    damaged: list[DamagedTemplate] = []
    with read_only(url, "The record cannot be read: it is away, damaged, or not one of Patronus.") as engine:
        if not _is_of(engine, _PRESENT_NAMES_SINCE if path is None else _CHECKSUMS_SINCE):
            raise SetupError("The record was not used by this version of Patronus yet; start the cloud service once.")
        if path is not None:
            try:
                with closing(open_read_only(path)) as file:
                    problems += file_damage(file)
            except sqlite3.DatabaseError as error:
                problems.append(f"the record's file: {error}")
        try:
            damaged += damaged_templates(engine)
        except SQLAlchemyError:
            problems.append("the record: not all rows of it can be read")
        files, of_files = _index_file_problems(engine, index_folder)
        with engine.connect() as connection:
            galleries, templates = connection.execute(
                select(func.count(), func.coalesce(func.sum(gallery.c.templates), 0)).select_from(gallery)
            ).one()
    return CheckResult(int(galleries), int(templates), files, damaged, problems + of_files)


def refuse_damaged(record: Path) -> None:
    """Refuses a SQLite file that holds a damaged template.

    A file that has no checksums yet is not checked.

    Raises:
        SetupError: names galleries and template rows.
    """
    why = "This is no sound record of Patronus: not all rows of it can be read."
    with read_only(f"sqlite:///{record.resolve()}", why) as engine:
        damaged = list(damaged_templates(engine)) if _is_of(engine) else []
    if damaged:
        listed = ", ".join(f"{one.gallery}: row {one.row}" for one in damaged[:_LISTED])
        more = f" and {len(damaged) - _LISTED} more" if len(damaged) > _LISTED else ""
        raise SetupError(
            f"Stored templates are damaged ({listed}{more}); nothing was written. `patronus cloud check "
            "--show-subjects` names them in a record; erase those and enroll them again, or restore a sound backup."
        )


def damaged_templates(engine: Engine) -> Iterator[DamagedTemplate]:
    """Reads all stored templates and gives those that are damaged.

    Raises:
        SQLAlchemyError: the record cannot be read.
    """
    # While a change of key settles, nobody reads what still stands in a template's own row, under the key before.
    unsettled = and_(rekeyed.c.template_id == template.c.id, rekeyed.c.key_version == gallery.c.key_version)
    weight = template.c.weight if _is_of(engine, _WEIGHTS_SINCE) else literal(1.0)
    owner = OWNER_NAME if _is_of(engine, _SEALED_NAMES_SINCE) else subject.c.name
    own = _columns(template, gallery.c.key_version, weight, subject.c.name).outerjoin(rekeyed, unsettled)
    own = own.where(rekeyed.c.id.is_(None))
    staged = _columns(rekeyed, rekeyed.c.key_version, weight, owner)
    staged = staged.join(rekeyed, rekeyed.c.template_id == template.c.id)
    yield from _damaged(engine, own.order_by(template.c.id).limit(_ROWS), template.c.id, staged=False)
    yield from _damaged(engine, staged.order_by(rekeyed.c.id).limit(_ROWS), rekeyed.c.id, staged=True)


def _columns(of: Any, version: Any, weight: Any, name: Any) -> Select[Any]:
    return (
        select(
            of.c.id.label("place"),
            of.c.vector,
            template.c.id.label("row"),
            template.c.uid,
            name.label("subject"),
            gallery.c.id.label("gallery_id"),
            gallery.c.name.label("gallery"),
            gallery.c.dim,
            version.label("key_version"),
            weight.label("weight"),
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
                blobs, weights = [row.vector for row in group], weights_of([row.weight for row in group])
                _, sound = from_blobs(blobs, weights, subjects, dim, gallery_id, key_version)
            else:  # the gallery's own row is damaged
                sound = np.zeros(len(group), bool)
            for at in np.flatnonzero(~sound):
                row = group[at]
                yield DamagedTemplate(row.gallery, row.row, staged, row.subject, row.uid)


def _is_of(engine: Engine, since: str = _CHECKSUMS_SINCE) -> bool:
    with engine.connect() as connection:
        return str(connection.scalar(text("SELECT version_num FROM alembic_version"))) >= since


def file_damage(file: sqlite3.Connection) -> Iterator[str]:
    """Finds damage in a SQLite record, vectors aside.

    That is: pages, references, and the first damaged row of each kind.

    Args:
        file: as ``open_read_only`` gives it; of a record of any revision.

    Raises:
        sqlite3.DatabaseError: the file cannot be read further.
    """
    for (finding,) in file.execute(f"PRAGMA integrity_check({_SQLITE_FINDINGS})"):
        if finding != "ok":
            yield from (f"the record's file: {line}" for line in str(finding).splitlines())
    for table, row, parent, _ in file.execute("PRAGMA foreign_key_check").fetchmany(1):
        yield f"the record's file: row {row} of the table {table} belongs to a row of {parent} that is not there"
    columns = {table: {row[1] for row in file.execute(f"PRAGMA table_info({table})")} for table, _ in _DAMAGE}
    for (table, key), conditions in _DAMAGE.items():
        for damage, needs in conditions:
            if needs is None or needs in columns[table]:
                for (row,) in file.execute(f"SELECT {key} FROM {table} WHERE {damage} LIMIT 1"):  # noqa: S608 - from here
                    yield f"the row {row} of the table {table} is damaged"
    yield from _damaged_galleries(file, checked="checksum" in columns["gallery"])
    if columns["record_value"]:
        known = {name for (name,) in file.execute("SELECT name FROM record_value")}
        yield from (f"the row {name} of the table record_value is missing" for name in _VALUES if name not in known)


# Of the table of galleries, and what they are in records that lack them.
_LATER_COLUMNS: Final = {"score": None, "score_version": 0, "sealed_names": False}


def _damaged_galleries(file: sqlite3.Connection, *, checked: bool) -> Iterator[str]:
    """Galleries whose contract does not fit its digest, or whose checksum does not fit."""
    cursor = file.execute("SELECT *, CAST(contract AS BLOB) AS contract_bytes FROM gallery")
    names = [column[0] for column in cursor.description]
    for values in cursor:
        row = SimpleNamespace(**_LATER_COLUMNS | dict(zip(names, values, strict=True)))
        try:
            row.score = None if row.score is None else json.loads(row.score)
            contract = Contract.model_validate(json.loads(row.contract_bytes))
            fits = contract.dim == row.dim and contract.digest() == row.contract_digest
            fits = fits and (not checked or row.checksum == gallery_checksum(row))
        except (TypeError, ValueError, RecursionError):
            fits = False
        if not fits:
            yield f"the row {row.id} of the table gallery is damaged"


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
