"""Galleries: made, listed, erased."""

from __future__ import annotations

from fastapi import Response, status

from cloud_service.deps import (
    MAY_ANYTHING,
    MAY_MANAGE,
    PLACE,
    AfterGallery,
    GalleryInPath,
    Limit,
    ListingDep,
    StoreDep,
)
from cloud_service.store import after_commit
from shared.http.auth import Caller
from shared.http.routes import PENDING, api_router, erasure_answer
from shared.wire.cloud import GallerySpec
from shared.wire.common import Erased, GalleryInfo, Page, Retention

router = api_router("/v1/galleries", "galleries")

_RETENTION = "The age at which templates expire is stored"


@router.put(
    "/{gallery}",
    response_model=GalleryInfo,
    dependencies=[MAY_MANAGE, PLACE],
    responses={status.HTTP_201_CREATED: {"model": GalleryInfo, "description": "The gallery is new."}},
)
def put_gallery(
    gallery: GalleryInPath,
    spec: GallerySpec,
    caller: Caller,
    store: StoreDep,
    listing: ListingDep,
    response: Response,
) -> GalleryInfo:
    """Makes a gallery pinned to a contract and a threshold; harmless when repeated."""
    if store.put_gallery(gallery, spec, caller.id):
        response.status_code = status.HTTP_201_CREATED
    with after_commit("The gallery is made"):
        return listing.gallery(gallery)


@router.get("", response_model=Page[GalleryInfo], dependencies=[MAY_MANAGE, PLACE])
def list_galleries(
    caller: Caller, listing: ListingDep, limit: Limit = 100, after: AfterGallery = None
) -> Page[GalleryInfo]:
    """The galleries that the key is for."""
    return listing.galleries(caller.galleries, after, limit)


@router.get("/{gallery}", response_model=GalleryInfo, dependencies=[MAY_ANYTHING, PLACE])
def get_gallery(gallery: GalleryInPath, listing: ListingDep) -> GalleryInfo:
    """The contract and threshold of a gallery, and how much is in it."""
    return listing.gallery(gallery)


@router.delete("/{gallery}", response_model=Erased, dependencies=[MAY_MANAGE, PLACE], responses=PENDING)
def erase_gallery(gallery: GalleryInPath, caller: Caller, store: StoreDep, response: Response) -> Erased:
    """Erases a gallery and all in it."""
    return erasure_answer(store.erase_gallery(gallery, caller.id), response)


@router.put("/{gallery}/retention", response_model=GalleryInfo, dependencies=[MAY_MANAGE, PLACE])
def put_retention(
    gallery: GalleryInPath, wanted: Retention, caller: Caller, store: StoreDep, listing: ListingDep
) -> GalleryInfo:
    """Has templates expire at an age, also those that are there already; harmless when repeated."""
    store.set_retention(gallery, wanted.max_age_seconds, caller.id)
    with after_commit(_RETENTION):
        return listing.gallery(gallery)


@router.delete("/{gallery}/retention", response_model=GalleryInfo, dependencies=[MAY_MANAGE, PLACE])
def delete_retention(gallery: GalleryInPath, caller: Caller, store: StoreDep, listing: ListingDep) -> GalleryInfo:
    """Has templates kept until somebody erases them. Those that have expired stay so."""
    store.set_retention(gallery, None, caller.id)
    with after_commit(_RETENTION):
        return listing.gallery(gallery)
