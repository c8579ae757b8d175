"""Erasures that were answered: what has become of them."""

from __future__ import annotations

from cloud_service.deps import MAY_ENROLL_OR_MANAGE, PLACE, ErasuresDep, GalleryInPath, ReceiptInPath
from shared.http.routes import api_router
from shared.wire.common import Erasure

router = api_router("/v1/galleries/{gallery}/erasures", "erasures")


@router.get("/{receipt}", response_model=Erasure, dependencies=[MAY_ENROLL_OR_MANAGE, PLACE])
def get_erasure(gallery: GalleryInPath, receipt: ReceiptInPath, erasures: ErasuresDep) -> Erasure:
    """An erasure by its receipt's id, also after the gallery itself was erased; whether anything is left on disk."""
    return erasures.status(gallery, receipt)
