"""How the collections in Milvus are named, so that two records on one Milvus never meet."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Final

from cloud_service.record.queries import PinnedGallery

_PARTS: Final = re.compile(r"patronus_[0-9a-f]+_(\d+)_(\d+)(?:_(?:mean|best)(\d+))?(?:_hnsw)?(_built_[0-9a-f]+)?")
_APPROXIMATE: Final = "_hnsw"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a name says: its gallery, the versions of its key and rule, and whether it is still being filled."""

    gallery_id: int
    key_version: int
    score_version: int
    unfinished: bool


class Names:
    """Names of collections.

    Args:
        instance: a random value of the record's own.
    """

    def __init__(self, instance: str) -> None:
        self.prefix = f"patronus_{instance}_"

    def entry(self, gallery: PinnedGallery) -> str:
        """What the outbox calls a gallery's collection, of whatever kind."""
        name = f"{self.prefix}{gallery.id}_{gallery.key_version}"
        if gallery.score_version == 0 and not gallery.one_entry_a_subject:
            return name  # as it was before there was a choice
        return f"{name}_{gallery.score.rule}{gallery.score_version}"

    def collection(self, gallery: PinnedGallery) -> str:
        """A gallery's collection, complete if it is there; each kind of index has its own."""
        return self.entry(gallery) + (_APPROXIMATE if approximate(gallery) else "")

    def all_of(self, entry: str) -> tuple[str, str]:
        """The collections, of either kind, that an entry of the outbox may be about."""
        return entry, entry + _APPROXIMATE

    def unfinished(self, gallery: PinnedGallery) -> str:
        """A new name for a collection while it is being filled."""
        return f"{self.collection(gallery)}_built_{secrets.token_hex(4)}"

    def parts(self, name: str) -> Parts | None:
        """What the name of a collection or entry says; None: it is none of this record's."""
        found = _PARTS.fullmatch(name) if name.startswith(self.prefix) else None
        return Parts(int(found[1]), int(found[2]), int(found[3] or 0), found[4] is not None) if found else None


def approximate(gallery: PinnedGallery) -> bool:
    """Whether the gallery's index is approximate: only when an operator said so."""
    return gallery.index_kind == "approximate"
