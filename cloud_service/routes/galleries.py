"""Galleries: made, listed, changed and erased, and how long they keep templates."""

from __future__ import annotations

from fastapi import Response, status

from cloud_service.commit import after_commit
from cloud_service.deps import MAY_ANYTHING, MAY_MANAGE, SLOT, AfterGallery, GalleryInPath, Limit, ServicesDep
from shared.http.auth import Caller
from shared.http.routes import PENDING, api_router, erasure_answer
from shared.wire.cloud import ChangeGallery, ChangeScore, GallerySpec
from shared.wire.common import Erased, GalleryInfo, Page, Retention

router = api_router("/v1/galleries", "galleries")

_RETENTION = "The age at which templates expire is stored"


@router.put(
    "/{gallery}",
    response_model=GalleryInfo,
    dependencies=[MAY_MANAGE, SLOT],
    responses={status.HTTP_201_CREATED: {"model": GalleryInfo, "description": "The gallery is new."}},
)
def put_gallery(
    gallery: GalleryInPath, spec: GallerySpec, caller: Caller, services: ServicesDep, response: Response
) -> GalleryInfo:
    """Create a gallery.

    The gallery is pinned to a contract and a threshold. Idempotent: repeated with the same properties, it changes
    nothing.
    """
    if services.store.put_gallery(gallery, spec, caller.id):
        response.status_code = status.HTTP_201_CREATED
    with after_commit("The gallery is made"):
        return services.listing.gallery(gallery)


@router.get("", response_model=Page[GalleryInfo], dependencies=[MAY_MANAGE, SLOT])
def list_galleries(
    caller: Caller, services: ServicesDep, limit: Limit = 100, after: AfterGallery = None
) -> Page[GalleryInfo]:
    """List galleries.

    Those that the API key is for, in the order of names, page by page.
    """
    return services.listing.galleries(caller.galleries, after, limit)


@router.get("/{gallery}", response_model=GalleryInfo, dependencies=[MAY_ANYTHING, SLOT])
def get_gallery(gallery: GalleryInPath, services: ServicesDep) -> GalleryInfo:
    """Get a gallery.

    Returns its contract, its threshold, and how many subjects and templates it has.
    """
    return services.listing.gallery(gallery)


@router.patch("/{gallery}", response_model=GalleryInfo, dependencies=[MAY_MANAGE, SLOT])
def change_gallery(gallery: GalleryInPath, change: ChangeGallery, caller: Caller, services: ServicesDep) -> GalleryInfo:
    """Change a gallery.

    Changes its threshold, or how it compares subjects. Holds for stored templates too. Under another rule the index is
    made anew, and identifications wait for it meanwhile.
    """
    if isinstance(change, ChangeScore):
        services.store.change_score(gallery, change.score, caller.id)
    else:
        services.store.change_threshold(gallery, change.threshold, caller.id)
    with after_commit("The change is stored"):
        return services.listing.gallery(gallery)


@router.delete("/{gallery}", response_model=Erased, dependencies=[MAY_MANAGE, SLOT], responses=PENDING)
def delete_gallery(gallery: GalleryInPath, caller: Caller, services: ServicesDep, response: Response) -> Erased:
    """Erase a gallery.

    Erases all of its subjects and their templates.
    """
    return erasure_answer(services.store.erase_gallery(gallery, caller.id), response)


@router.put("/{gallery}/retention", response_model=GalleryInfo, dependencies=[MAY_MANAGE, SLOT])
def set_retention(gallery: GalleryInPath, retention: Retention, caller: Caller, services: ServicesDep) -> GalleryInfo:
    """Set how long templates are kept.

    Holds for stored templates too. Expired templates match nobody and are erased.
    """
    services.store.set_retention(gallery, retention.max_age_seconds, caller.id)
    with after_commit(_RETENTION):
        return services.listing.gallery(gallery)


@router.delete("/{gallery}/retention", response_model=GalleryInfo, dependencies=[MAY_MANAGE, SLOT])
def remove_retention(gallery: GalleryInPath, caller: Caller, services: ServicesDep) -> GalleryInfo:
    """Remove the limit on how long templates are kept.

    Templates are kept until they are erased. Expired templates stay expired.
    """
    services.store.set_retention(gallery, None, caller.id)
    with after_commit(_RETENTION):
        return services.listing.gallery(gallery)
