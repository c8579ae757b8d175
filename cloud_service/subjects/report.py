"""A report of all that the cloud holds about one subject, for that person's right of access (GDPR, article 15)."""

from __future__ import annotations

from sqlalchemy import select

from cloud_service.audit.log import about
from cloud_service.record.checksums import of_subject
from cloud_service.record.listing import template_infos
from cloud_service.record.queries import pinned_where, refuse_other, unknown_subject
from cloud_service.record.record import Record
from cloud_service.record.tables import gallery, rekeyed, subject, template
from cloud_service.record.template_queries import TEMPLATES, UNDER_CURRENT_KEY
from shared.envelope import TemplateEnvelope
from shared.wire.cloud import SubjectReport

_ROWS = (
    TEMPLATES.add_columns(template.c.uid, template.c.created_at)
    .outerjoin(rekeyed, UNDER_CURRENT_KEY)
    .order_by(template.c.id)
)


def report_of(record: Record, gallery_name: str, name: str, contract: str | None) -> SubjectReport:
    """All that is held about a subject, also what has expired and is not erased yet.

    Args:
        record: where it is held.
        gallery_name: which gallery.
        name: of the subject.
        contract: as ``refuse_other`` takes it.

    Raises:
        NotFound: there is no such gallery or subject.
        ContractMismatch: the gallery has another contract. Unprocessable: the name is not of its kind.
        RecordDamaged: a row about the subject is damaged.
    """
    with record.database.read() as connection:
        pinned = pinned_where(connection, gallery.c.name == gallery_name)
        refuse_other(pinned, contract, name)
        mine = (subject.c.gallery_id == pinned.id) & (subject.c.name == name)
        row = connection.execute(select(subject).where(mine)).first()
        if row is None:
            raise unknown_subject()
        rows = connection.execute(_ROWS.where(template.c.subject_id == row.id)).all()
        entries = about(connection, gallery_name, row.mark)
    stored = record.vectors.read(pinned, rows)
    if len(stored.damaged):
        raise of_subject()
    return SubjectReport(
        subject=name,
        created_at=row.created_at,
        expires_at=row.expires_at,
        templates=template_infos(rows),
        vectors=[TemplateEnvelope.pack(vector, pinned.contract_digest) for vector in stored.vectors],
        audit=entries,
    )
