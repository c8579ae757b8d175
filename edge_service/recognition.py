"""The way of a picture, top to bottom: decode, detect, align, embed, protect, send.

Each verb is one method, and its steps are numbered. Only ``TemplateSender`` sends templates, made by
``Protector.protect``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np
from fastapi.concurrency import run_in_threadpool
from numpy.typing import NDArray

from edge_service.gallery_contexts import GalleryContext, GalleryContexts
from edge_service.protection.embeddings import unit_rows
from edge_service.protection.keys import EpochKey, KeyStore
from edge_service.protection.profiles.files import Profile
from edge_service.protection.protect import PackedTemplates, Protected, Protector
from edge_service.protection.seal import seal_matrix
from edge_service.protection.served_profiles import ServedProfiles
from edge_service.settings import MirroredFaces
from edge_service.subjects.enrollment import Enrollment, EnrollOptions, EnrollResult
from edge_service.subjects.sender import TemplateSender
from edge_service.vision.embed import Embeddings, faces_per_batch
from edge_service.vision.quality import level_for
from edge_service.vision.reader import (
    AlignedFace,
    FaceReader,
    FaceSelection,
    PictureFaces,
    select,
    single_face,
)
from edge_service.workers import Workers
from shared.errors import Conflict, PatronusError, Unprocessable
from shared.http.request_context import check_caller
from shared.names import QualityFilter
from shared.scores import CosineSimilarity, CosineThreshold
from shared.wire.cloud import IdentifyAnswer, VerifyRequest
from shared.wire.common import Candidate, Threshold, VerifyAnswer

T = TypeVar("T")
Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The decision on two pictures, and the cosine of their embeddings."""

    decision: Literal["match", "no_match"]
    similarity: float


@dataclass(frozen=True, slots=True)
class Identified:
    """What a search found.

    Attributes:
        answer: how the gallery decided, with a result for each face.
        candidates: of each face, by their names.
        selected: the faces that were searched for.
        context: of the gallery.
    """

    answer: IdentifyAnswer
    candidates: list[list[Candidate]]
    selected: FaceSelection
    context: GalleryContext


@dataclass(frozen=True, slots=True, eq=False)
class ProtectResult:
    """Templates for another system.

    Attributes:
        protected: the templates.
        profile: that they are made under.
        contract: digest of the gallery's contract; None where no gallery was named.
        faces_found: faces in the picture, of which the largest was used; None for embeddings.
    """

    protected: Protected = field(repr=False)
    profile: Profile = field(repr=False)
    contract: str | None
    faces_found: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class OneFace:
    """A face, and what is known of it with and without protection; each (1, d) float32, a unit row.

    Attributes:
        face: as it was found and aligned.
        unit: its embedding.
        with_key: its template, with the seal undone; without a seal, its template.
        without_key: its template, as the cloud has it.
    """

    face: AlignedFace
    unit: Rows = field(repr=False)
    with_key: Rows = field(repr=False)
    without_key: Rows = field(repr=False)


