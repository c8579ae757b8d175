"""What this process knows of stored templates that are damaged, and what callers are told of them."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloud_service.record.rows import PinnedGallery
from shared.errors import RecordDamaged
from shared.logs import get_logger

_log = get_logger(__name__)
# The most row ids in one line of the log; `patronus cloud check` lists all.
_LOGGED_IDS: Final = 50


class KnownDamage:
    """The ids of templates that were found damaged when they were read. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: dict[int, set[int]] = {}

    def __len__(self) -> int:
        return sum(len(ids) for ids in list(self._ids.values()))

    def found(self, gallery: PinnedGallery, ids: Iterable[int]) -> None:
        """Notes damaged templates. Those that are new are logged: their row ids, and no values or subjects."""
        with self._lock:
            known = self._ids.setdefault(gallery.id, set())
            new = sorted(set(ids) - known)
            known.update(new)
        if new:
            listed = " ".join(map(str, new[:_LOGGED_IDS])) + (" ..." if len(new) > _LOGGED_IDS else "")
            _log.error("templates_damaged", gallery=gallery.id, templates=len(new), rows=listed)

    def gone(self, gallery_id: int, ids: Iterable[int]) -> None:
        """Forgets templates that were erased, or that are sound again."""
        with self._lock:
            left = self._ids.get(gallery_id, set()) - set(ids)
            if left:
                self._ids[gallery_id] = left
            else:
                self._ids.pop(gallery_id, None)

    def of(self, gallery_id: int) -> NDArray[np.int64]:
        """The (n,) int64 ids of a gallery, in order."""
        with self._lock:
            return np.array(sorted(self._ids.get(gallery_id, ())), dtype=np.int64)

    def some(self, at_most: int) -> dict[int, list[int]]:
        """Some ids, by gallery."""
        found: dict[int, list[int]] = {}
        with self._lock:
            for gallery_id, ids in sorted(self._ids.items()):
                found[gallery_id] = sorted(ids)[:at_most]
                at_most -= len(found[gallery_id])
                if at_most <= 0:
                    break
        return found


def of_subject() -> RecordDamaged:
    """What is answered where a subject's template is damaged."""
    return RecordDamaged(
        "A stored template of this subject is damaged and is not compared. The operator must erase the subject and "
        "enroll it anew, or restore a backup.",
        reason="template_damaged",
    )


def stops_rekey() -> RecordDamaged:
    """What is answered where a change of key meets a damaged template."""
    return RecordDamaged(
        "A stored template of this gallery is damaged, so the change of its key has stopped. The operator finds it "
        "with `patronus cloud check`, and must erase its subject first.",
        reason="template_damaged",
    )


def stops_rekey_staged() -> RecordDamaged:
    """What is answered where a template that was already written under the new key is damaged."""
    return RecordDamaged(
        "A template under the gallery's new key was damaged before the change was complete, so the change has stopped. "
        "Abandon it (DELETE .../rekey) and begin it again.",
        reason="staged_template_damaged",
    )
