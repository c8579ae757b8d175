"""Renames, merges, moves, expires and reports subjects; in verify-only galleries, by rotations between their seals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge_service.cloud.client import CloudClient
from edge_service.gallery_contexts import GalleryContexts
from edge_service.gallery_names import GalleryNames
from edge_service.protection.seal import rotation
from edge_service.workers import Workers
from shared.envelope import RotationMatrix
from shared.errors import ContractMismatch, Unprocessable
from shared.wire.cloud import MoveRequest, StoredSubjectDetail
from shared.wire.common import Erased, Expiry, FindDuplicates, Receipt
from shared.wire.edge_subjects import GalleryDuplicates, MatchingPair, Moved, ReportedFace, SubjectEvent, SubjectReport

Onto = Literal["new", "existing", "either"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectManagement:
    """What is done with subjects that are enrolled, by their names.

    Attributes:
        cloud: where subjects are.
        galleries: how they are called there.
        workers: where rotations are computed.
    """

    cloud: CloudClient
    galleries: GalleryContexts
    workers: Workers

    async def find(self, gallery: str, subject: str) -> StoredSubjectDetail:
        """A subject and its templates, without vectors.

        Raises:
            NotFound: there is no such gallery or subject.
        """
        return await self.galleries.with_names(gallery, lambda names: self.cloud.subject(names.at_cloud(subject)))

    async def erase(self, gallery: str, subject: str, face: str | None = None) -> Erased:
        """Erases a subject, or one face.

        Raises:
            NotFound: there is no such gallery, subject or face.
        """
        return await self.galleries.with_names(gallery, lambda names: self.cloud.erase(names.at_cloud(subject), face))

    async def expire(self, gallery: str, subject: str, expiry: Expiry | None) -> StoredSubjectDetail:
        """Sets when a subject expires; None: by its gallery's retention alone.

        Raises:
            NotFound: there is no such gallery or subject.
        """
        return await self.galleries.with_names(
            gallery, lambda names: self.cloud.expire(names.at_cloud(subject), expiry)
        )

    async def report(self, gallery: str, subject: str) -> SubjectReport:
        """All that is held about a subject.

        Raises:
            NotFound: there is no such gallery or subject.
        """
        held = await self.galleries.with_names(gallery, lambda names: self.cloud.report(names.at_cloud(subject)))
        faces = [
            ReportedFace(id=each.id, created_at=each.created_at, template=vector.open().tolist())
            for each, vector in zip(held.templates, held.vectors, strict=True)
        ]
        events = [
            SubjectEvent(
                receipt=Receipt(id=entry.seq, at=entry.at, digest=entry.digest),
                action=entry.action,
                details=entry.details,
            )
            for entry in held.audit
        ]
        return SubjectReport(
            gallery=gallery,
            subject=subject,
            created_at=held.created_at,
            expires_at=held.expires_at,
            faces=faces,
            events=events,
        )

    async def duplicates(self, gallery: str, wanted: FindDuplicates) -> GalleryDuplicates:
        """Some subjects of a gallery that match others of it.

        Raises:
            NotFound: there is no such gallery.
            Conflict: it is verify-only.
        """

        async def call(names: GalleryNames) -> GalleryDuplicates:
            found = await self.cloud.duplicates(gallery, names.contract_digest, wanted)
            shown = names.names.shown
            items = [
                MatchingPair(subject=shown(pair.subject), other=shown(pair.other), similarity=pair.similarity)
                for pair in found.items
            ]
            return GalleryDuplicates(items=items, compared=found.compared, threshold=found.threshold, next=found.next)

        return await self.galleries.with_names(gallery, call)

    async def move(self, gallery: str, subject: str, to: str, onto: Onto, face: str | None = None) -> Moved:
        """Gives a subject's faces another name, in one transaction of the cloud.

        Args:
            gallery: its name.
            subject: who has them.
            to: who gets them.
            onto: whether that subject must be new (a rename) or exist (a merge).
            face: the id of one of them; None: all.

        Raises:
            Unprocessable: the two names are one.
            NotFound: there is no such gallery, subject or face.
            Conflict: the other name is taken, or is not there; or the gallery's key is being changed.
        """
        if subject == to:
            raise Unprocessable("Both names are of one subject, so there is nothing to move.", reason="same_subject")

        async def call(names: GalleryNames) -> Moved:
            request = MoveRequest(
                to=names.names.stored(to),
                onto=onto,
                templates=None if face is None else [face],
                rotation=await self._rotation(names, subject, to),
            )
            answer = await self.cloud.move(names.at_cloud(subject), request)
            return Moved(
                subject=to,
                faces=answer.templates,
                faces_enrolled=answer.total,
                emptied=answer.emptied,
                receipt=answer.receipt,
            )

        return await self.galleries.with_names(gallery, call)

    async def _rotation(self, names: GalleryNames, subject: str, to: str) -> RotationMatrix | None:
        """From one subject's seal to another's, in a verify-only gallery."""
        if not names.contract.verify_only:
            return None
        if names.key is None:
            raise ContractMismatch("The gallery's key is not here, so its templates cannot be moved.")
        keys = names.key.of_subject(subject), names.key.of_subject(to)
        return RotationMatrix.pack(await self.workers.run(rotation, *keys, names.contract.dim))
