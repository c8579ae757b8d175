"""Lists of erasures: read from a record's audit log, written to a file, and read from it.

A list names no subject: it holds the same keyed marks as the log. A restored backup still holds what was erased after
it was taken, and the list says what that is (docs/decisions/0019).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)
from sqlalchemy import Connection, select

from cloud_service.audit.check import check
from cloud_service.audit.log import ERASURES, NO_ENTRY, SALT, Action, head
from cloud_service.record.queries import read_value
from cloud_service.record.tables import audit
from shared.errors import NotFound, RecordDamaged, SetupError
from shared.security.secret_files import NAME_ANOTHER_FILE, require_folder, write_secret
from shared.strict_types import JsonInteger, One
from shared.wire.cloud import AuditHead
from shared.wire.common import ExactMoment

_FROZEN = ConfigDict(frozen=True, extra="forbid", strict=False)
_LABEL: Final = b"patronus erasure list\n"
_CONTENT_LABEL: Final = b"patronus erasure list content\n"

Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class KnownErasure(BaseModel):
    """One erasure, as it stands in the audit log.

    ``entry`` is the digest of the log's entry. ``made`` is that of the entry about the making of the gallery;
    None: the gallery is older than the log. ``subject`` is a mark and no name. ``moved`` are ids of templates of it,
    separated by spaces, that came from other subjects; None: there were none.
    """

    model_config = _FROZEN

    entry: Hex
    at: ExactMoment
    action: Literal["gallery_erased", "subject_erased", "template_erased", "templates_expired"]
    gallery: str
    gallery_id: JsonInteger
    made: Hex | None
    subject: Hex | None = None
    template: str | None = None
    stored_until: ExactMoment | None = None
    moved: str | None = None

    @model_serializer(mode="wrap")
    def _as_before_moves(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without ``moved`` where there is none: the digests of lists from before are over this."""
        values: dict[str, Any] = handler(self)
        if self.moved is None:
            values.pop("moved", None)
        return values


class ErasureList(BaseModel):
    """All erasures of a record, oldest first, up to an entry of its log.

    ``record`` identifies the record over backups and restores: a digest of the salt of its marks.
    ``digest`` is over everything else in the list, so that a list that was changed or damaged is refused.
    """

    model_config = _FROZEN

    version: One
    record: Hex
    head: AuditHead
    erasures: list[KnownErasure]
    digest: Hex

    def content_digest(self) -> str:
        """What ``digest`` must be: SHA-256 of the other members as JSON, in hexadecimal."""
        content = self.model_dump_json(exclude={"digest"})
        return hashlib.sha256(_CONTENT_LABEL + content.encode()).hexdigest()


def erasures_in(connection: Connection) -> ErasureList:
    """The erasures of a record, those too that were carried over into it.

    Raises:
        RecordDamaged: the log, or the note of its end or salt, cannot be read, or an entry was changed or removed.
    """
    wrong = check(connection).wrong
    if wrong is not None:
        raise RecordDamaged(f"The audit log is damaged: {wrong}. Restore the record from a backup.")
    wanted = [one.value for one in (*ERASURES, Action.GALLERY_MADE)]
    found: dict[str, KnownErasure] = {}
    made: dict[int, str] = {}
    for row in connection.execute(select(audit).where(audit.c.action.in_(wanted)).order_by(audit.c.seq)):
        try:
            if row.action == Action.GALLERY_MADE:
                made[int(row.details["gallery_id"])] = row.digest
            else:
                one = _known(row, made)
                found.setdefault(one.entry, one)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise RecordDamaged(f"The row {row.seq} of the table audit is damaged; restore a backup.") from None
    plain = ErasureList(
        version=1,
        record=record_mark(connection),
        head=head(connection),
        erasures=list(found.values()),
        digest=NO_ENTRY,
    )
    return plain.model_copy(update={"digest": plain.content_digest()})


def record_mark(connection: Connection) -> str:
    """Identifies a record over backups and restores: 64 hexadecimal digits.

    Raises:
        RecordDamaged: the record has no salt.
    """
    return hashlib.sha256(_LABEL + read_value(connection, SALT).encode()).hexdigest()


def export_erasures(connection: Connection, target: Path, *, replace: bool) -> ErasureList:
    """Writes a record's erasures to a private file, whole or not at all.

    Raises:
        SetupError: the file is there, or its folder is missing or cannot be written. RecordDamaged: the log cannot be
            read.
    """
    require_folder(target)
    found = erasures_in(connection)
    try:
        write_secret(target, found.model_dump_json(indent=1).encode(), replace=replace, remedy=NAME_ANOTHER_FILE)
    except FileExistsError:
        raise SetupError(f"{target} is there already; choose another name, or say --force to replace a file.") from None
    return found


def load_erasures(source: Path) -> ErasureList:
    """Reads such a file.

    Raises:
        NotFound: it is not there. SetupError: it is not such a file, or is not what was written.
    """
    try:
        content = source.read_bytes()
        found = ErasureList.model_validate_json(content)
        json.loads(content, object_pairs_hook=_refuse_duplicates)  # pydantic has seen that it is not nested deeply
    except FileNotFoundError:
        raise NotFound(f"There is no list of erasures {source}.") from None
    except OSError as error:
        raise SetupError(f"{source} cannot be read ({os.strerror(error.errno or 0)}).") from None
    except (ValidationError, ValueError):
        raise SetupError(f"{source} is no list of erasures that patronus cloud erasures export wrote.") from None
    if found.content_digest() != found.digest:
        raise SetupError(f"The list of erasures {source} was changed or damaged after it was written; use a copy.")
    return found


def _refuse_duplicates(members: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in members]
    if len(names) != len(set(names)):
        raise ValueError("a member is there twice")


def details_of(erasure: KnownErasure) -> dict[str, Any]:
    """The details of the audit entry about an erasure that is repeated."""
    details = erasure.model_dump(mode="json", exclude={"gallery"})
    details["erased_at"], details["erased"] = details.pop("at"), details.pop("action")
    return details


def _known(row: Any, made: dict[int, str]) -> KnownErasure:
    details = row.details
    gallery_id, repeated = details["gallery_id"], row.action == Action.ERASURE_REPEATED
    return KnownErasure(
        entry=details["entry"] if repeated else row.digest,
        at=details["erased_at"] if repeated else row.at,
        action=details["erased"] if repeated else row.action,
        gallery=row.gallery,
        gallery_id=gallery_id,
        made=details["made"] if repeated else made.get(gallery_id),
        **{name: details.get(name) for name in ("subject", "template", "stored_until", "moved")},
    )
