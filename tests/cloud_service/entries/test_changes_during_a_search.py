"""A subject whose templates change while somebody searches is found all the same, by the templates there are."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from cloud_service.entries import queries
from cloud_service.housekeeping import check_clock
from cloud_service.index.faiss_indexes import FaissIndexes
from cloud_service.index.flat import SegmentedIndex
from cloud_service.matching import Matcher
from cloud_service.settings import RetentionSettings, Settings
from shared.wire.cloud import IdentifyRequest, NewTemplate
from tests.cloud_service.entries.reference import MEAN, plain_score
from tests.cloud_service.record.set_clock import Hands
from tests.support.cloud_client import Cloud, enveloped, random_units, towards

DOOR = "/v1/galleries/door"
PROBE = towards(0, 1.0)
NEAR = [towards(0, cosine) for cosine in (0.9, 0.8, 0.7)]
OTHERS = random_units(5, 40)
IDS = [f"{number:032x}" for number in range(3)]
DAY = timedelta(days=1)


@pytest.fixture
def people(cloud: Cloud) -> Cloud:
    """``anna`` with two templates, and many others."""
    cloud.put_gallery(score=MEAN, tau=0.3)
    for number, row in enumerate(OTHERS):
        cloud.enroll(f"s{number}", [row])
    cloud.enroll("anna", NEAR[:2], ids=IDS[:2])
    return cloud


def _similarity(cloud: Cloud, name: str = "anna") -> float | None:
    answer = cloud.identify(PROBE, top_k=100)
    assert answer.status_code == 200, answer.text
    found = {one["subject"]: one["similarity"] for one in answer.json()["results"][0]["candidates"]}
    return found.get(name)


def _enroll(cloud: Cloud) -> None:
    sent = NewTemplate.model_validate({"id": IDS[2], "template": enveloped(NEAR[2])})
    cloud.services.store.enroll("door", "anna", [sent], None)


def _erase_one(cloud: Cloud) -> None:
    cloud.services.store.erase_subject("door", "anna", None, IDS[0])


def _erase(cloud: Cloud) -> None:
    cloud.services.store.erase_subject("door", "anna", None)


CHANGES: list[tuple[Callable[[Cloud], None], list[np.ndarray]]] = [
    (_enroll, NEAR),
    (_erase_one, NEAR[1:2]),
    (_erase, []),
]


@pytest.mark.parametrize(("change", "left"), CHANGES, ids=["enrolled", "one erased", "erased"])
def test_what_changes_after_the_index_was_searched_counts(
    people: Cloud, monkeypatch: pytest.MonkeyPatch, change: Callable[[Cloud], None], left: list[np.ndarray]
) -> None:
    search = SegmentedIndex.search
    changed: list[bool] = []

    def overtaken(self: SegmentedIndex, *words: Any) -> Any:
        hits = search(self, *words)
        if not changed:
            changed.append(True)
            change(people)
        return hits

    monkeypatch.setattr(SegmentedIndex, "search", overtaken)
    expected = pytest.approx(plain_score(MEAN, left, PROBE), abs=2e-7) if left else None
    assert _similarity(people) == expected
    assert changed
    assert _similarity(people) == expected


@pytest.mark.parametrize("changed", ["added", "removed"])
def test_what_is_committed_and_not_in_the_index_yet_counts(
    people: Cloud, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    seen: list[float | None] = []
    told = getattr(FaissIndexes, changed)
    request = IdentifyRequest.model_validate({"probes": [enveloped(PROBE)], "top_k": 100})

    def slowly(self: FaissIndexes, *words: Any) -> None:
        store = people.services.store
        [answer] = Matcher(store, store._metrics).identify("door", [request])
        [result] = answer.results
        seen.append({one.subject: one.similarity for one in result.candidates}.get("anna"))
        told(self, *words)

    monkeypatch.setattr(FaissIndexes, changed, slowly)
    change, left = CHANGES[0] if changed == "added" else CHANGES[1]
    change(people)
    expected = pytest.approx(plain_score(MEAN, left, PROBE), abs=2e-7)
    assert seen == [expected]
    assert _similarity(people) == expected


def test_an_expired_template_counts_no_more_from_that_second_on_and_hides_nobody(settings: Settings) -> None:
    """The index still holds the mean with it, which is far from the probe."""
    hands = Hands(datetime.now(UTC))
    quiet = settings.model_copy(update={"retention": RetentionSettings(sweep_interval_s=3600)})
    with Cloud(quiet, hands.clock()) as cloud:
        cloud.put_gallery(score=MEAN, tau=0.6)
        cloud.http.put(f"{DOOR}/retention", json={"max_age_seconds": 10 * 86_400}).raise_for_status()
        cloud.enroll("anna", [-PROBE, towards(3, 1.0)])
        _pass(cloud, hands, DAY)
        cloud.enroll("anna", [NEAR[0]])
        cloud.enroll("ben", [NEAR[1]])
        assert _similarity(cloud) is None
        _pass(cloud, hands, 9 * DAY)
        expected = pytest.approx(plain_score(MEAN, NEAR[:1], PROBE), abs=2e-7)
        assert _similarity(cloud) == cloud.verify("anna", PROBE).json()["similarity"] == expected
        store = cloud.services.store
        assert cloud.held() == (2, 4), "nothing was erased yet"
        search = SegmentedIndex.search

        def swept(self: SegmentedIndex, *words: Any) -> Any:
            hits = search(self, *words)
            for gallery in check_clock(store):
                store.erase_expired(gallery, 100)
            return hits

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(SegmentedIndex, "search", swept)
            assert _similarity(cloud) == expected
        assert cloud.held() == (2, 2)
        assert _similarity(cloud) == expected
        _pass(cloud, hands, DAY)
        assert cloud.found(PROBE) == []


def test_a_backlog_of_expired_templates_is_compared_up_to_a_bound(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a search of a gallery of thousands whose retention was just shortened would take seconds."""
    monkeypatch.setattr(queries, "_MOST_EXPIRED", 3)
    hands = Hands(datetime.now(UTC))
    quiet = settings.model_copy(update={"retention": RetentionSettings(sweep_interval_s=3600)})
    with Cloud(quiet, hands.clock()) as cloud:
        cloud.put_gallery(score=MEAN, tau=0.6)
        cloud.http.put(f"{DOOR}/retention", json={"max_age_seconds": 86_400}).raise_for_status()
        for _ in range(2):  # of each subject one expires, and one lives
            for number in range(8):
                cloud.enroll(f"s{number}", [OTHERS[number]])
            _pass(cloud, hands, DAY * 0.6)
        record = cloud.services.store.record
        pinned = record.gallery("door")
        nothing = np.empty(0, np.int64)
        lacking = queries.Lacking(after=10**9, ids=nothing)
        compared = [len(part.ids) + len(part.damaged) for part in record.entries.proposed(pinned, nothing, lacking)]
        assert sum(compared) == 3


def _pass(cloud: Cloud, hands: Hands, time: timedelta) -> None:
    for _ in range(int(time / timedelta(minutes=4))):
        hands.pass_by(timedelta(minutes=4))
        cloud.services.store.record.clock.observe(hands.wall)
