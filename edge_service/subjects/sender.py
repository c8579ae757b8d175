"""Protects embeddings and sends the templates: the only source of what reaches the cloud of a face."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_service.cloud.client import CloudClient
from edge_service.gallery_contexts import GalleryContext, GalleryContexts
from edge_service.protection.protect import PackedTemplates
from edge_service.workers import Workers
from shared.envelope import TemplateEnvelope
from shared.errors import ContractMismatch, UpstreamFailed
from shared.http.request_context import check_caller
from shared.metrics import Metrics
from shared.wire.cloud import MAX_PROBES_A_REQUEST, IdentifyAnswer, IdentifyRequest
from shared.wire.common import Candidate

T = TypeVar("T")
Rows = NDArray[np.float32]
# One subject for all rows, one for each, or none.
Whose = str | list[str] | None
# Calls the cloud with templates that were made under a context, in which the subject's name is sealed too.
Send = Callable[[PackedTemplates, GalleryContext], Awaitable[T]]
# More embeddings than this, and a network keeps the event loop busy for longer than a worker takes to wake.
_MOST_ON_EVENT_LOOP = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateSender:
    """Sends protected templates to galleries.

    Attributes:
        cloud: where templates go.
        galleries: contract and key of each gallery.
        workers: where heavy work runs.
        metrics: where protection is timed.
    """

    cloud: CloudClient
    galleries: GalleryContexts
    workers: Workers
    metrics: Metrics

    async def send(self, context: GalleryContext, subject: Whose, unit: Rows, send: Send[T]) -> T:
        """Protects and sends embeddings; once more where the gallery's key was changed meanwhile.

        Args:
            context: of the gallery.
            subject: the person, for the seal of a verify-only gallery; or n people, one for each embedding.
            unit: (n, d) float32, unit rows.
            send: calls the cloud.

        Raises:
            ProtectionFailed: a step failed; nothing was sent.
            ContractMismatch: the gallery was made under another contract.
        """
        try:
            return await send(await self._protect(unit, context, subject), context)
        except ContractMismatch as refusal:
            context = await self.galleries.renewed(context.names.gallery, context, refusal)
        return await send(await self._protect(unit, context, subject), context)

    async def search(
        self, context: GalleryContext, probes: list[TemplateEnvelope], top_k: int
    ) -> tuple[IdentifyAnswer, list[list[Candidate]]]:
        """Searches a gallery for any number of probes.

        Args:
            context: of the gallery, whose names the cloud answers.
            probes: protected under it.
            top_k: candidates a probe, at most.

        Returns:
            how the gallery decided, with a result for each probe; and each one's candidates by their names.

        Raises:
            UpstreamFailed: the gallery's rule was changed meanwhile, a name does not open, or the cloud answered for
                other probes.
        """
        parts = [probes[start : start + MAX_PROBES_A_REQUEST] for start in range(0, len(probes), MAX_PROBES_A_REQUEST)]
        gallery = context.names.gallery
        answers = [await self.cloud.identify(gallery, IdentifyRequest(probes=part, top_k=top_k)) for part in parts]
        if len({(answer.score_rule, answer.threshold) for answer in answers}) > 1:
            raise UpstreamFailed("The gallery's rule was changed during the search; send the same again.")
        results = [result for answer in answers for result in answer.results]
        if len(results) != len(probes):
            raise UpstreamFailed("The cloud answered for other probes than it was sent; look at the cloud.")
        shown = context.names.names.shown
        candidates = [
            [Candidate(subject=shown(each.subject), similarity=each.similarity) for each in result.candidates]
            for result in results
        ]
        return answers[0].model_copy(update={"results": results}), candidates

    async def _protect(self, unit: Rows, context: GalleryContext, subject: Whose) -> PackedTemplates:
        """Packed templates, or an error and nothing is sent."""
        check_caller()
        with self.metrics.step("protect"):
            if len(unit) <= _MOST_ON_EVENT_LOOP:
                packed = _packed(unit, context, subject)
            else:
                packed = await self.workers.run(_packed, unit, context, subject)
        check_caller()  # nothing is sent for a caller who has gone
        return packed


def _packed(unit: Rows, context: GalleryContext, subject: Whose) -> PackedTemplates:
    """Packed templates; in a verify-only gallery those of each subject under its own seal."""
    protect, protection = context.protector.protect, context.protection
    if not isinstance(subject, list):
        return protect(unit, protection.for_subject(subject))
    if not protection.verify_only:
        return protect(unit, protection)
    of_subjects: dict[str, list[int]] = {}
    for row, name in enumerate(subject):
        of_subjects.setdefault(name, []).append(row)
    envelopes: dict[int, TemplateEnvelope] = {}
    unperturbed = 0
    for name, rows in of_subjects.items():
        check_caller()
        made = protect(unit[rows], protection.for_subject(name))
        envelopes |= zip(rows, made.envelopes, strict=True)
        unperturbed += made.unperturbed
    return PackedTemplates([envelopes[row] for row in range(len(unit))], unperturbed)
