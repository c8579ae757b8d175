"""The index of a gallery: how it is searched, and what of it stands in files."""

from __future__ import annotations

from cloud_service.deps import MAY_MANAGE, PLACE, GalleryInPath, StoreDep
from shared.http.routes import api_router
from shared.wire.cloud import IndexChoice, IndexStats, SnapshotInfo

router = api_router("/v1/galleries/{gallery}", "index")


@router.get("/stats", response_model=IndexStats, dependencies=[MAY_MANAGE, PLACE])
def stats(gallery: GalleryInPath, store: StoreDep) -> IndexStats:
    """How the gallery is searched, and what that takes."""
    return store.indexes.stats(store.record.gallery(gallery))


@router.put("/index", response_model=IndexStats, dependencies=[MAY_MANAGE, PLACE])
def choose(gallery: GalleryInPath, choice: IndexChoice, store: StoreDep) -> IndexStats:
    """Pins how the gallery is searched, or leaves it to the number of its templates again."""
    return store.pin_index(gallery, None if choice.kind == "auto" else choice.kind)


@router.post("/snapshot", response_model=SnapshotInfo, dependencies=[MAY_MANAGE, PLACE])
def snapshot(gallery: GalleryInPath, store: StoreDep) -> SnapshotInfo:
    """Writes what became full of the index to files now; it is done from time to time without being asked."""
    return store.indexes.snapshot(store.record.gallery(gallery))
