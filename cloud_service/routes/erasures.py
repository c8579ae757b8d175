"""The status of erasures."""

from __future__ import annotations

from fastapi import APIRouter

from cloud_service.deps import MAY_ENROLL_OR_MANAGE, SLOT, GalleryInPath, ReceiptInPath, ServicesDep
from shared.wire.common import Erasure

router = APIRouter(prefix="/galleries/{gallery}/erasures", tags=["erasures"])


@router.get("/{receipt}", response_model=Erasure, dependencies=[MAY_ENROLL_OR_MANAGE, SLOT])
def get_erasure(gallery: GalleryInPath, receipt: ReceiptInPath, services: ServicesDep) -> Erasure:
    """Returns an erasure by its receipt's id, and whether anything is left on disk; also of an erased gallery."""
    return services.erasures.status(gallery, receipt)
