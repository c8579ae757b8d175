"""What the record holds now, by ids: what Milvus is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from cloud_service.record.database import Database
from cloud_service.record.rows import PinnedGallery
from cloud_service.record.tables import gallery, template

_IDS_A_QUERY: Final = 500


class Held:
    """Reads ids of templates.

    Args:
        database: of the record.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def size(self, pinned: PinnedGallery) -> int:
        """How many templates a gallery has; 0: also when it was erased."""
        with self._database.read() as connection:
            return int(connection.scalar(select(gallery.c.templates).where(gallery.c.id == pinned.id)) or 0)

    def page(self, pinned: PinnedGallery, after: int, most: int) -> NDArray[np.int64]:
        """The first (n,) int64 ids of a gallery's templates after this one, in order."""
        query = select(template.c.id).where(template.c.gallery_id == pinned.id, template.c.id > after)
        with self._database.read() as connection:
            found = list(connection.scalars(query.order_by(template.c.id).limit(most)))
        return np.array(found, dtype=np.int64)

    def of(self, pinned: PinnedGallery, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the (n,) int64 ids that the gallery holds."""
        found: list[int] = []
        with self._database.read() as connection:
            for start in range(0, len(ids), _IDS_A_QUERY):
                asked = template.c.id.in_(ids[start : start + _IDS_A_QUERY].tolist())
                found += connection.scalars(select(template.c.id).where(template.c.gallery_id == pinned.id, asked))
        return np.array(found, dtype=np.int64)

    def named(self, pinned: PinnedGallery, uids: Sequence[str]) -> NDArray[np.int64]:
        """The (n,) int64 ids of the templates with these names on the wire, as far as the gallery holds them."""
        query = select(template.c.id).where(template.c.gallery_id == pinned.id, template.c.uid.in_(uids))
        with self._database.read() as connection:
            return np.array(list(connection.scalars(query)), dtype=np.int64)
