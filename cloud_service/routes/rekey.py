"""A gallery's key, changed in place."""

from __future__ import annotations

from fastapi import Response, status

from cloud_service.deps import MAY_MANAGE, PLACE, GalleryInPath, RekeyingDep
from shared.http.auth import Caller
from shared.http.routes import api_router
from shared.wire.cloud import RekeyRequest, RekeyStatus

router = api_router(
    "/v1/galleries/{gallery}/rekey",
    "rekey",
    responses={status.HTTP_202_ACCEPTED: {"model": RekeyStatus, "description": "It is not done yet; ask again."}},
)


@router.post("", response_model=RekeyStatus, dependencies=[MAY_MANAGE, PLACE])
def rekey(
    gallery: GalleryInPath, request: RekeyRequest, rekeying: RekeyingDep, caller: Caller, response: Response
) -> RekeyStatus:
    """Turns every template to a new key; harmless when repeated, and goes on where it was stopped."""
    return _answered(rekeying.change(gallery, request, caller.id), response)


@router.get("", response_model=RekeyStatus, dependencies=[MAY_MANAGE, PLACE])
def rekey_status(gallery: GalleryInPath, rekeying: RekeyingDep, response: Response) -> RekeyStatus:
    """How far a change of key is."""
    return _answered(rekeying.status(gallery), response)


@router.delete("", response_model=RekeyStatus, dependencies=[MAY_MANAGE, PLACE])
def abandon_rekey(gallery: GalleryInPath, rekeying: RekeyingDep, response: Response) -> RekeyStatus:
    """Gives a change of key up, where the gallery does not match under the new one yet."""
    return _answered(rekeying.abandon(gallery), response)


def _answered(found: RekeyStatus, response: Response) -> RekeyStatus:
    if found.state != "settled":
        response.status_code = status.HTTP_202_ACCEPTED
    return found
