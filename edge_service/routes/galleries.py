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
from shared.wire.common import Erased, Erasure, FindDuplicates, GalleryInfo, KeyChange, Page, Retention
from shared.wire.edge import ChangeKey, ChangeScoreRule, ChangeThreshold, CreateGallery, EdgeGallery
from shared.wire.edge_subjects import GalleryDuplicates
from shared.wire.thresholds import ThresholdChoice

router = api_router("/v1/galleries", "galleries")
rekeys = api_router(
    "/v1/galleries/{gallery}/rekey",
    "rekey",
    responses={HTTP_202_ACCEPTED: {"model": KeyChange, "description": "The change is still in progress."}},
)


@router.put(
    "/{gallery}",
    dependencies=[MayManage],
    status_code=HTTP_201_CREATED,
    responses={HTTP_200_OK: {"model": EdgeGallery, "description": "It exists already, with these properties."}},
)
async def put_gallery(
    gallery: GalleryPath, services: ServicesDep, response: Response, wanted: CreateGallery | None = None
) -> EdgeGallery:
    """Create a gallery.

    A new gallery is pinned to this edge's contract. Idempotent: repeated with the same properties, it changes nothing.
    """
    done = await services.galleries.create(gallery, wanted or CreateGallery())
    response.status_code = HTTP_201_CREATED if done.made else HTTP_200_OK
    return _shown(done.info, done.choice)


@router.get("", dependencies=[MayManage])
async def list_galleries(
    services: ServicesDep, caller: Caller, limit: LimitQuery = 100, after: AfterGalleryQuery = None
) -> Page[EdgeGallery]:
    """List galleries.

    Those that the API key is for, in the order of names, page by page.
    """
    if caller.galleries is None:
        page = await services.cloud.galleries(limit, after)
        return Page(items=[_shown(info) for info in page.items], next=page.next)
    # One by one, by the names that the key is for: where a page of all ends would reveal other galleries.
    names = [name for name in sorted(caller.galleries) if after is None or name > after]
    found = [_shown(info) for name in names[:limit] if (info := await services.cloud.find_gallery(name)) is not None]
    return Page(items=found, next=names[limit - 1] if len(names) > limit else None)


@router.get("/{gallery}", dependencies=[MayAsk])
async def get_gallery(gallery: GalleryPath, services: ServicesDep) -> EdgeGallery:
    """Get a gallery.

    Returns its contract, its threshold, how its subjects are compared, and how many subjects and templates it has.
    """
    return _shown(await services.cloud.gallery(gallery))


@router.patch("/{gallery}", dependencies=[MayManage])
async def change_gallery(
    gallery: GalleryPath, services: ServicesDep, wanted: ChangeScoreRule | ChangeThreshold
) -> EdgeGallery:
    """Change a gallery.

    Changes its threshold, or how its subjects are compared. Holds for enrolled subjects too. The rule `mean` takes the
    exponents of the gallery's profile.
    """
    if isinstance(wanted, ChangeScoreRule):
        return _shown(await services.galleries.change_score_rule(gallery, wanted.score_rule))
    done = await services.galleries.change_threshold(gallery, wanted.threshold)
    return _shown(done.info, done.choice)


@router.delete("/{gallery}", dependencies=[MayManage], responses=PENDING)
async def delete_gallery(gallery: GalleryPath, services: ServicesDep, response: Response) -> Erased:
    """Erase a gallery.

    Erases all of its subjects. The name can be used again, under a new key.
    """
    erased = await services.cloud.erase_gallery(gallery)
    services.galleries.forget(gallery)
    services.subject_lists.forget(gallery)
    return erasure_answer(erased, response)


@router.get("/{gallery}/erasures/{receipt}", dependencies=[MayErase])
async def get_erasure(gallery: GalleryPath, receipt: ReceiptPath, services: ServicesDep) -> Erasure:
    """Get an erasure.

    Says whether erased bytes are all overwritten, also after the gallery itself was erased.
    """
    return await services.cloud.erasure(gallery, receipt)


@router.put("/{gallery}/retention", dependencies=[MayManage])
async def set_retention(gallery: GalleryPath, retention: Retention, services: ServicesDep) -> EdgeGallery:
    """Set how long faces are kept.

    Holds for stored faces too. Expired faces match nobody and are erased.
    """
    return _shown(await services.cloud.keep(gallery, retention))


@router.delete("/{gallery}/retention", dependencies=[MayManage])
async def remove_retention(gallery: GalleryPath, services: ServicesDep) -> EdgeGallery:
    """Remove the limit on how long faces are kept.

    Faces are kept until they are erased. Expired faces stay expired.
    """
    return _shown(await services.cloud.keep(gallery, None))


@router.post("/{gallery}/duplicates", dependencies=[MayManage])
async def find_duplicates(
    gallery: GalleryPath, services: ServicesDep, wanted: FindDuplicates | None = None
) -> GalleryDuplicates:
    """Find subjects that are enrolled under two names.

    Compares some subjects with all others, page by page. Changes nothing.
    """
    return await services.subjects.duplicates(gallery, wanted or FindDuplicates())


@rekeys.post("", dependencies=[MayManage])
async def start_rekey(
    gallery: GalleryPath, services: ServicesDep, response: Response, wanted: ChangeKey | None = None
) -> KeyChange:
    """Start or continue a change of a gallery's key.

    Templates are moved to the new key in place, and names are sealed under it; every decision stays the same.
    """
    return _answered(await services.rekey.change(gallery, (wanted or ChangeKey()).epoch), response)


@rekeys.get("", dependencies=[MayManage])
async def get_rekey(gallery: GalleryPath, services: ServicesDep, response: Response) -> KeyChange:
    """Get the progress of a change of key."""
    return _answered(await services.cloud.rekey_status(gallery), response)


@rekeys.delete("", dependencies=[MayManage])
async def cancel_rekey(gallery: GalleryPath, services: ServicesDep, response: Response) -> KeyChange:
    """Cancel a change of key.

    Refused where the gallery already matches under the new key.
    """
    return _answered(await services.cloud.abandon_rekey(gallery), response)


def _shown(info: GalleryInfo, choice: ThresholdChoice | None = None) -> EdgeGallery:
    return EdgeGallery(**info.model_dump(), verify_only=info.contract.verify_only, chosen=choice)


def _answered(found: KeyChange, response: Response) -> KeyChange:
    if found.state != "settled":
        response.status_code = HTTP_202_ACCEPTED
    return found
