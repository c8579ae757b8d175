"""Verification (1:1) and identification (1:N) against the gallery's own threshold tau."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cloud_service.entries.queries import Lacking, OfSubjects, StoredEntries
from cloud_service.envelopes import open_envelopes
from cloud_service.index.flat import Hits
from cloud_service.record.checksums import of_subject
from cloud_service.record.queries import PinnedGallery, ScoreChanged, refuse_other, unknown_subject
from cloud_service.store import Store
from shared.envelope import UNIT_TOLERANCE, TemplateEnvelope
from shared.errors import Conflict, PatronusError, RecordDamaged
from shared.logs import get_logger
from shared.metrics import Metrics
from shared.scores import CosineSimilarity, CosineThreshold
from shared.wire.cloud import IdentifyAnswer, IdentifyRequest, ProbeResult, StoredCandidate
from shared.wire.common import VerifyAnswer

_log = get_logger(__name__)

# The first search asks for this many entries for each subject wanted, and each further one for as many times more:
# subjects with a few entries each need one search, and n entries need log(n).
_WIDENING = 4
_LEAST_WIDTH = 32
# So many more than wanted where each subject has one entry: whose scores the index does not tell apart.
_SPARE = 6
# A change of a gallery's rule is rare: a second one while a search begins anew is answered with an error.
_TRIES = 3
# The most float32 values of templates that are scored together: they are copied as float64.
_MOST_VALUES = 1 << 18
# The largest inner product of an entry and a probe, neither longer than 1 + UNIT_TOLERANCE; float64 adds 1e-12.
_MOST = (1 + UNIT_TOLERANCE) ** 2 + 1e-9


def exact_scores(vectors: NDArray[np.float32], probes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Computes inner products of vectors of entries and probes in float64, in [-1, 1] up to rounding.

    The products are summed row by row, not by a matrix product, so that equal rows always get equal scores.

    Args:
        vectors: (n, d) float32, of length 1 at most.
        probes: (d,) float32, a unit vector; or (n, d), one for each row.

    Returns:
        (n,) float64.
    """
    products = vectors.astype(np.float64) * probes.astype(np.float64)
    scores: NDArray[np.float64] = products.sum(axis=1)
    return scores


def similarity_of(score: float) -> CosineSimilarity:
    """Checks a score and returns it as a similarity.

    Raises:
        RecordDamaged: no entry and unit vector can have this score.
    """
    if not abs(score) <= _MOST:  # also NaN
        raise of_subject()
    return CosineSimilarity(max(-1.0, min(1.0, score)))


@dataclass(frozen=True, slots=True)
class Verification:
    """A probe that is said to be of one subject."""

    subject: str
    probe: TemplateEnvelope = field(repr=False)


