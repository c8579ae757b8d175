"""Changes of a gallery's key, in place."""

from __future__ import annotations

from fastapi import Response, status

from cloud_service.deps import MAY_MANAGE, SLOT, GalleryInPath, ServicesDep
from shared.http.auth import Caller
from shared.http.routes import api_router
from shared.wire.cloud import RekeyRequest, RekeyStatus

router = api_router(
    "/v1/galleries/{gallery}/rekey",
    "rekey",
    responses={status.HTTP_202_ACCEPTED: {"model": RekeyStatus, "description": "It is not done yet; ask again."}},
)


@router.post("", response_model=RekeyStatus, dependencies=[MAY_MANAGE, SLOT])
def rekey(
    gallery: GalleryInPath, request: RekeyRequest, services: ServicesDep, caller: Caller, response: Response
) -> RekeyStatus:
    """Moves every template to a new key; idempotent, and continues where it was stopped."""
    return _answer(services.rekeying.change(gallery, request, caller.id), response)


@router.get("", response_model=RekeyStatus, dependencies=[MAY_MANAGE, SLOT])
def rekey_status(gallery: GalleryInPath, services: ServicesDep, response: Response) -> RekeyStatus:
    """Returns the progress of a change of key."""
    return _answer(services.rekeying.status(gallery), response)


@router.delete("", response_model=RekeyStatus, dependencies=[MAY_MANAGE, SLOT])
def abandon_rekey(gallery: GalleryInPath, services: ServicesDep, response: Response) -> RekeyStatus:
    """Abandons a change of key, unless the gallery matches under the new one already."""
    return _answer(services.rekeying.abandon(gallery), response)


def _answer(progress: RekeyStatus, response: Response) -> RekeyStatus:
    if progress.state != "settled":
        response.status_code = status.HTTP_202_ACCEPTED
    return progress
