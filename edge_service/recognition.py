"""Enroll, verify, identify: from pictures to an answer of the cloud, by way of protection."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_service.cloud_client import CloudClient
from edge_service.gallery_contexts import GalleryContexts
from edge_service.protection.protect import Outgoing, ProtectionContext, Protector
from edge_service.vision.embed import MAX_BATCH, Embeddings
from edge_service.vision.reader import FaceReader, FoundFace, ReadPicture, Selected, level_for, select, the_one_face
from edge_service.workers import Workers
from shared.errors import Conflict, ContractMismatch, PatronusError
from shared.http.request_context import check_caller
from shared.metrics import Metrics
from shared.scores import CosineSimilarity, CosineThreshold
from shared.wire.cloud import (
    MAX_PROBES_A_REQUEST,
    EnrollRequest,
    IdentifyRequest,
    NewTemplate,
    ProbeResult,
    VerifyRequest,
)
from shared.wire.common import TemplateInfo, Threshold, VerifyAnswer
from shared.wire.edge import QualityFilter

T = TypeVar("T")
# More than this, and a network keeps the event loop busy for longer than a worker takes to wake.
_AT_ONCE = 10


@dataclass(frozen=True, slots=True)
class Identified:
    """The faces that were looked for, what each matched, and at which threshold."""

    selected: Selected
    results: list[ProbeResult]
    threshold: float
    fmr_at_threshold: float


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What was stored of each picture, and how many templates a network left unperturbed."""

    faces: list[tuple[TemplateInfo, FoundFace]]
    unperturbed: int