@dataclass(slots=True, kw_only=True)
class Recognition:
    """What the edge does with pictures, and with embeddings of other recognition systems.

    Attributes:
        reader: pictures to embeddings.
        profiles: embeddings to templates, by the profile of each gallery; the only source of what is sent.
        galleries: contract and key of each gallery.
        keys: for templates that are for no gallery.
        sender: protects, and sends templates.
        enrollment: stores them.
        workers: where heavy work runs.
        quality_filter: where a caller names none.
        mirrored: of which pictures the mirrored face is embedded too.
    """

    reader: FaceReader
    profiles: ServedProfiles
    galleries: GalleryContexts
    keys: KeyStore
    sender: TemplateSender
    enrollment: Enrollment
    workers: Workers
    quality_filter: QualityFilter
    mirrored: MirroredFaces

    async def detect(self, picture: bytes) -> PictureFaces:
        """Finds all faces of a picture; sends nothing."""
        return await self.workers.run(self.reader.read, picture, every_face=True)

    async def compare(
        self, pictures: list[bytes], threshold: Threshold, quality: QualityFilter | None
    ) -> tuple[Comparison, list[AlignedFace]]:
        """Compares two pictures here; sends nothing."""
        faces, found = await self.workers.run(self._read_single_faces, pictures, self.level(quality, "probe"))
        score = CosineSimilarity(float(np.dot(found.unit[0].astype(np.float64), found.unit[1])))
        accepted = CosineThreshold.of(threshold.cosine).accepts(score)
        return Comparison("match" if accepted else "no_match", score.value), faces

    async def enroll(
        self, gallery: str, subject: str, pictures: list[bytes], quality: QualityFilter | None, options: EnrollOptions
    ) -> tuple[EnrollResult, list[AlignedFace]]:
        """Enrolls one person from pictures: all of them, or none. Equal pictures are stored once.

        Raises:
            Conflict: a face is nearer to another subject, and that is to be refused.
        """
        # 1. The gallery's contract and key; an unknown gallery is refused before the work is done.
        context = await self.galleries.context(gallery)
        # 2. Decode, detect, align, embed.
        level, mirrored = self.level(quality, "enroll"), self._mirrors("enroll")
        faces, found = await self.workers.run(self._read_single_faces, pictures, level, mirrored=mirrored)
        # 3. Ids that follow from the uploaded bytes.
        ids = await run_in_threadpool(self._picture_ids, gallery, subject, pictures)
        # 4. Protect and store.
        return await self.enrollment.store(context, subject, ids, found, options), faces

    async def verify(
        self, gallery: str, subject: str, picture: bytes, quality: QualityFilter | None
    ) -> tuple[VerifyAnswer, AlignedFace, GalleryContext]:
        """Compares a picture with a subject."""
        # 1. The gallery's contract and key.
        context = await self.galleries.context(gallery)
        # 2. Decode, detect, align, embed.
        level, mirrored = self.level(quality, "probe"), self._mirrors("probe")
        [face], found = await self.workers.run(self._read_single_faces, [picture], level, mirrored=mirrored)

        # 3. Protect and compare.
        async def compare(packed: PackedTemplates, context: GalleryContext) -> tuple[VerifyAnswer, GalleryContext]:
            probe = VerifyRequest(probe=packed.envelopes[0])
            return await self.sender.cloud.verify(context.names.at_cloud(subject), probe), context

        answer, context = await self.sender.send(context, subject, found.unit, compare)
        return answer, face, context

    async def identify(
        self,
        gallery: str,
        picture: bytes,
        *,
        top_k: int,
        max_faces: int,
        quality: QualityFilter | None,
        count_probes: Callable[[int], None],
    ) -> Identified:
        """Searches a gallery for the faces of a picture, largest faces first.

        Args:
            gallery: its name.
            picture: a JPEG, PNG or WebP file.
            top_k: candidates a face, at most.
            max_faces: faces to search for, at most.
            quality: what a face must be good enough for; others are left out.
            count_probes: is called with the number of probes before any is sent, and raises if they are too many.

        Raises:
            Conflict: the gallery is verify-only.
        """
        # 1. The gallery's contract and key.
        context = await self.galleries.context(gallery)
        if context.protection.verify_only:
            raise Conflict(
                "The gallery is verify-only: each subject has a seal of its own, and nobody can be looked for among "
                "all. Verify against one subject, or make a gallery that can identify.",
                reason="verify_only",
            )
        # 2. Decode, detect, align, embed.
        level, mirrored = self.level(quality, "probe"), self._mirrors("probe")
        selected, first = await self.workers.run(self._read_faces, picture, level, max_faces, mirrored=mirrored)
        count_probes(len(selected.faces))
        batches = _parts(selected.faces, faces_per_batch(mirrored=mirrored))
        later = [await self.workers.run(self.reader.embed, batch, mirrored=mirrored) for batch in batches[1:]]
        unit = np.concatenate([first, *(each.unit for each in later)])

        # 3. Protect and search.
        async def search(packed: PackedTemplates, context: GalleryContext) -> Identified:
            answer, candidates = await self.sender.search(context, packed.envelopes, top_k)
            return Identified(answer, candidates, selected, context)

        return await self.sender.send(context, None, unit, search)

    async def protect(
        self, embeddings: Rows | bytes, gallery: str | None, subject: str | None, quality: QualityFilter | None
    ) -> ProtectResult:
        """Makes templates for another system; sends nothing.

        Args:
            embeddings: (n, d) float32 raw embeddings of any length but 0, or a picture with one face.
            gallery: whose key is used; None only where the profile does not seal.
            subject: needed where the gallery is verify-only.
            quality: what the picture's face must be good enough for.

        Raises:
            Unprocessable: a gallery or a subject is needed and missing, or not embeddings that the profile is for.
            NotFound: there is no such gallery.
            ContractMismatch: the gallery was made under another contract.
        """
        # 1. The protector and its key.
        protector, key, contract = await self._key_for_protect(gallery, subject)
        # 2. Unit rows: those of a picture are decoded, detected, aligned, embedded.
        faces_found = None
        if isinstance(embeddings, bytes):
            level = self.level(quality, "enroll")
            [face], found = await self.workers.run(self._read_single_faces, [embeddings], level)
            unit, faces_found = found.unit, face.faces_found
        else:
            unit, _lengths = unit_rows(embeddings, protector.profile, self.reader.spec.dim)
        # 3. Protect.
        protected = await self.workers.run(protector.templates, unit, key)
        return ProtectResult(protected, protector.profile, contract, faces_found)

    async def one_face(
        self, picture: bytes, gallery: str | None, subject: str | None, quality: QualityFilter | None
    ) -> OneFace:
        """The face of a picture with its embedding and its template; sends nothing.

        Args, and what is raised, as of ``protect``.
        """
        protector, key, _ = await self._key_for_protect(gallery, subject)
        [face], found = await self.workers.run(self._read_single_faces, [picture], self.level(quality, "enroll"))
        made = (await self.workers.run(protector.templates, found.unit, key)).templates
        opened = made
        if protector.profile.seals and key is not None:
            opened = made @ seal_matrix(key, made.shape[1])
        return OneFace(face, found.unit, opened, made)

    async def _key_for_protect(
        self, gallery: str | None, subject: str | None
    ) -> tuple[Protector, EpochKey | None, str | None]:
        if gallery is not None:
            context = await self.galleries.context(gallery)
            protection = context.protection
            if protection.verify_only and subject is None:
                raise Unprocessable(
                    "The gallery is verify-only, and each subject has a seal of its own; name one: &subject=NAME",
                    reason="no_subject",
                )
            return context.protector, protection.for_subject(subject).key, protection.contract_digest
        own = self.profiles.default
        if own.profile.seals:
            raise Unprocessable(
                "This edge's profile seals under a gallery's key; name the gallery: ?gallery=NAME", reason="no_gallery"
            )
        return own, self.keys.no_gallery(), None

    def _picture_ids(self, gallery: str, subject: str, pictures: list[bytes]) -> list[str]:
        return [self.galleries.face_id(gallery, subject, "picture", picture) for picture in pictures]

    def _read_single_faces(
        self, pictures: list[bytes], level: QualityFilter, *, mirrored: bool = False
    ) -> tuple[list[AlignedFace], Embeddings]:
        """The one face of each picture, and their embeddings; runs in a worker."""
        faces = []
        for position, picture in enumerate(pictures):
            check_caller()
            try:
                faces.append(single_face(self.reader.read(picture), level))
            except PatronusError as error:
                error.extra["picture"] = position
                raise
        return faces, self.reader.embed(faces, mirrored=mirrored)

    def _read_faces(
        self, picture: bytes, level: QualityFilter, max_faces: int, *, mirrored: bool
    ) -> tuple[FaceSelection, Rows]:
        """The faces to identify, and embeddings of the first batch; runs in a worker."""
        selected = select(self.reader.read(picture, every_face=max_faces > 1), level, max_faces)
        first = selected.faces[: faces_per_batch(mirrored=mirrored)]
        return selected, self.reader.embed(first, mirrored=mirrored).unit

    def level(self, quality: QualityFilter | None, use: Literal["enroll", "probe"]) -> QualityFilter:
        """The quality that a face must have: as the caller chose, else as the edge is set."""
        return level_for(quality or self.quality_filter, use)

    def _mirrors(self, use: Literal["enroll", "probe"]) -> bool:
        return self.mirrored == "both" or (self.mirrored == "enrollment" and use == "enroll")


def _parts(items: list[T], size: int) -> list[list[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
