"""Enrolls raw embeddings of other recognition systems: of one subject, or of many at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from fastapi.concurrency import run_in_threadpool
from numpy.typing import NDArray

from edge_service.gallery_contexts import GalleryContext, GalleryContexts
from edge_service.protection.embeddings import unit_rows
from edge_service.subjects.enrollment import EnrolledOne, Enrollment, EnrollOptions, EnrollResult
from edge_service.subjects.refusals import refuse
from edge_service.vision.embed import Embeddings
from shared.errors import Unprocessable

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingEnrollment:
    """Enrolls raw embeddings, each once: under a name of the sender's own, or else by its values.

    Attributes:
        galleries: contract and key of each gallery.
        enrollment: protects and stores.
        dim: values that an embedding must have.
    """

    galleries: GalleryContexts
    enrollment: Enrollment
    dim: int

    async def enroll(
        self, gallery: str, subject: str, raw: Rows, names: list[str | None], options: EnrollOptions
    ) -> EnrollResult:
        """Enrolls raw embeddings of one person: all, or none. Equal embeddings are stored once.

        Args:
            gallery: its name.
            subject: the person.
            raw: (n, d) float32, of any length but 0.
            names: n names of the sender's own; None: the id follows from the embedding itself.
            options: what to do beside storing.

        Raises:
            Unprocessable: not embeddings that the profile is for, or one name for two embeddings.
            NotFound: there is no such gallery.
            ContractMismatch: the gallery was made under another contract.
        """
        context = await self.galleries.context(gallery)
        ids, found = self._prepared(context, [subject] * len(raw), raw, names)
        return await self.enrollment.store(context, subject, ids, found, options)

    async def enroll_many(
        self, gallery: str, subjects: list[str], raw: Rows, names: list[str | None], may_tell: Callable[[int], bool]
    ) -> tuple[list[EnrolledOne], int]:
        """Enrolls raw embeddings of many people as ``enroll`` does: all, or none, in one transaction.

        Args:
            gallery: its name.
            subjects: n people, one for each embedding.
            raw: (n, d) float32, of any length but 0.
            names: n names of the sender's own, or None, as for ``enroll``.
            may_tell: as in ``EnrollOptions``.

        Returns:
            what became of each embedding, and how many were left unperturbed.

        Raises:
            PatronusError: as ``enroll`` says. An ``Unprocessable`` names the rows.
        """
        context = await self.galleries.context(gallery)
        ids, found = await run_in_threadpool(self._prepared, context, subjects, raw, names)
        return await self.enrollment.store_many(context, subjects, ids, found, may_tell)

    def _prepared(
        self, context: GalleryContext, subjects: list[str], raw: Rows, names: list[str | None]
    ) -> tuple[list[str], Embeddings]:
        """The ids of embeddings, and their unit rows and lengths."""
        _refuse_repeated(subjects, names)
        _refuse_names(context, subjects)
        unit, lengths = unit_rows(raw, context.protector.profile, self.dim)
        gallery = context.names.gallery
        ids = [
            self.galleries.face_id(gallery, subject, "values", np.ascontiguousarray(row, dtype="<f4").tobytes())
            if name is None
            else self.galleries.face_id(gallery, subject, "name", name.encode())
            for subject, name, row in zip(subjects, names, unit, strict=True)
        ]
        return ids, Embeddings(unit, lengths)


def _refuse_repeated(subjects: list[str], names: list[str | None]) -> None:
    seen: set[tuple[str, str]] = set()
    repeated = []
    for at, (subject, name) in enumerate(zip(subjects, names, strict=True)):
        if name is not None and (subject, name) in seen:
            repeated.append(at)
        elif name is not None:
            seen.add((subject, name))
    if repeated:
        error = Unprocessable("Two embeddings have one `face`; give each its own name.", reason="duplicate_face")
        refuse(error, repeated, "has a `face` that another embedding of its subject has")


def _refuse_names(context: GalleryContext, subjects: list[str]) -> None:
    """Refuses names that a gallery of plain names cannot hold."""
    refusal, wrong = None, []
    for at, subject in enumerate(subjects):
        try:
            context.names.names.stored(subject)
        except Unprocessable as error:
            refusal = error
            wrong.append(at)
    if refusal is not None:
        refuse(refusal, wrong, "has a name that the gallery does not take before its key is changed")
