"""The index of a gallery: its kind, its size and its snapshot."""

from __future__ import annotations

from cloud_service.deps import MAY_MANAGE, SLOT, GalleryInPath, ServicesDep
from shared.http.routes import api_router
from shared.wire.cloud import IndexChoice, IndexStats, SnapshotInfo

router = api_router("/v1/galleries/{gallery}", "index")


@router.get("/stats", response_model=IndexStats, dependencies=[MAY_MANAGE, SLOT])
def stats(gallery: GalleryInPath, services: ServicesDep) -> IndexStats:
    """Returns how the gallery is searched, and the memory it takes."""
    store = services.store
    return store.indexes.stats(store.record.gallery(gallery))


@router.put("/index", response_model=IndexStats, dependencies=[MAY_MANAGE, SLOT])
def choose(gallery: GalleryInPath, choice: IndexChoice, services: ServicesDep) -> IndexStats:
    """Pins how the gallery is searched, or leaves it to the number of its templates again."""
    return services.store.pin_index(gallery, None if choice.kind == "auto" else choice.kind)


@router.post("/snapshot", response_model=SnapshotInfo, dependencies=[MAY_MANAGE, SLOT])
def snapshot(gallery: GalleryInPath, services: ServicesDep) -> SnapshotInfo:
    """Writes the index's full segments to files now, as the service does now and then."""
    store = services.store
    return store.indexes.snapshot(store.record.gallery(gallery))
