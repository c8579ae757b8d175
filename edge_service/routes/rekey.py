"""A gallery's key, changed in place."""

from __future__ import annotations

from fastapi import Response, status

from edge_service.deps import GalleryPath, MayManage, RekeyingDep
from shared.http.routes import api_router
from shared.wire.cloud import RekeyStatus
from shared.wire.edge import ChangeKey

router = api_router(
    "/v1/galleries/{gallery}/rekey",
    "rekey",
    responses={status.HTTP_202_ACCEPTED: {"model": RekeyStatus, "description": "It is not done yet; ask again."}},
)


@router.post("", dependencies=[MayManage])
async def rekey(
    gallery: GalleryPath, rekeying: RekeyingDep, response: Response, wanted: ChangeKey | None = None
) -> RekeyStatus:
    """Changes a gallery's key in place, or goes on with that; every decision stays what it was."""
    return _answered(await rekeying.change(gallery, (wanted or ChangeKey()).epoch), response)


@router.get("", dependencies=[MayManage])
async def rekey_status(gallery: GalleryPath, rekeying: RekeyingDep, response: Response) -> RekeyStatus:
    """How far a change of key is."""
    return _answered(await rekeying.status(gallery), response)


@router.delete("", dependencies=[MayManage])
async def abandon_rekey(gallery: GalleryPath, rekeying: RekeyingDep, response: Response) -> RekeyStatus:
    """Gives a change of key up, where the gallery does not match under the new one yet."""
    return _answered(await rekeying.abandon(gallery), response)


def _answered(found: RekeyStatus, response: Response) -> RekeyStatus:
    if found.state != "settled":
        response.status_code = status.HTTP_202_ACCEPTED
    return found
