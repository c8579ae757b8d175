"""Changes of a gallery's key in place."""

from __future__ import annotations

from fastapi import Response, status

from edge_service.deps import GalleryPath, MayManage, ServicesDep
from shared.http.routes import api_router
from shared.wire.cloud import RekeyStatus
from shared.wire.edge import ChangeKey

router = api_router(
    "/v1/galleries/{gallery}/rekey",
    "rekey",
    responses={status.HTTP_202_ACCEPTED: {"model": RekeyStatus, "description": "Not done yet; ask again."}},
)


@router.post("", dependencies=[MayManage])
async def rekey(
    gallery: GalleryPath, services: ServicesDep, response: Response, wanted: ChangeKey | None = None
) -> RekeyStatus:
    """Changes a gallery's key in place, or continues a change; every decision stays the same."""
    return _answered(await services.rekey.change(gallery, (wanted or ChangeKey()).epoch), response)


@router.get("", dependencies=[MayManage])
async def rekey_status(gallery: GalleryPath, services: ServicesDep, response: Response) -> RekeyStatus:
    """The progress of a change of key."""
    return _answered(await services.cloud.rekey_status(gallery), response)


@router.delete("", dependencies=[MayManage])
async def abandon_rekey(gallery: GalleryPath, services: ServicesDep, response: Response) -> RekeyStatus:
    """Cancels a change of key, where the gallery does not match under the new key yet."""
    return _answered(await services.cloud.abandon_rekey(gallery), response)


def _answered(found: RekeyStatus, response: Response) -> RekeyStatus:
    if found.state != "settled":
        response.status_code = status.HTTP_202_ACCEPTED
    return found