class Matcher:
    """Compares probes with templates: the index proposes, the record's exact scores decide.

    Args:
        store: record and index.
        metrics: where steps are timed.
    """

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._record = store.record
        self._metrics = metrics

    def verify(self, gallery_name: str, requests: Sequence[Verification]) -> list[VerifyAnswer | PatronusError]:
        """Compares each probe with one subject's templates, by the gallery's rule.

        Args:
            gallery_name: which gallery.
            requests: of several callers; the record is read once for all.

        Returns:
            an answer to each, or an error: NotFound, there is no such subject; ContractMismatch, the probe was made
            under another contract; InvalidTemplate, it is not a unit vector of the gallery's length; Unprocessable, the
            name is not of the gallery's kind; RecordDamaged, a template of the subject is damaged.

        Raises:
            NotFound: there is no such gallery.
        """
        with self._metrics.step("record"):
            stored = self._record.entries.of_subjects(gallery_name, (request.subject for request in requests))
        with self._metrics.step("score"):
            probes = [_probe_of(stored, request) for request in requests]
            pairs = [
                (stored.vectors[request.subject], probe)
                for request, probe in zip(requests, probes, strict=True)
                if isinstance(probe, np.ndarray)
            ]
            best = iter(_best_scores(pairs))
            return [
                probe
                if isinstance(probe, PatronusError)
                else _decision(stored.gallery, next(best), stored.templates[request.subject])
                for request, probe in zip(requests, probes, strict=True)
            ]

    def identify(self, gallery_name: str, requests: Sequence[IdentifyRequest]) -> list[IdentifyAnswer | PatronusError]:
        """Searches the whole gallery for each probe: the ``top_k`` best subjects that reach tau.

        Args:
            gallery_name: which gallery.
            requests: of several callers; they share one search.

        Returns:
            an answer to each, or an error: ContractMismatch, a probe was made under another contract; InvalidTemplate,
            a probe is not a unit vector of the gallery's length.

        Raises:
            NotFound: there is no such gallery.
            ContractMismatch: the gallery's key was changed meanwhile.
            ScoreChanged: its rule was changed again and again.
            Conflict: the gallery is verify-only; a probe is sealed for one subject.
        """
        for _ in range(_TRIES - 1):
            with suppress(ScoreChanged):  # what was found was of two rules
                return self._identify(gallery_name, requests)
        return self._identify(gallery_name, requests)

    def _identify(self, gallery_name: str, requests: Sequence[IdentifyRequest]) -> list[IdentifyAnswer | PatronusError]:
        with self._metrics.step("record"):
            gallery = self._record.gallery(gallery_name)
        if gallery.verify_only:
            raise Conflict(
                "The gallery is verify-only: its templates are sealed one subject at a time; verify.",
                reason="verify_only",
            )
        searches: list[list[_ProbeSearch] | PatronusError] = []
        for request in requests:
            try:
                probes = open_envelopes(gallery, request.probes)
            except PatronusError as error:
                searches.append(error)
            else:
                searches.append([_ProbeSearch(gallery.threshold, probe, request.top_k) for probe in probes])
        pending = [search for each in searches if isinstance(each, list) for search in each]
        if pending:
            wanted = max(request.top_k for request in requests)
            several = max(_LEAST_WIDTH, _WIDENING * wanted)
            self._search(gallery, pending, wanted + _SPARE if gallery.one_entry_a_subject else several)
        fmr = _fmr(gallery, -(-gallery.templates // max(1, gallery.subjects)))
        return [
            each
            if isinstance(each, PatronusError)
            else IdentifyAnswer(
                results=[search.result() for search in each],
                threshold=gallery.threshold.cosine.value,
                score_rule=gallery.score.rule,
                fmr_at_threshold=fmr,
            )
            for each in searches
        ]

    def _search(self, gallery: PinnedGallery, pending: Sequence[_ProbeSearch], width: int) -> None:
        index = self._store.indexes.of(gallery)
        floor = gallery.threshold.cosine.value
        while pending:
            lacking = index.lacking()
            with self._metrics.step("index"):
                hits = index.search(np.stack([search.probe for search in pending]), width, floor)
            for row, search in enumerate(pending):
                search.propose(hits, row)
            self._confirm(gallery, pending, lacking)
            pending = [search for search in pending if not search.finished()]
            width *= _WIDENING

    def _confirm(self, gallery: PinnedGallery, searches: Sequence[_ProbeSearch], lacking: Lacking) -> None:
        proposed = np.unique(np.concatenate([search.proposed for search in searches]))
        batches = self._record.entries.proposed(gallery, proposed, lacking)
        while True:
            with self._metrics.step("record"):
                stored = next(batches, None)
            if stored is None:
                return
            with self._metrics.step("score"):
                for search in searches:
                    search.confirm(stored)


def _probe_of(stored: OfSubjects, request: Verification) -> NDArray[np.float32] | PatronusError:
    try:
        # First: under another key nobody is found by the name.
        (probe,) = open_envelopes(stored.gallery, [request.probe])
        refuse_other(stored.gallery, None, request.subject)
    except PatronusError as error:
        return error
    if request.subject in stored.damaged:
        return of_subject()
    return probe if request.subject in stored.vectors else unknown_subject()


def _best_scores(pairs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> list[float]:
    """Returns the best score of each (n, d) rows with its (d,) probe."""
    if len(pairs) < 2 or sum(rows.size for rows, _ in pairs) > _MOST_VALUES:
        return [float(exact_scores(rows, probe).max()) for rows, probe in pairs]
    counts = [len(rows) for rows, _ in pairs]
    probes = np.repeat(np.stack([probe for _, probe in pairs]), counts, axis=0)
    scores = exact_scores(np.concatenate([rows for rows, _ in pairs]), probes)
    best: list[float] = np.maximum.reduceat(scores, np.cumsum([0, *counts[:-1]])).tolist()
    return best


def _fmr(gallery: PinnedGallery, templates: int) -> float:
    """The false match rate of a comparison with a subject of so many templates.

    The score of a mean is calibrated to keep the rate of one template. The best of n has n chances:
    1 - (1 - fmr)^n at most.
    """
    if gallery.score.rule == "mean" or templates <= 1 or not 0 < gallery.fmr < 1:
        return gallery.fmr
    return -math.expm1(templates * math.log1p(-gallery.fmr))


def _decision(gallery: PinnedGallery, best: float, templates: int) -> VerifyAnswer | PatronusError:
    try:
        score = similarity_of(best)
    except RecordDamaged as error:
        return error
    return VerifyAnswer(
        decision="match" if gallery.threshold.accepts(score) else "no_match",
        similarity=score.value,
        threshold=gallery.threshold.cosine.value,
        score_rule=gallery.score.rule,
        fmr_at_threshold=_fmr(gallery, templates),
    )


class _ProbeSearch:
    """One probe's search: proposals of the index so far, and each subject's best score.

    Args:
        threshold: the gallery's.
        probe: (d,) float32, a unit vector.
        top_k: the most subjects wanted.
    """

    def __init__(self, threshold: CosineThreshold, probe: NDArray[np.float32], top_k: int) -> None:
        self.probe = probe
        self.proposed: NDArray[np.int64] = np.empty(0, np.int64)
        self._threshold = threshold
        self._top_k = top_k
        self._seen: NDArray[np.int64] = np.empty(0, np.int64)
        self._best: dict[str, float] = {}
        self._unseen_at_most = 1.0

    def propose(self, hits: Hits, row: int) -> None:
        """Takes the index's proposals; those that are new become ``proposed``."""
        near = np.unique(hits.ids[row][hits.ids[row] >= 0])
        if len(self._seen):
            self.proposed = np.setdiff1d(near, self._seen, assume_unique=True)
            self._seen = np.union1d(self._seen, near)
        else:
            self.proposed = self._seen = near
        self._unseen_at_most = float(hits.unseen_at_most[row])

    def confirm(self, stored: StoredEntries) -> None:
        """Scores the proposed entries that the record still has."""
        if stored.for_all:
            found = np.arange(len(stored.ids))
        else:
            positions = np.searchsorted(stored.ids, self.proposed)
            inside = positions < len(stored.ids)
            found = positions[inside][stored.ids[positions[inside]] == self.proposed[inside]]
        for position, score in zip(found, exact_scores(stored.vectors[found], self.probe), strict=True):
            try:
                similarity = similarity_of(float(score))
            except RecordDamaged:  # the others are answered
                _log.error("impossible_score", row=int(stored.ids[position]))
                continue
            if self._threshold.accepts(similarity):
                name = stored.subjects[position]
                self._best[name] = max(similarity.value, self._best.get(name, -1.0))

    def finished(self) -> bool:
        """Whether no entry that the index has not proposed yet can change the result."""
        if self._unseen_at_most < self._threshold.cosine.value:
            return True
        ranked = self._ranked()
        return len(ranked) == self._top_k and ranked[-1][1] > self._unseen_at_most

    def result(self) -> ProbeResult:
        """Returns the best subjects, equal ones by name; unknown where none reached tau."""
        candidates = [StoredCandidate(subject=name, similarity=score) for name, score in self._ranked()]
        return ProbeResult(decision="match" if candidates else "unknown", candidates=candidates)

    def _ranked(self) -> list[tuple[str, float]]:
        return sorted(self._best.items(), key=lambda found: (-found[1], found[0]))[: self._top_k]
