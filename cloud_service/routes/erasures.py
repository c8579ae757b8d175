"""Erasures: how one is answered, and what has become of it."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Response, status

from cloud_service.deps import MAY_ENROLL_OR_MANAGE, PLACE, ErasuresDep, GalleryInPath, ReceiptInPath
from shared.wire.common import Erased, Erasure

router = APIRouter(prefix="/galleries/{gallery}/erasures", tags=["erasures"])

PENDING: Final[dict[int | str, dict[str, Any]]] = {
    status.HTTP_202_ACCEPTED: {
        "model": Erased,
        "description": "Erased, and matched no more; its bytes are not all overwritten yet: `pending` says where.",
    }
}
"""For a route's ``responses``."""


def answered(erased: Erased, response: Response) -> Erased:
    """The answer of an erasure: 202 while something of it is left."""
    if erased.pending:
        response.status_code = status.HTTP_202_ACCEPTED
    return erased


@router.get("/{receipt}", response_model=Erasure, dependencies=[MAY_ENROLL_OR_MANAGE, PLACE])
def get_erasure(gallery: GalleryInPath, receipt: ReceiptInPath, erasures: ErasuresDep) -> Erasure:
    """An erasure by its receipt's id, also after the gallery itself was erased; whether anything is left on disk."""
    return erasures.status(gallery, receipt)
