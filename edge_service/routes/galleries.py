"""Galleries, and changes of their keys in place."""

from __future__ import annotations

from fastapi import Response
from starlette.status import HTTP_200_OK, HTTP_201_CREATED, HTTP_202_ACCEPTED

from edge_service.deps import (
    AfterGalleryQuery,
    GalleryPath,
    LimitQuery,
    MayAsk,
    MayErase,
    MayManage,
    ReceiptPath,
    ServicesDep,
)
from shared.http.auth import Caller
from shared.http.routes import PENDING, api_router, erasure_answer
from shared.wire.cloud import RekeyStatus
from shared.wire.common import Erased, Erasure, GalleryInfo, Page, Retention
from shared.wire.edge import ChangeKey, CreateGallery

router = api_router("/v1/galleries", "galleries")
rekeys = api_router(
    "/v1/galleries/{gallery}/rekey",
    "rekey",
    responses={HTTP_202_ACCEPTED: {"model": RekeyStatus, "description": "Not done yet; ask again."}},
)


@router.put(
    "/{gallery}",
    dependencies=[MayManage],
    status_code=HTTP_201_CREATED,
    responses={HTTP_200_OK: {"model": GalleryInfo, "description": "It exists already, with the same properties."}},
)
async def create(
    gallery: GalleryPath, services: ServicesDep, response: Response, wanted: CreateGallery | None = None
) -> GalleryInfo:
    """Creates a gallery in the cloud, pinned to this edge's contract; harmless when repeated."""
    wanted, default = wanted or CreateGallery(), services.default_threshold.threshold
    info, made = await services.galleries.create(gallery, wanted.threshold, default, verify_only=wanted.verify_only)
    response.status_code = HTTP_201_CREATED if made else HTTP_200_OK
    return info


@router.get("", dependencies=[MayManage])
async def listing(
    services: ServicesDep, caller: Caller, limit: LimitQuery = 100, after: AfterGalleryQuery = None
) -> Page[GalleryInfo]:
    """The galleries that the API key is for, by name."""
    if caller.galleries is None:
        return await services.cloud.galleries(limit, after)
    # One by one, by the names that the key is for: where a page of all ends would reveal other galleries.
    names = [name for name in sorted(caller.galleries) if after is None or name > after]
    found = [info for name in names[:limit] if (info := await services.cloud.find_gallery(name)) is not None]
    return Page(items=found, next=names[limit - 1] if len(names) > limit else None)


@router.get("/{gallery}", dependencies=[MayAsk])
async def info(gallery: GalleryPath, services: ServicesDep) -> GalleryInfo:
    """A gallery: contract, threshold, and how much is in it."""
    return await services.cloud.gallery(gallery)


@router.delete("/{gallery}", dependencies=[MayManage], responses=PENDING)
async def erase(gallery: GalleryPath, services: ServicesDep, response: Response) -> Erased:
    """Erases a gallery with everybody in it. Its name can be used again, under a new key."""
    erased = await services.cloud.erase(gallery)
    services.galleries.forget(gallery)
    return erasure_answer(erased, response)


@router.get("/{gallery}/erasures/{receipt}", dependencies=[MayErase])
async def erasure(gallery: GalleryPath, receipt: ReceiptPath, services: ServicesDep) -> Erasure:
    """The progress of an erasure in a gallery, also after the gallery itself was erased."""
    return await services.cloud.erasure(gallery, receipt)


@router.put("/{gallery}/retention", dependencies=[MayManage])
async def keep(gallery: GalleryPath, retention: Retention, services: ServicesDep) -> GalleryInfo:
    """Sets the age at which all faces expire. Expired faces match nobody and are erased."""
    return await services.cloud.keep(gallery, retention)


@router.delete("/{gallery}/retention", dependencies=[MayManage])
async def keep_for_good(gallery: GalleryPath, services: ServicesDep) -> GalleryInfo:
    """Keeps faces until they are erased. Expired faces stay expired."""
    return await services.cloud.keep(gallery, None)


@rekeys.post("", dependencies=[MayManage])
async def rekey(
    gallery: GalleryPath, services: ServicesDep, response: Response, wanted: ChangeKey | None = None
) -> RekeyStatus:
    """Changes a gallery's key in place, or continues a change; every decision stays the same."""
    return _answered(await services.rekey.change(gallery, (wanted or ChangeKey()).epoch), response)


@rekeys.get("", dependencies=[MayManage])
async def rekey_status(gallery: GalleryPath, services: ServicesDep, response: Response) -> RekeyStatus:
    """The progress of a change of key."""
    return _answered(await services.cloud.rekey_status(gallery), response)


@rekeys.delete("", dependencies=[MayManage])
async def abandon_rekey(gallery: GalleryPath, services: ServicesDep, response: Response) -> RekeyStatus:
    """Cancels a change of key, where the gallery does not match under the new key yet."""
    return _answered(await services.cloud.abandon_rekey(gallery), response)


def _answered(found: RekeyStatus, response: Response) -> RekeyStatus:
    if found.state != "settled":
        response.status_code = HTTP_202_ACCEPTED
    return found
