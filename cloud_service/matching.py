"""The matcher: verification (1:1) and identification (1:N) against the gallery's unchanged threshold tau."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cloud_service.envelopes import open_for
from cloud_service.index.flat import Hits
from cloud_service.record.checksums import of_subject
from cloud_service.record.queries import PinnedGallery, Stored
from cloud_service.record.template_queries import OfSubjects
from cloud_service.store import Store
from shared.envelope import UNIT_TOLERANCE, TemplateEnvelope
from shared.errors import Conflict, NotFound, PatronusError, RecordDamaged
from shared.logs import get_logger
from shared.metrics import Metrics
from shared.scores import CosineSimilarity
from shared.wire.cloud import IdentifyAnswer, ProbeResult
from shared.wire.common import Candidate, VerifyAnswer

_log = get_logger(__name__)

# The first look asks for this many templates per subject wanted, and each further look for as many times more:
# subjects with a few templates each are settled at once, and n templates in log(n) looks.
_WIDENING = 4
_LEAST_WIDTH = 32
# Values of templates that are scored together: copies of them, as float64, are made.
_VALUES_AT_ONCE = 1 << 18
# The largest inner product of a template and a probe, each within UNIT_TOLERANCE of length 1; float64 adds 1e-12.
_MOST = (1 + UNIT_TOLERANCE) ** 2 + 1e-9


def exact_scores(vectors: NDArray[np.float32], probes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosines of unit vectors in float64; off [-1, 1] by rounding at most, which ``similarity_of`` checks.

    A sum row by row, not a matrix product: equal rows get equal scores, wherever they stand.

    Args:
        vectors: (n, d) float32, unit rows.
        probes: (d,) float32, a unit vector; or (n, d), one for each row.

    Returns:
        (n,) float64.
    """
    products = vectors.astype(np.float64) * probes.astype(np.float64)
    scores: NDArray[np.float64] = products.sum(axis=1)
    return scores


def similarity_of(score: float) -> CosineSimilarity:
    """A score that may decide.

    Raises:
        RecordDamaged: no two unit vectors can have it.
    """
    if not abs(score) <= _MOST:  # also NaN
        raise of_subject()
    return CosineSimilarity(max(-1.0, min(1.0, score)))


@dataclass(frozen=True, slots=True)
class Asked:
    """Who are these: probes, and the most subjects that are wanted of each."""

    envelopes: Sequence[TemplateEnvelope] = field(repr=False)
    top_k: int


@dataclass(frozen=True, slots=True)
class Claim:
    """Is this one that subject: a probe, and the subject's name."""

    subject: str
    envelope: TemplateEnvelope = field(repr=False)


class Matcher:
    """Compares probes with what is stored. The index proposes, the record confirms, exact scores decide.

    Args:
        store: record and index.
        metrics: where steps are timed.
    """

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._record = store.record
        self._metrics = metrics

    def verify(self, gallery_name: str, asked: Sequence[Claim]) -> list[VerifyAnswer | PatronusError]:
        """Compares each probe with the templates of one subject; the best one counts.

        Args:
            gallery_name: where.
            asked: what several callers ask at the same time; the record is read once for all.

        Returns:
            an answer to each, or why there is none: NotFound, there is no such subject; ContractMismatch, the probe was
            made under another contract; InvalidTemplate, it is not a unit vector of the gallery's length;
            RecordDamaged, a template of the subject is damaged.

        Raises:
            NotFound: there is no such gallery.
        """
        with self._metrics.step("record"):
            stored = self._record.vectors.of_subjects(gallery_name, (claim.subject for claim in asked))
        with self._metrics.step("score"):
            return _verified(stored, asked)

    def identify(self, gallery_name: str, asked: Sequence[Asked]) -> list[IdentifyAnswer | PatronusError]:
        """Looks for each probe in the whole gallery: the ``top_k`` best subjects that reach tau.

        Args:
            gallery_name: where.
            asked: what several callers ask at the same time; they are answered by one search.

        Returns:
            an answer to each, or why there is none: ContractMismatch, a probe was made under another contract;
            InvalidTemplate, a probe is not a unit vector of the gallery's length.

        Raises:
            NotFound: there is no such gallery.
            Conflict: the gallery is verify-only; a probe is sealed for one subject.
        """
        with self._metrics.step("record"):
            gallery = self._record.gallery(gallery_name)
        if gallery.verify_only:
            raise Conflict(
                "The gallery is verify-only: its templates are sealed one subject at a time; verify.",
                reason="verify_only",
            )
        answers: list[list[_Look] | PatronusError] = [_looks(gallery, each) for each in asked]
        looks = [look for looks in answers if isinstance(looks, list) for look in looks]
        if looks:
            self._look(gallery, looks, max(_LEAST_WIDTH, _WIDENING * max(each.top_k for each in asked)))
        return [looks if isinstance(looks, PatronusError) else _answer(gallery, looks) for looks in answers]

    def _look(self, gallery: PinnedGallery, looks: Sequence[_Look], width: int) -> None:
        index = self._store.indexes.of(gallery)
        floor = gallery.threshold.cosine.value
        pending = list(looks)
        while pending:
            with self._metrics.step("index"):
                hits = index.search(np.stack([look.probe for look in pending]), width, floor)
            for row, look in enumerate(pending):
                look.propose(hits, row)
            self._confirm(gallery, pending)
            pending = [look for look in pending if not look.settled()]
            width *= _WIDENING

    def _confirm(self, gallery: PinnedGallery, looks: Sequence[_Look]) -> None:
        wanted = np.unique(np.concatenate([look.proposed for look in looks]))
        batches = self._record.vectors.stored(gallery, wanted)
        while True:
            with self._metrics.step("record"):
                stored = next(batches, None)
            if stored is None:
                return
            with self._metrics.step("score"):
                for look in looks:
                    look.confirm(stored)


