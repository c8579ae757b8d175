"""Looks for rows of a SQLite record that hold what was never written: no moment, no JSON, no gallery.

Vectors are not looked at here.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Final

from cloud_service.record.checksums import gallery_checksum
from shared.contract import Contract
from shared.wire.common import MAX_AGE

# A table, its key, rows that cannot be read in SQLite's own words, and a column that records of the first version lack.
_UNREADABLE: Final[tuple[tuple[str, ...], ...]] = (
    ("gallery", "id", "datetime(created_at) IS NULL OR typeof(dim) <> 'integer' OR NOT json_valid(contract)"),
    ("gallery", "id", "typeof(name) <> 'text' OR length(name) NOT BETWEEN 1 AND 64 OR name GLOB '*[^A-Za-z0-9._-]*'"),
    (
        "gallery",
        "id",
        "typeof(threshold_cosine) <> 'real' OR threshold_cosine NOT BETWEEN 1e-300 AND 0.9999999999999999",
    ),
    ("gallery", "id", "typeof(threshold_fmr) <> 'real' OR threshold_fmr NOT BETWEEN 0 AND 1"),
    ("gallery", "id", "typeof(templates) <> 'integer' OR templates NOT BETWEEN 0 AND 1000000000000", "templates"),
    ("gallery", "id", f"max_age_seconds NOT BETWEEN 1 AND {MAX_AGE}", "max_age_seconds"),
    ("subject", "id", "datetime(created_at) IS NULL"),
    ("subject", "id", "typeof(name) <> 'text' OR length(name) NOT BETWEEN 1 AND 128 OR name GLOB '*[^A-Za-z0-9._@-]*'"),
    ("template", "id", "datetime(created_at) IS NULL"),
    ("template", "id", "typeof(uid) <> 'text' OR length(uid) <> 32 OR uid GLOB '*[^0-9a-f]*'"),
    ("gallery", "id", "typeof(max_age_seconds) NOT IN ('integer', 'null') OR typeof(turn) <> 'integer'", "turn"),
    ("gallery", "id", "turning_to IS NOT NULL AND NOT json_valid(turning_to)", "turning_to"),
    ("audit", "seq", "datetime(at) IS NULL OR NOT json_valid(details)"),
    ("note", "name", "name = 'time_seen' AND datetime(value) IS NULL"),
    ("note", "name", "name = 'time_seen' AND datetime(value) > datetime('now', '+366 days')"),
    ("note", "name", "name = 'audit_salt' AND (length(value) <> 64 OR value GLOB '*[^0-9a-f]*')"),
    ("note", "name", "name = 'audit_head' AND value NOT GLOB '[0-9]*:*'"),
)
_NOTES: Final = ("audit_head", "audit_salt", "time_seen")


def damaged_rows(file: sqlite3.Connection) -> Iterator[str]:
    """Names the first damaged row of each kind, such as ``the row 4 of the table gallery is damaged``.

    Args:
        file: of a record of this version, or of an earlier one, whose tables are fewer.
    """
    there = {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    columns = {(table, row[1]) for table in there for row in file.execute(f"PRAGMA table_info({table})")}
    for table, key, unreadable, *needs in _UNREADABLE:
        if all((table, column) in columns for column in (key, *needs)):
            for (row,) in file.execute(f"SELECT {key} FROM {table} WHERE {unreadable} LIMIT 1"):  # noqa: S608 - from here
                yield f"the row {row} of the table {table} is damaged"
    yield from _galleries(file, checked=("gallery", "checksum") in columns)
    if "note" in there:
        known = {name for (name,) in file.execute("SELECT name FROM note")}
        yield from (f"the row {name} of the table note is missing" for name in _NOTES if name not in known)


def _galleries(file: sqlite3.Connection, *, checked: bool) -> Iterator[str]:
    """Those whose contract is not the one whose digest they have, or whose checksum is not theirs."""
    cursor = file.execute("SELECT *, CAST(contract AS BLOB) AS contract_bytes FROM gallery")
    names = [column[0] for column in cursor.description]
    for values in cursor:
        row = SimpleNamespace(**dict(zip(names, values, strict=True)))
        try:
            contract = Contract.model_validate(json.loads(row.contract_bytes))
            fits = contract.dim == row.dim and contract.digest() == row.contract_digest
            fits = fits and (not checked or row.checksum == gallery_checksum(row))
        except (TypeError, ValueError, RecursionError):
            fits = False
        if not fits:
            yield f"the row {row.id} of the table gallery is damaged"
