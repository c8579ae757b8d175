"""Finds who is enrolled under two names in a whole gallery, page by page."""

from __future__ import annotations

from typing import Final

from edge_service.cli.session import Session
from shared.command import counted
from shared.wire.edge_subjects import MatchingPair

# Subjects that are compared with all others in one request. The more, the seldomer the progress is shown.
_PAGE: Final = 100


def show_duplicates(session: Session, gallery: str, min_similarity: float | None) -> None:
    """Compares all subjects of a gallery with each other, and prints the pairs that match, best first.

    Raises:
        Conflict: the gallery is verify-only.
        PatronusError: there is no such gallery, or the API key may not manage it.
    """
    client, out = session.patient_client, session.out
    pairs: dict[frozenset[str], MatchingPair] = {}
    compared, after, threshold = 0, 0, 0.0
    total = client.get_gallery(gallery).subjects
    with out.progress() as progress:
        bar = progress.add_task("comparing", total=total)
        while True:
            page = client.find_duplicates(gallery, limit=_PAGE, after=after, min_similarity=min_similarity)
            for pair in page.items:  # one may be on the pages of both of its subjects, with a score from each side
                both = frozenset({pair.subject, pair.other})
                pairs[both] = max(pair, pairs.get(both, pair), key=lambda each: each.similarity)
            compared, threshold = compared + page.compared, page.threshold
            progress.advance(bar, page.compared)
            if page.next is None:
                break
            after = page.next
    least = threshold if min_similarity is None else max(threshold, min_similarity)
    out.results(
        "Perhaps one person",
        ["subject", "other", "similarity"],
        sorted(pairs.values(), key=lambda pair: -pair.similarity),
        lambda pair: [pair.subject, pair.other, f"{pair.similarity:.3f}"],
        f"No two of {compared} subjects have a similarity of {least:g} or more.",
    )
    if pairs and not out.as_json:
        found = counted(len(pairs), "pair has", "pairs have")
        out.tell(f"Of {compared} subjects, {found} a similarity of {least:g} or more.")
