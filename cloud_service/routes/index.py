"""The index of a gallery: its kind, its size and its snapshot."""

from __future__ import annotations

from cloud_service.deps import MAY_MANAGE, SLOT, GalleryInPath, ServicesDep
from shared.http.routes import api_router
from shared.wire.cloud import IndexChoice, IndexStats, SnapshotInfo

router = api_router("/v1/galleries/{gallery}", "index")


@router.get("/stats", response_model=IndexStats, dependencies=[MAY_MANAGE, SLOT])
def get_index_stats(gallery: GalleryInPath, services: ServicesDep) -> IndexStats:
    """Get the index of a gallery.

    Returns how the gallery is searched, and the memory that this takes.
    """
    store = services.store
    return store.indexes.stats(store.record.gallery(gallery))


@router.put("/index", response_model=IndexStats, dependencies=[MAY_MANAGE, SLOT])
def set_index_kind(gallery: GalleryInPath, choice: IndexChoice, services: ServicesDep) -> IndexStats:
    """Choose how a gallery is searched.

    Pins the kind of the index; `auto` leaves it to the number of templates again.
    """
    return services.store.pin_index(gallery, None if choice.kind == "auto" else choice.kind)


@router.post("/snapshot", response_model=SnapshotInfo, dependencies=[MAY_MANAGE, SLOT])
def write_snapshot(gallery: GalleryInPath, services: ServicesDep) -> SnapshotInfo:
    """Write a snapshot of a gallery's index.

    Writes full segments to files now; the service also does so at intervals.
    """
    store = services.store
    return store.indexes.snapshot(store.record.gallery(gallery))
