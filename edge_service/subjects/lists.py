"""The subjects of galleries, by their names: opened, sorted and kept in memory, and renewed when they are asked for.

The cloud holds sealed names, whose order means nothing. So the edge reads all of a gallery's subjects once, and from
then on those that changed: the cloud's list has a version.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice

from fastapi.concurrency import run_in_threadpool

from edge_service.cloud.client import CloudClient
from edge_service.gallery_contexts import GalleryContexts
from edge_service.gallery_names import GalleryNames
from shared.errors import Unprocessable
from shared.wire.cloud import StoredSubject
from shared.wire.common import Page, SubjectInfo


@dataclass(frozen=True, slots=True)
class _Listed:
    """What is kept of a subject: a third of what the wire's model takes."""

    id: int
    templates: int
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class _SubjectList:
    """A gallery's subjects.

    Attributes:
        contract: digest of the contract under which the names were sealed.
        version: of the cloud's list when this one was read.
        subjects: by name.
        names: sorted by their code points.
        by_id: the name of each subject, by the cloud's id of it.
    """

    contract: str
    version: int = 0
    subjects: dict[str, _Listed] = field(default_factory=dict, repr=False)
    names: list[str] = field(default_factory=list, repr=False)
    by_id: dict[int, str] = field(default_factory=dict, repr=False)

    def with_changes(self, version: int, there: list[int] | None, changed: dict[str, _Listed]) -> _SubjectList:
        """The list with some subjects new, changed or renamed, and without those that are gone.

        Args:
            version: of the cloud's list.
            there: ids of all subjects that were there before the changes were read; None: none is gone.
            changed: those that are new or changed, by their names now.
        """
        if not changed and there is None:
            return replace(self, version=version)
        ids = {each.id for each in changed.values()}
        gone = set() if there is None else self.by_id.keys() - set(there)
        old = {self.by_id[each] for each in (gone | ids) & self.by_id.keys()} - changed.keys()
        subjects = {name: each for name, each in self.subjects.items() if name not in old} | changed
        names = [name for name in self.names if name not in old]
        new = changed.keys() - self.subjects.keys()
        names = sorted([*names, *sorted(new)]) if new else names  # two sorted runs are merged
        return _SubjectList(self.contract, version, subjects, names, {each.id: name for name, each in subjects.items()})

    def page(self, limit: int, after: str | None, prefix: str | None) -> Page[SubjectInfo]:
        """A page of the living subjects, in the order of names.

        Args:
            limit: subjects on a page, at most.
            after: the name that the page begins behind.
            prefix: what the names begin with.
        """
        start = 0 if prefix is None else bisect_left(self.names, prefix)
        if after is not None:
            start = max(start, bisect_right(self.names, after))
        living = (name for name in islice(self.names, start, None) if self._lives(name))
        found = list(islice(living, limit + 1))
        found = [name for name in found if prefix is None or name.startswith(prefix)]
        items = [self._info(name) for name in found[:limit]]
        return Page(items=items, next=found[limit - 1] if len(found) > limit else None)

    def _lives(self, name: str) -> bool:
        expires_at = self.subjects[name].expires_at
        return expires_at is None or expires_at > datetime.now(UTC)

    def _info(self, name: str) -> SubjectInfo:
        kept = self.subjects[name]
        return SubjectInfo(
            subject=name, templates=kept.templates, created_at=kept.created_at, expires_at=kept.expires_at
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectLists:
    """Lists of galleries' subjects, by name.

    Attributes:
        cloud: where subjects are.
        galleries: how they are called there.
        most: subjects that are kept of all galleries together; the lists asked for longest ago go first.
        kept: the lists, by gallery, the latest asked for last.
        reading: one reader of a gallery's list at a time.
    """

    cloud: CloudClient
    galleries: GalleryContexts
    most: int
    kept: OrderedDict[str, _SubjectList] = field(default_factory=OrderedDict, repr=False)
    reading: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock), repr=False)

    async def page(self, gallery: str, limit: int, after: str | None, prefix: str | None) -> Page[SubjectInfo]:
        """A page of a gallery's subjects as they are now, sorted by the code points of their names.

        Args:
            gallery: its name.
            limit: subjects on a page, at most.
            after: the name that the page begins behind.
            prefix: what the names begin with.

        Raises:
            NotFound: there is no such gallery.
            ContractMismatch: its names are sealed under a key that is not here.
            Unprocessable: it has more subjects than this edge lists.
            UpstreamFailed: a name does not open.
        """
        async with self.reading[gallery]:
            found = await self.galleries.with_names(gallery, self._read)
        return found.page(limit, after, prefix)

    def forget(self, gallery: str) -> None:
        """Drops what is kept of a gallery."""
        self.kept.pop(gallery, None)

    async def _read(self, names: GalleryNames) -> _SubjectList:
        """Reads what has changed since the list was read, or all of it."""
        kept = self.kept.pop(names.gallery, None)
        if kept is None or kept.contract != names.contract_digest:
            kept, since = _SubjectList(names.contract_digest), None
        else:
            since = kept.version
        page = first = await self.cloud.names(names.gallery, names.contract_digest, since, None)
        if first.complete:
            kept = _SubjectList(names.contract_digest)
        changed: dict[str, _Listed] = {}
        while True:
            changed |= await run_in_threadpool(_opened, names, page.items)
            if len(kept.subjects) + len(changed.keys() - kept.subjects.keys()) > self.most:
                raise Unprocessable(
                    f"The gallery has more subjects than the {self.most:,} that this edge lists; ask for one by its "
                    "name, or let the edge's operator raise PATRONUS_EDGE__MAX_LISTED_SUBJECTS.",
                    reason="too_many_subjects",
                )
            if page.next is None:
                break
            page = await self.cloud.names(names.gallery, names.contract_digest, since, page.next)
            if page.complete is not first.complete:  # the record was restored meanwhile
                return await self._read(names)
        # Of the first page: what changed while pages were read is read the next time.
        found = await run_in_threadpool(kept.with_changes, first.version, first.ids, changed)
        self._keep(names.gallery, found)
        return found

    def _keep(self, gallery: str, found: _SubjectList) -> None:
        self.kept[gallery] = found
        while sum(len(each.names) for each in self.kept.values()) > self.most:
            self.kept.popitem(last=False)


def _opened(names: GalleryNames, items: list[StoredSubject]) -> dict[str, _Listed]:
    shown = names.names.shown
    return {shown(each.subject): _Listed(each.id, each.templates, each.created_at, each.expires_at) for each in items}
