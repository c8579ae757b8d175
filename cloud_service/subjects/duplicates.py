"""Finds who is enrolled under two names: each subject is searched for in its own gallery."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cloud_service.entries.queries import OfSubjects
from cloud_service.matching import Matcher
from cloud_service.record.record import Record
from cloud_service.subjects.names import Names
from shared.envelope import TemplateEnvelope
from shared.errors import Conflict, PatronusError
from shared.wire.cloud import MAX_PROBES_A_REQUEST, IdentifyAnswer, IdentifyRequest, StoredDuplicates, StoredPair
from shared.wire.common import FindDuplicates

# Other subjects that are told of one.
_MOST_OTHERS = 5
# A shorter mean is of templates that contradict each other; it says nothing of a direction.
_SHORTEST = 1e-6


@dataclass(frozen=True, slots=True)
class DuplicateSearch:
    """Compares the subjects of a gallery with one another.

    Attributes:
        record: where their templates are.
        names: pages of subjects.
        matcher: searches for them.
    """

    record: Record
    names: Names
    matcher: Matcher

    def find(self, gallery: str, wanted: FindDuplicates, contract: str | None) -> StoredDuplicates:
        """The subjects of a page that match others of the gallery.

        A subject is searched for by the mean of its templates, or, under the rule ``best``, by each of them.

        Args:
            gallery: its name.
            wanted: which subjects, and from which score on.
            contract: as ``refuse_other`` takes it.

        Raises:
            NotFound: there is no such gallery.
            ContractMismatch: it has another contract, or gets one meanwhile.
            Conflict: it is verify-only.
        """
        page = self.names.page(gallery, None, wanted.after, wanted.limit, contract)
        found = self.record.entries.of_subjects(gallery, (item.subject for item in page.items))
        if found.gallery.verify_only:
            raise Conflict(
                "The gallery is verify-only: its templates are sealed one subject at a time, and cannot be compared.",
                reason="verify_only",
            )
        best: dict[tuple[str, str], float] = {}
        for subjects, probes in _parts(found):
            for subject, result in zip(subjects, self._search(gallery, probes).results, strict=True):
                for one in result.candidates:
                    pair = (min(subject, one.subject), max(subject, one.subject))
                    if subject != one.subject and one.similarity >= (wanted.min_similarity or -1.0):
                        best[pair] = max(one.similarity, best.get(pair, -1.0))
        ranked = sorted(best.items(), key=lambda each: (-each[1], each[0]))
        return StoredDuplicates(
            items=[StoredPair(subject=a, other=b, similarity=score) for (a, b), score in ranked],
            compared=len(page.items),
            threshold=found.gallery.threshold.cosine.value,
            next=page.next,
        )

    def _search(self, gallery: str, probes: list[TemplateEnvelope]) -> IdentifyAnswer:
        [answer] = self.matcher.identify(gallery, [IdentifyRequest(probes=probes, top_k=_MOST_OTHERS + 1)])
        if isinstance(answer, PatronusError):
            raise answer
        return answer


def _parts(found: OfSubjects) -> Iterator[tuple[list[str], list[TemplateEnvelope]]]:
    """The subjects' vectors as probes, some at a time, and whose each is."""
    subjects: list[str] = []
    probes: list[TemplateEnvelope] = []
    for subject, vectors in found.vectors.items():
        for vector in vectors.astype(np.float64):
            length = float(np.linalg.norm(vector))
            if length < _SHORTEST:
                continue
            subjects.append(subject)
            probes.append(TemplateEnvelope.pack((vector / length).astype(np.float32), found.gallery.contract_digest))
            if len(probes) == MAX_PROBES_A_REQUEST:
                yield subjects, probes
                subjects, probes = [], []
    if probes:
        yield subjects, probes