class Recognition:
    """What the edge does with pictures.

    Args:
        reader: pictures to embeddings.
        protector: embeddings to templates; the only source of what is sent.
        galleries: under what to protect.
        cloud: where templates go.
        workers: where heavy work runs.
        metrics: where protection is timed.
    """

    def __init__(
        self,
        *,
        reader: FaceReader,
        protector: Protector,
        galleries: GalleryContexts,
        cloud: CloudClient,
        workers: Workers,
        metrics: Metrics,
    ) -> None:
        self._reader = reader
        self._protector = protector
        self._galleries = galleries
        self._cloud = cloud
        self._workers = workers
        self._metrics = metrics

    async def detect(self, picture: bytes) -> ReadPicture:
        """All faces of a picture; nothing is sent."""
        return await self._workers.run(self._reader.read, picture, every_face=True)

    async def compare(
        self, pictures: list[bytes], threshold: Threshold, quality: QualityFilter
    ) -> tuple[VerifyAnswer, list[FoundFace]]:
        """Compares two pictures here; nothing is sent."""
        faces, embeddings = await self._workers.run(self._single_faces, pictures, level_for(quality, "probe"))
        score = CosineSimilarity(float(np.dot(embeddings.unit[0].astype(np.float64), embeddings.unit[1])))
        answer = VerifyAnswer(
            decision="match" if CosineThreshold.of(threshold.cosine).accepts(score) else "no_match",
            similarity=score.value,
            threshold=threshold.cosine,
            fmr_at_threshold=threshold.fmr,
        )
        return answer, faces

    async def enroll(self, gallery: str, subject: str, pictures: list[bytes], quality: QualityFilter) -> Enrolled:
        """Enrolls one person from several pictures: all of them, or none."""
        await self._galleries.context(gallery)  # an unknown gallery is told before the work is done
        faces, embeddings = await self._workers.run(self._single_faces, pictures, level_for(quality, "enroll"))
        ids = [uuid.uuid4().hex for _ in faces]

        stored, unperturbed = await self.store(gallery, subject, ids, embeddings.unit)
        return Enrolled(list(zip(stored, faces, strict=True)), unperturbed)

    async def store(
        self, gallery: str, subject: str, ids: list[str], unit: NDArray[np.float32]
    ) -> tuple[list[TemplateInfo], int]:
        """Protects embeddings of one subject and stores them.

        Args:
            gallery: where.
            subject: whose.
            ids: n, of the templates; storing the same embedding under the same id twice stores it once.
            unit: (n, d) float32, unit rows.

        Returns:
            What was stored, in the order of the rows, and how many a network left unperturbed.
        """

        async def send(made: Outgoing) -> tuple[list[TemplateInfo], int]:
            new = [NewTemplate(id=uid, template=template) for uid, template in zip(ids, made.envelopes, strict=True)]
            answer = await self._cloud.enroll(gallery, subject, EnrollRequest(templates=new))
            stored = {info.id: info for info in answer.templates}
            return [stored[uid] for uid in ids], made.unperturbed

        return await self._protected(gallery, unit, send, subject)

    async def verify(
        self, gallery: str, subject: str, picture: bytes, quality: QualityFilter
    ) -> tuple[VerifyAnswer, FoundFace]:
        """Compares a picture with a subject."""
        await self._galleries.context(gallery)
        faces, embeddings = await self._workers.run(self._single_faces, [picture], level_for(quality, "probe"))

        async def send(made: Outgoing) -> VerifyAnswer:
            return await self._cloud.verify(gallery, subject, VerifyRequest(probe=made.envelopes[0]))

        return await self._protected(gallery, embeddings.unit, send, subject), faces[0]

    async def identify(
        self,
        gallery: str,
        picture: bytes,
        *,
        top_k: int,
        max_faces: int,
        quality: QualityFilter,
        count: Callable[[int], None],
    ) -> Identified:
        """Looks for the faces of a picture in a gallery, largest faces first.

        Args:
            gallery: where.
            picture: a JPEG, PNG or WebP file.
            top_k: candidates a face, at most.
            max_faces: how many faces to look for, at most.
            quality: what a face must be good enough for; others are left out.
            count: is told how many probes there are before any is sent, and raises if they are too many.

        Raises:
            Conflict: the gallery is verify-only.
        """
        if (await self._galleries.context(gallery)).verify_only:
            raise Conflict(
                "The gallery is verify-only: each subject has a seal of its own, and nobody can be looked for among "
                "all. Verify against one subject, or make a gallery that can identify.",
                reason="verify_only",
            )
        level = level_for(quality, "probe")
        selected, first = await self._workers.run(self._selected_faces, picture, level, max_faces)
        count(len(selected.faces))
        rest = [await self._workers.run(self._reader.embed, part) for part in _parts(selected.faces, MAX_BATCH)[1:]]
        unit = np.concatenate([embeddings.unit for embeddings in (first, *rest)])

        async def send(made: Outgoing) -> Identified:
            requests = [
                IdentifyRequest(probes=part, top_k=top_k) for part in _parts(made.envelopes, MAX_PROBES_A_REQUEST)
            ]
            answers = [await self._cloud.identify(gallery, request) for request in requests]
            results = [result for answer in answers for result in answer.results]
            return Identified(selected, results, answers[0].threshold, answers[0].fmr_at_threshold)

        return await self._protected(gallery, unit, send)

    async def one_face(self, picture: bytes, quality: QualityFilter) -> tuple[FoundFace, Embeddings]:
        """A picture's one face and its raw embedding; nothing is sent."""
        [face], embeddings = await self._workers.run(self._single_faces, [picture], level_for(quality, "enroll"))
        return face, embeddings

    async def _protected(
        self,
        gallery: str,
        unit: NDArray[np.float32],
        send: Callable[[Outgoing], Awaitable[T]],
        subject: str | None = None,
    ) -> T:
        """Protects embeddings and sends what came out; once more if the gallery's key was rotated meanwhile."""
        context = await self._context(gallery, subject)
        try:
            made = await self._made(unit, context)
            check_caller()  # what nobody waits for is not sent
            return await send(made)
        except ContractMismatch:
            self._galleries.forget(gallery)
            renewed = await self._context(gallery, subject)
            if renewed.contract_digest == context.contract_digest:
                raise
            return await send(await self._made(unit, renewed))

    async def _context(self, gallery: str, subject: str | None) -> ProtectionContext:
        context = await self._galleries.context(gallery)
        return context if subject is None else context.for_subject(subject)

    async def _made(self, unit: NDArray[np.float32], context: ProtectionContext) -> Outgoing:
        check_caller()
        with self._metrics.step("protect"):
            if len(unit) <= _AT_ONCE:
                return self._protector.protect(unit, context)
            return await self._workers.run(self._protector.protect, unit, context)

    def _single_faces(self, pictures: list[bytes], level: QualityFilter) -> tuple[list[FoundFace], Embeddings]:
        faces = []
        for position, picture in enumerate(pictures):
            check_caller()
            try:
                faces.append(the_one_face(self._reader.read(picture), level))
            except PatronusError as error:
                error.extra["picture"] = position
                raise
        return faces, self._reader.embed(faces)

    def _selected_faces(self, picture: bytes, level: QualityFilter, max_faces: int) -> tuple[Selected, Embeddings]:
        """The faces to identify, and embeddings of the first batch: most requests have no other."""
        selected = select(self._reader.read(picture, every_face=max_faces > 1), level, max_faces)
        return selected, self._reader.embed(selected.faces[:MAX_BATCH])


def _parts(items: list[T], size: int) -> list[list[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
