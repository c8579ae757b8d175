"""Embeddings of other recognition systems: protected and handed back, or enrolled into a gallery of ours."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edge_service.gallery_contexts import GalleryContexts
from edge_service.protection.embeddings import unit_rows
from edge_service.protection.keys import EpochKey, KeyStore
from edge_service.protection.protect import Protected, Protector
from edge_service.recognition import Recognition
from edge_service.workers import Workers
from shared.contract import ProfilePin
from shared.errors import Unprocessable
from shared.wire.common import TemplateInfo
from shared.wire.edge import QualityFilter

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class HandedBack:
    """Templates for another system.

    Attributes:
        protected: them.
        profile: that made them.
        contract: digest of the gallery's contract; None where none was named.
        faces_found: how many faces the picture has, of which the largest was used; None where there was no picture.
    """

    protected: Protected = field(repr=False)
    profile: ProfilePin
    contract: str | None
    faces_found: int | None = None


class Plugin:
    """What the edge does for recognition systems that have embeddings already.

    Args:
        recognition: pictures to embeddings, and templates to the cloud.
        protector: embeddings to templates.
        galleries: under what to protect.
        keys: for templates that are for no gallery.
        workers: where heavy work runs.
        dim: length of this edge's own embeddings.
    """

    def __init__(
        self,
        *,
        recognition: Recognition,
        protector: Protector,
        galleries: GalleryContexts,
        keys: KeyStore,
        workers: Workers,
        dim: int,
    ) -> None:
        self._recognition = recognition
        self._protector = protector
        self._galleries = galleries
        self._keys = keys
        self._workers = workers
        self.dim = dim

    async def protect_picture(
        self, picture: bytes, gallery: str | None, quality: QualityFilter, subject: str | None = None
    ) -> HandedBack:
        """The template of a picture's one face."""
        key, contract = await self._key(gallery, subject)
        face, embeddings = await self._recognition.one_face(picture, quality)
        made = await self._made(embeddings.unit, key, contract)
        return replace(made, faces_found=face.faces_found)

    async def protect(self, raw: Rows, gallery: str | None, subject: str | None = None) -> HandedBack:
        """Templates of raw embeddings.

        Args:
            raw: (n, d) float32, of any length but 0.
            gallery: under whose key; None only where the profile does not seal.
            subject: whose they are; needed where the gallery is verify-only.

        Raises:
            Unprocessable: no gallery where the profile seals, no subject where one is needed, or not embeddings that
                the profile is for.
            NotFound: there is no such gallery; ContractMismatch: it was made under another contract.
        """
        key, contract = await self._key(gallery, subject)
        unit, _norms = unit_rows(raw, self._protector.profile, self.dim)
        return await self._made(unit, key, contract)

    async def enroll(
        self, gallery: str, subject: str, raw: Rows, faces: list[str | None]
    ) -> tuple[list[TemplateInfo], int]:
        """Enrolls raw embeddings; the same twice is stored once.

        The template's id follows from the gallery's key, the subject, and the face's name or else the embedding: who
        does not have the key cannot tell a guessed name or embedding by it.

        Args:
            gallery: where.
            subject: whose.
            raw: (n, d) float32, of any length but 0.
            faces: n names of the sender's own, or None.

        Returns:
            What is stored, in the order of the rows, and how many a network left unperturbed.

        Raises:
            Unprocessable: not embeddings that the profile is for, or a name that stands there twice.
            NotFound: there is no such gallery; ContractMismatch: it was made under another contract.
        """
        await self._galleries.context(gallery)
        unit, _norms = unit_rows(raw, self._protector.profile, self.dim)
        ids = [self._galleries.face_id(gallery, subject, *each) for each in zip(faces, unit, strict=True)]
        kept = {uid: row for row, uid in reversed(list(enumerate(ids)))}
        if any(not np.array_equal(unit[kept[uid]], unit[row]) for row, uid in enumerate(ids)):
            raise Unprocessable("One name of a face stands in the request for two embeddings.", reason="duplicate_face")
        once = sorted(kept.values())
        stored, unperturbed = await self._recognition.store(gallery, subject, [ids[row] for row in once], unit[once])
        known = {info.id: info for info in stored}
        return [known[uid] for uid in ids], unperturbed

    async def _key(self, gallery: str | None, subject: str | None) -> tuple[EpochKey | None, str | None]:
        if gallery is not None:
            context = await self._galleries.context(gallery)
            if context.verify_only and subject is None:
                raise Unprocessable(
                    "The gallery is verify-only, and each subject has a seal of its own; name one: &subject=NAME",
                    reason="no_subject",
                )
            context = context if subject is None else context.for_subject(subject)
            return context.key, context.contract_digest
        if self._protector.profile.seals:
            raise Unprocessable(
                "This edge's profile seals under a gallery's key; name the gallery: ?gallery=NAME", reason="no_gallery"
            )
        return self._keys.no_gallery(), None

    async def _made(self, unit: Rows, key: EpochKey | None, contract: str | None) -> HandedBack:
        protected = await self._workers.run(self._protector.templates, unit, key)
        return HandedBack(protected, self._protector.profile.pin, contract)
