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
    responses={status.HTTP_202_ACCEPTED: {"model": RekeyStatus, "description": "The change is still in progress."}},
)


@router.post("", response_model=RekeyStatus, dependencies=[MAY_MANAGE, SLOT])
def start_rekey(
    gallery: GalleryInPath, request: RekeyRequest, services: ServicesDep, caller: Caller, response: Response
) -> RekeyStatus:
    """Start or continue a change of a gallery's key.

    Moves every template to the new key. Idempotent: continues where it was stopped.
    """
    return _answer(services.rekeying.change(gallery, request, caller.id), response)


@router.get("", response_model=RekeyStatus, dependencies=[MAY_MANAGE, SLOT])
def get_rekey(gallery: GalleryInPath, services: ServicesDep, response: Response) -> RekeyStatus:
    """Get the progress of a change of key."""
    return _answer(services.rekeying.status(gallery), response)


@router.delete("", response_model=RekeyStatus, dependencies=[MAY_MANAGE, SLOT])
def cancel_rekey(gallery: GalleryInPath, services: ServicesDep, response: Response) -> RekeyStatus:
    """Cancel a change of key.

    Refused where the gallery already matches under the new key.
    """
    return _answer(services.rekeying.abandon(gallery), response)


def _answer(progress: RekeyStatus, response: Response) -> RekeyStatus:
    if progress.state != "settled":
        response.status_code = status.HTTP_202_ACCEPTED
    return progress
