"""The status of erasures."""

from __future__ import annotations

from cloud_service.deps import MAY_ENROLL_OR_MANAGE, SLOT, GalleryInPath, ReceiptInPath, ServicesDep
from shared.http.routes import api_router
from shared.wire.common import Erasure

router = api_router("/v1/galleries/{gallery}/erasures", "erasures")


@router.get("/{receipt}", response_model=Erasure, dependencies=[MAY_ENROLL_OR_MANAGE, SLOT])
def get_erasure(gallery: GalleryInPath, receipt: ReceiptInPath, services: ServicesDep) -> Erasure:
    """Returns an erasure by its receipt's id, and whether anything is left on disk; also of an erased gallery."""
    return services.erasures.status(gallery, receipt)
