"""Stores protected faces of a subject, and tells whom else they match."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Literal

from edge_service.cloud.client import CloudClient
from edge_service.gallery_contexts import GalleryContext
from edge_service.protection.embeddings import template_weights
from edge_service.protection.protect import PackedTemplates
from edge_service.protection.served_profiles import ServedProfiles
from edge_service.subjects.refusals import Sent, naming_the_refused
from edge_service.subjects.sender import TemplateSender
from edge_service.vision.embed import Embeddings
from shared.errors import Conflict, NotFound, Overloaded, UpstreamFailed
from shared.wire.cloud import BulkEnrollRequest, EnrolledTemplate, EnrollRequest, NewTemplate, SubjectTemplates
from shared.wire.common import Candidate

# Other subjects that are told of a face. More than a few reach the threshold only where it is far too low.
_MOST_OTHERS: Final = 5


@dataclass(frozen=True, slots=True)
class EnrollOptions:
    """What an enrollment is to do beside storing.

    Attributes:
        may_tell: is called with the number of faces before they are sent; whether the caller may learn whom they match.
        find_others: search for other subjects whom they match.
        dry_run: store nothing, and tell what would be stored.
        refuse_others: store nothing where a face is nearer to another subject than to its own.
        sent: what the faces are enrolled from; a refusal counts these.
    """

    may_tell: Callable[[int], bool]
    find_others: bool = False
    dry_run: bool = False
    refuse_others: bool = False
    sent: Sent = "picture"


@dataclass(frozen=True, slots=True)
class EnrolledOne:
    """What became of one picture or embedding.

    Attributes:
        id: of the face.
        created_at: when it was stored; of a dry run, the present moment.
        stored: by this request, before it, or not at all.
        agrees: whether it matches the subject's other faces; None where there are none, or the caller may not know.
        also_matches: other subjects whom it reaches, best first; None where the caller may not know, or nobody looked.
    """

    id: str
    created_at: datetime
    stored: Literal["now", "before", "no"]
    agrees: bool | None
    also_matches: list[Candidate] | None


@dataclass(frozen=True, slots=True)
class EnrollResult:
    """What an enrollment stored.

    Attributes:
        faces: one for each picture or embedding.
        unperturbed: number of them left unperturbed.
        total: faces that the subject has now.
        gain: share of genuine comparisons accepted now, and with one picture more; None where it is not known.
    """

    faces: list[EnrolledOne]
    unperturbed: int
    total: int
    gain: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrollment:
    """Stores protected faces, each id once.

    Attributes:
        cloud: where templates go.
        profiles: says what a face's weight is, and what one more picture is worth.
        sender: protects and sends.
    """

    cloud: CloudClient
    profiles: ServedProfiles
    sender: TemplateSender

    async def store(
        self, context: GalleryContext, subject: str, ids: list[str], found: Embeddings, options: EnrollOptions
    ) -> EnrollResult:
        """Protects and stores one subject's embeddings: all, or none.

        Args:
            context: of the gallery.
            subject: the person.
            ids: of the embeddings; equal ids are stored once.
            found: the embeddings.
            options: what to do beside storing.

        Raises:
            Conflict: a face is nearer to another subject than to its own, and that is to be refused.
            ContractMismatch: the gallery was made under another contract.
        """
        once, rows = _once(ids)
        weights = self._weights(context, found, rows)
        if context.protection.verify_only and options.refuse_others:
            raise Conflict(
                "The gallery is verify-only: nobody can say whom else a face matches. Leave out on_conflict.",
                reason="verify_only",
            )
        told = options.may_tell(len(ids))
        search = told and options.find_others and not context.protection.verify_only

        async def enroll(packed: PackedTemplates, context: GalleryContext) -> EnrollResult:
            reached = await self._reached(context, packed, options) if search else None
            if options.refuse_others and reached is not None:
                _refuse_others(subject, reached, rows)
            if options.dry_run:
                faces, total = await self._not_stored(context, subject, once, reached)
            else:
                new = _templates(once, packed, weights)
                with naming_the_refused(options.sent, ids):
                    faces, total = await self._stored(context, subject, new, reached)
            by_id = {face.id: face if told else replace(face, agrees=None) for face in faces}
            gain = self._gain(context, total) if total else None
            return EnrollResult([by_id[uid] for uid in ids], packed.unperturbed, total, gain)

        return await self.sender.send(context, subject, found.unit[rows], enroll)

    async def store_many(
        self,
        context: GalleryContext,
        subjects: list[str],
        ids: list[str],
        found: Embeddings,
        may_tell: Callable[[int], bool],
    ) -> tuple[list[EnrolledOne], int]:
        """Protects and stores embeddings of many subjects: all, or none, in one transaction.

        Args:
            context: of the gallery.
            subjects: n people, one for each embedding.
            ids: of the embeddings; equal ids are stored once.
            found: the embeddings.
            may_tell: as in ``EnrollOptions``.

        Returns:
            what became of each embedding, and how many of them were left unperturbed.

        Raises:
            ContractMismatch: the gallery was made under another contract.
        """
        once, rows = _once(ids)
        weights = self._weights(context, found, rows)
        whose = [subjects[row] for row in rows]
        told = may_tell(len(ids))

        async def enroll(packed: PackedTemplates, context: GalleryContext) -> tuple[list[EnrolledOne], int]:
            of_subjects: dict[str, list[NewTemplate]] = {}
            for subject, new in zip(whose, _templates(once, packed, weights), strict=True):
                of_subjects.setdefault(subject, []).append(new)
            stored_name = context.names.names.stored
            sent = [SubjectTemplates(subject=stored_name(name), templates=new) for name, new in of_subjects.items()]
            with naming_the_refused("embedding", ids, [stored_name(name) for name in subjects]):
                answer = await self.cloud.enroll_many(context.names.gallery, BulkEnrollRequest(subjects=sent))
            infos = _stored([info for each in answer.subjects for info in each.templates], once)
            faces = {
                info.id: EnrolledOne(info.id, info.created_at, info.stored, info.agrees if told else None, None)
                for info in infos.values()
            }
            return [faces[uid] for uid in ids], packed.unperturbed

        return await self.sender.send(context, whose, found.unit[rows], enroll)

    def _weights(self, context: GalleryContext, found: Embeddings, rows: list[int]) -> list[float]:
        calibration = self.profiles.score_calibration(context.protector.profile)
        return template_weights(found.norms[rows], calibration.weights)

    async def _reached(
        self, context: GalleryContext, packed: PackedTemplates, options: EnrollOptions
    ) -> list[list[Candidate]] | None:
        """The subjects whom each face reaches, best first. None: the cloud would not search, and nothing needs it."""
        try:
            _answer, candidates = await self.sender.search(context, packed.envelopes, _MOST_OTHERS + 1)
        except (UpstreamFailed, Overloaded):
            if options.dry_run or options.refuse_others:
                raise
            return None  # as where this edge's API key for the cloud may not match: an enrollment goes on
        return candidates

    async def _stored(
        self, context: GalleryContext, subject: str, new: list[NewTemplate], reached: list[list[Candidate]] | None
    ) -> tuple[list[EnrolledOne], int]:
        answer = await self.cloud.enroll(context.names.at_cloud(subject), EnrollRequest(templates=new))
        stored = _stored(answer.templates, [each.id for each in new])
        faces = []
        for position, each in enumerate(new):
            info = stored[each.id]
            others = None if reached is None else _others(subject, reached[position])
            faces.append(EnrolledOne(info.id, info.created_at, info.stored, info.agrees, others))
        return faces, answer.total

    async def _not_stored(
        self, context: GalleryContext, subject: str, ids: list[str], reached: list[list[Candidate]] | None
    ) -> tuple[list[EnrolledOne], int]:
        """What an enrollment would answer, by what the cloud holds of the subject now."""
        try:
            held = {each.id: each for each in (await self.cloud.subject(context.names.at_cloud(subject))).templates}
        except NotFound as error:
            if error.reason != "unknown_subject":
                raise
            held = {}
        faces = []
        for position, uid in enumerate(ids):
            others, agrees = None, None
            if reached is not None:
                others = _others(subject, reached[position])
                if held and uid not in held:
                    agrees = any(each.subject == subject for each in reached[position])
            when = held[uid].created_at if uid in held else datetime.now(UTC)
            faces.append(EnrolledOne(uid, when, "before" if uid in held else "no", agrees, others))
        return faces, len(held)

    def _gain(self, context: GalleryContext, templates: int) -> tuple[float, float] | None:
        """What one more picture is worth, by the profile; None where the gallery does not match as it was measured."""
        document = context.protector.profile.document
        if document.score is None or document.threshold is None:
            return None
        measured = (document.score.subject_score(), document.threshold.cosine)
        return document.score.gain(templates) if measured == (context.score, context.threshold.cosine) else None


def _once(ids: list[str]) -> tuple[list[str], list[int]]:
    """Ids without those that come again, and the position of each."""
    first = {uid: row for row, uid in reversed(list(enumerate(ids)))}
    rows = sorted(first.values())
    return [ids[row] for row in rows], rows


def _templates(ids: list[str], packed: PackedTemplates, weights: list[float]) -> list[NewTemplate]:
    return [
        NewTemplate(id=uid, template=each, weight=weight)
        for uid, each, weight in zip(ids, packed.envelopes, weights, strict=True)
    ]


def _stored(answered: list[EnrolledTemplate], ids: list[str]) -> dict[str, EnrolledTemplate]:
    """What the cloud answered of each template, by its id.

    Raises:
        UpstreamFailed: it answered for others.
    """
    stored = {info.id: info for info in answered}
    if stored.keys() != set(ids):
        raise UpstreamFailed("The cloud answered for other templates than it was sent; look at the cloud.")
    return stored


def _others(subject: str, reached: list[Candidate]) -> list[Candidate]:
    return [each for each in reached if each.subject != subject][:_MOST_OTHERS]


def _refuse_others(subject: str, reached: list[list[Candidate]], positions: list[int]) -> None:
    """Refuses faces of which another subject than their own is the nearest that reaches the threshold.

    Raises:
        Conflict: names the position of the first one, and the subject.
    """
    for candidates, position in zip(reached, positions, strict=True):
        if candidates and candidates[0].subject != subject:
            raise Conflict(
                f"Picture {position} is nearer to another subject than to this one, and nothing was stored; see "
                "`nearest`. To store it all the same, leave out on_conflict=refuse.",
                reason="belongs_to_another",
                picture=position,
                nearest=candidates[0].subject,
            )