def _verified(stored: OfSubjects, asked: Sequence[Claim]) -> list[VerifyAnswer | PatronusError]:
    """Answers all claims; where few rows are to be scored, those of all together, each row with its own probe."""
    probes = [_probe(stored, claim) for claim in asked]
    pairs = [
        (stored.vectors[claim.subject], probe)
        for claim, probe in zip(asked, probes, strict=True)
        if isinstance(probe, np.ndarray)
    ]
    best = iter(_best_scores(pairs))
    return [probe if isinstance(probe, PatronusError) else _decided(stored.gallery, next(best)) for probe in probes]


def _best_scores(pairs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> list[float]:
    """The best score of each (n, d) rows with its (d,) probe."""
    if len(pairs) < 2 or sum(rows.size for rows, _ in pairs) > _VALUES_AT_ONCE:
        return [float(exact_scores(rows, probe).max()) for rows, probe in pairs]
    counts = [len(rows) for rows, _ in pairs]
    theirs = np.repeat(np.stack([probe for _, probe in pairs]), counts, axis=0)
    scores = exact_scores(np.concatenate([rows for rows, _ in pairs]), theirs)
    found: list[float] = np.maximum.reduceat(scores, np.cumsum([0, *counts[:-1]])).tolist()
    return found


def _probe(stored: OfSubjects, claim: Claim) -> NDArray[np.float32] | PatronusError:
    if claim.subject in stored.damaged:
        return of_subject()
    if claim.subject not in stored.vectors:
        return NotFound("The gallery has no subject of this name.", reason="unknown_subject")
    try:
        (probe,) = open_for(stored.gallery, [claim.envelope])
    except PatronusError as error:
        return error
    return probe


def _decided(gallery: PinnedGallery, best: float) -> VerifyAnswer | PatronusError:
    try:
        score = similarity_of(best)
    except RecordDamaged as error:
        return error
    return VerifyAnswer(
        decision="match" if gallery.threshold.accepts(score) else "no_match",
        similarity=score.value,
        threshold=gallery.threshold.cosine.value,
        fmr_at_threshold=gallery.fmr,
    )


def _looks(gallery: PinnedGallery, asked: Asked) -> list[_Look] | PatronusError:
    try:
        return [_Look(gallery, probe, asked.top_k) for probe in open_for(gallery, asked.envelopes)]
    except PatronusError as error:
        return error


def _answer(gallery: PinnedGallery, looks: Sequence[_Look]) -> IdentifyAnswer:
    return IdentifyAnswer(
        results=[look.result() for look in looks],
        threshold=gallery.threshold.cosine.value,
        fmr_at_threshold=gallery.fmr,
    )


class _Look:
    """One probe's way through the gallery: what the index proposed so far, and the best score of each subject."""

    def __init__(self, gallery: PinnedGallery, probe: NDArray[np.float32], top_k: int) -> None:
        self.probe = probe
        self.proposed: NDArray[np.int64] = np.empty(0, np.int64)
        self._threshold = gallery.threshold
        self._top_k = top_k
        self._seen: NDArray[np.int64] = np.empty(0, np.int64)
        self._best: dict[str, float] = {}
        self._unseen_at_most = 1.0

    def propose(self, hits: Hits, row: int) -> None:
        """Takes the index's proposals; those that are new are ``proposed``."""
        near = np.unique(hits.ids[row][hits.ids[row] >= 0])
        if len(self._seen):
            self.proposed = np.setdiff1d(near, self._seen, assume_unique=True)
            self._seen = np.union1d(self._seen, near)
        else:
            self.proposed = self._seen = near
        self._unseen_at_most = float(hits.unseen_at_most[row])

    def confirm(self, stored: Stored) -> None:
        """Scores those of the proposed templates that the record still has."""
        places = np.searchsorted(stored.ids, self.proposed)
        there = places < len(stored.ids)
        mine = places[there][stored.ids[places[there]] == self.proposed[there]]
        for at, score in zip(mine, exact_scores(stored.vectors[mine], self.probe), strict=True):
            name = stored.subjects[at]
            try:
                similarity = similarity_of(float(score))
            except RecordDamaged:  # the others are answered
                _log.error("impossible_score", row=int(stored.ids[at]))
                continue
            if self._threshold.accepts(similarity):
                self._best[name] = max(similarity.value, self._best.get(name, -1.0))

    def settled(self) -> bool:
        """Whether no template that the index has not shown yet can change the result."""
        if self._unseen_at_most < self._threshold.cosine.value:
            return True
        ranked = self._ranked()
        return len(ranked) == self._top_k and ranked[-1][1] > self._unseen_at_most

    def result(self) -> ProbeResult:
        """The best subjects, equal scores in the order of names; unknown when none reached tau."""
        candidates = [Candidate(subject=name, similarity=score) for name, score in self._ranked()]
        return ProbeResult(decision="match" if candidates else "unknown", candidates=candidates)

    def _ranked(self) -> list[tuple[str, float]]:
        return sorted(self._best.items(), key=lambda found: (-found[1], found[0]))[: self._top_k]
