"""Galleries."""

from __future__ import annotations

from fastapi import Response
from starlette.status import HTTP_200_OK, HTTP_201_CREATED

from edge_service.cloud_client import CloudClient
from edge_service.deps import (
    AfterGalleryQuery,
    CloudDep,
    GalleriesDep,
    GalleryPath,
    LimitQuery,
    MayAsk,
    MayErase,
    MayManage,
    ReceiptPath,
    ThresholdDep,
)
from shared.errors import NotFound
from shared.http.auth import Caller
from shared.http.routes import PENDING, api_router, erasure_answer
from shared.wire.common import Erased, Erasure, GalleryInfo, Page, Retention
from shared.wire.edge import CreateGallery

router = api_router("/v1/galleries", "galleries")


@router.put(
    "/{gallery}",
    dependencies=[MayManage],
    status_code=HTTP_201_CREATED,
    responses={HTTP_200_OK: {"model": GalleryInfo, "description": "It was there already, just so."}},
)
async def create(
    gallery: GalleryPath,
    galleries: GalleriesDep,
    default: ThresholdDep,
    response: Response,
    wanted: CreateGallery | None = None,
) -> GalleryInfo:
    """Makes a gallery in the cloud, pinned to this edge's contract. Making it again changes nothing."""
    wanted = wanted or CreateGallery()
    info, made = await galleries.create(gallery, wanted.threshold, default.threshold, verify_only=wanted.verify_only)
    response.status_code = HTTP_201_CREATED if made else HTTP_200_OK
    return info


@router.get("", dependencies=[MayManage])
async def listing(
    cloud: CloudDep, caller: Caller, limit: LimitQuery = 100, after: AfterGalleryQuery = None
) -> Page[GalleryInfo]:
    """The galleries that the API key is for, by name."""
    if caller.galleries is None:
        return await cloud.galleries(limit, after)
    # One by one, by the names that the key has: a page of all would tell, by where it ends, what else there is.
    names = [name for name in sorted(caller.galleries) if after is None or name > after]
    found = [info for name in names[:limit] if (info := await _there(cloud, name)) is not None]
    return Page(items=found, next=names[limit - 1] if len(names) > limit else None)


@router.get("/{gallery}", dependencies=[MayAsk])
async def info(gallery: GalleryPath, cloud: CloudDep) -> GalleryInfo:
    """A gallery: contract, threshold, and how much is in it."""
    return await cloud.gallery(gallery)


@router.delete("/{gallery}", dependencies=[MayManage], responses=PENDING)
async def erase(gallery: GalleryPath, cloud: CloudDep, galleries: GalleriesDep, response: Response) -> Erased:
    """Erases a gallery with everybody in it. Its name can be used again, under a new key."""
    erased = await cloud.erase(gallery)
    galleries.forget(gallery)
    return erasure_answer(erased, response)


@router.get("/{gallery}/erasures/{receipt}", dependencies=[MayErase])
async def erasure(gallery: GalleryPath, receipt: ReceiptPath, cloud: CloudDep) -> Erasure:
    """What has become of an erasure in a gallery, also after the gallery itself was erased."""
    return await cloud.erasure(gallery, receipt)


@router.put("/{gallery}/retention", dependencies=[MayManage])
async def keep(gallery: GalleryPath, retention: Retention, cloud: CloudDep) -> GalleryInfo:
    """Has faces expire at an age, also those that are there: they match nobody any more, and are erased."""
    return await cloud.keep(gallery, retention)


@router.delete("/{gallery}/retention", dependencies=[MayManage])
async def keep_for_good(gallery: GalleryPath, cloud: CloudDep) -> GalleryInfo:
    """Has faces kept until somebody erases them. Those that have expired stay so."""
    return await cloud.keep(gallery, None)


async def _there(cloud: CloudClient, name: str) -> GalleryInfo | None:
    try:
        return await cloud.gallery(name)
    except NotFound:
        return None
