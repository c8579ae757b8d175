"""A gallery's threshold is changed in place: audited, and every answer is by one threshold, which it names."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cloud_service.index.flat import SegmentedIndex
from cloud_service.settings import Settings
from shared.security.credentials import Scope
from shared.wire.common import Threshold
from tests.support.cloud_client import TAU, Cloud, assert_problem, towards

DOOR = "/v1/galleries/door"
LOW, HIGH = {"cosine": 0.4, "fmr": 0.01}, {"cosine": 0.8, "fmr": 1e-05}
RATES = {each["cosine"]: each["fmr"] for each in (LOW, HIGH)}
PROBE = towards(0, 0.6)

pytestmark = pytest.mark.both_engines


def filled(cloud: Cloud) -> None:
    cloud.put_gallery()
    cloud.enroll("anna", [towards(0, 1.0)])


def change(cloud: Cloud, threshold: dict[str, float], **options: Any) -> dict[str, Any]:
    answer = cloud.http.patch(DOOR, json={"threshold": threshold}, **options)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def consistent(answer: dict[str, Any], *, matched: bool) -> bool:
    """Whether decision, threshold and rate of an answer belong together: the probe scores 0.6."""
    return matched == (answer["threshold"] < 0.6) and RATES[answer["threshold"]] == answer["fmr_at_threshold"]


def test_a_threshold_is_changed_audited_and_kept(settings: Settings) -> None:
    with Cloud(settings) as cloud:
        filled(cloud)
        for threshold in (HIGH, HIGH, LOW, HIGH):
            assert change(cloud, threshold)["threshold"] == threshold
            assert cloud.verify("anna", PROBE).json()["decision"] == ("match" if threshold == LOW else "no_match")
            assert cloud.found(PROBE) == (["anna"] if threshold == LOW else [])
        told = [one for one in cloud.http.get("/v1/audit").json()["items"] if one["action"] == "threshold_changed"]
        assert [one["key_id"] is not None and one["gallery"] for one in told] == ["door"] * 3
        changes = [(one["details"]["cosine_before"], one["details"]["cosine"]) for one in told]
        assert changes == [(repr(TAU), "0.8"), ("0.8", "0.4"), ("0.4", "0.8")]
        assert (told[0]["details"]["fmr_before"], told[0]["details"]["fmr"]) == ("0.001", "1e-05")
    with Cloud(settings) as cloud:
        assert cloud.http.get(DOOR).json()["threshold"] == HIGH
        assert cloud.found(PROBE) == []


def test_what_is_no_threshold_is_refused(client: Cloud) -> None:
    before = client.http.get(DOOR).json()["threshold"]
    for threshold in ({"cosine": 0.5}, {"cosine": 0, "fmr": 0.1}, {"cosine": 0.5, "fmr": 2}, {}, None, 0.5):
        assert client.http.patch(DOOR, json={"threshold": threshold}).status_code == 422
    for body in ({}, {"threshold": LOW, "score": {"rule": "best"}}, {"threshold": LOW, "more": 1}):
        assert client.http.patch(DOOR, json=body).status_code == 422
    nowhere = client.http.patch("/v1/galleries/none", json={"threshold": LOW})
    assert_problem(nowhere, 404, "not-found", "unknown_gallery")
    for scope in (Scope.ENROLL, Scope.MATCH):
        answer = client.http.patch(DOOR, json={"threshold": LOW}, headers=client.key(scope))
        assert_problem(answer, 403, "forbidden")
    assert client.http.get(DOOR).json()["threshold"] == before


def test_a_gallery_is_made_again_only_with_the_threshold_that_it_has_now(client: Cloud) -> None:
    change(client, HIGH)
    assert_problem(client.put_gallery(), 409, "conflict", "threshold_differs")


def test_an_identification_that_a_change_overtakes_is_by_the_threshold_it_began_with(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Cloud(settings) as cloud:
        filled(cloud)
        change(cloud, LOW)
        search: Callable[..., Any] = SegmentedIndex.search

        def overtaken(self: SegmentedIndex, *words: Any) -> Any:
            hits = search(self, *words)
            cloud.services.store.change_threshold("door", Threshold(**HIGH), None)
            return hits

        with monkeypatch.context() as patched:
            patched.setattr(SegmentedIndex, "search", overtaken)
            answer = cloud.identify(PROBE).json()
        assert (answer["threshold"], answer["fmr_at_threshold"]) == (LOW["cosine"], LOW["fmr"])
        assert answer["results"][0]["decision"] == "match"
        assert cloud.identify(PROBE).json()["threshold"] == HIGH["cosine"]


def test_no_answer_mixes_two_thresholds(settings: Settings) -> None:
    with Cloud(settings) as cloud:
        filled(cloud)
        change(cloud, LOW)
        over = threading.Event()
        seen: set[float] = set()

        def ask() -> int:
            asked = 0
            while not over.is_set():
                verified = cloud.verify("anna", PROBE).json()
                assert consistent(verified, matched=verified["decision"] == "match")
                identified = cloud.identify(PROBE, PROBE).json()
                for result in identified["results"]:
                    assert consistent(identified, matched=result["decision"] == "match")
                seen.update((verified["threshold"], identified["threshold"]))
                asked += 1
            return asked

        with ThreadPoolExecutor(2) as threads:
            others = [threads.submit(ask), threads.submit(ask)]
            try:
                for turn in range(30):
                    change(cloud, (HIGH, LOW)[turn % 2])
            finally:
                over.set()
            assert min(other.result() for other in others) > 1
        assert seen == {0.4, 0.8}
