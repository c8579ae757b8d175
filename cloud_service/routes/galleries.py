"""Galleries: made, listed, erased."""

from __future__ import annotations

from fastapi import APIRouter, Response, status

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
from shared.http.auth import Caller
from shared.wire.cloud import GallerySpec
from shared.wire.common import Erased, GalleryInfo, Page

router = APIRouter(prefix="/galleries", tags=["galleries"])


@router.put(
    "/{gallery}",
    response_model=GalleryInfo,
    dependencies=[MAY_MANAGE, PLACE],
    responses={status.HTTP_201_CREATED: {"model": GalleryInfo, "description": "The gallery is new."}},
)
def put_gallery(
    gallery: GalleryInPath, spec: GallerySpec, store: StoreDep, listing: ListingDep, response: Response
) -> GalleryInfo:
    """Makes a gallery pinned to a contract and a threshold; harmless when repeated."""
    if store.put_gallery(gallery, spec):
        response.status_code = status.HTTP_201_CREATED
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


@router.delete("/{gallery}", response_model=Erased, dependencies=[MAY_MANAGE, PLACE])
def erase_gallery(gallery: GalleryInPath, store: StoreDep) -> Erased:
    """Erases a gallery and all in it."""
    return store.erase_gallery(gallery)
