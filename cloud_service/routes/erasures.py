"""The status of erasures."""

from __future__ import annotations

from datetime import timedelta

from cloud_service.audit.log import RECEIPTS, entry
from cloud_service.deps import MAY_ENROLL_OR_MANAGE, SLOT, GalleryInPath, ReceiptInPath, ServicesDep
from shared.http.routes import api_router
from shared.wire.common import Erasure, Receipt

router = api_router("/v1/galleries/{gallery}/erasures", "erasures")


@router.get("/{receipt}", response_model=Erasure, dependencies=[MAY_ENROLL_OR_MANAGE, SLOT])
def get_erasure(gallery: GalleryInPath, receipt: ReceiptInPath, services: ServicesDep) -> Erasure:
    """Get an erasure.

    Says whether erased bytes are all overwritten, also after the gallery itself was erased.
    """
    with services.store.record.database.read() as connection:
        found = entry(connection, receipt, gallery, RECEIPTS)
    proof = Receipt(id=found.seq, at=found.at, digest=found.digest)
    pending = services.store.pending(proof)
    return Erasure(
        receipt=proof,
        action=found.action,
        subjects=found.details["subjects"],
        templates=found.details["templates"],
        status="pending" if pending else "done",
        pending=pending,
        due_by=found.at + timedelta(seconds=services.settings.retention.overwrite_within_s),
    )
