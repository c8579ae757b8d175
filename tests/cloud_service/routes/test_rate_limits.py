"""A key over its rate gets 429 with Retry-After; other keys are not affected."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloud_service.settings import Settings, WorkSettings
from shared.security.credentials import Scope
from shared.service_settings import RateSettings
from tests.support.cloud_client import Cloud, assert_problem, random_units

VECTOR = random_units(3, 1)[0]


@pytest.fixture
def slow(settings: Settings) -> Iterator[Cloud]:
    rates = RateSettings(matching="10/hour")
    with Cloud(settings.model_copy(update={"rates": rates})) as cloud:
        cloud.put_gallery()
        cloud.enroll("anna", [VECTOR])
        yield cloud


def test_a_key_over_its_rate_gets_retry_after_and_others_are_answered(slow: Cloud) -> None:
    key, other = slow.key(Scope.MATCH), slow.key(Scope.MATCH)
    answers = [slow.verify("anna", VECTOR, headers=key) for _ in range(12)]
    assert [answer.status_code for answer in answers] == [200] * 10 + [429] * 2
    detail = assert_problem(answers[-1], 429, "rate-limited")["detail"]
    assert detail == "Rate limit reached: 10 calls in 3600 s; send again after Retry-After."
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 3600
    assert slow.verify("anna", VECTOR, headers=other).status_code == 200
    assert slow.http.get("/v1/galleries/door", headers=key).status_code == 200, "of another kind"
    metrics = slow.http.get("/metrics").text
    assert 'patronus_cloud_refused_total{problem="rate-limited",reason=""} 2.0' in metrics


def test_probes_count_not_requests(slow: Cloud) -> None:
    key = slow.key(Scope.MATCH)
    assert slow.identify(*[VECTOR] * 8, headers=key).status_code == 200
    assert_problem(slow.identify(*[VECTOR] * 8, headers=key), 429, "rate-limited")
    assert slow.identify(VECTOR, headers=key).status_code == 200
    assert_problem(slow.identify(VECTOR, headers=key), 429, "rate-limited")


def test_what_is_refused_as_overload_does_not_count(settings: Settings) -> None:
    changes = {"rates": RateSettings(matching="20/hour;10/minute"), "work": WorkSettings(queue_length=0)}
    with Cloud(settings.model_copy(update=changes)) as full:
        full.put_gallery()
        full.enroll("anna", [VECTOR])
        for _ in range(4):
            assert_problem(full.identify(*[VECTOR] * 8, headers=full.http.headers), 429, "overloaded")
            assert_problem(full.verify("anna", VECTOR), 429, "overloaded")


def test_a_rate_made_with_the_key_counts_instead(slow: Cloud) -> None:
    key, _ = slow.services.key_ring.add("fast", [Scope.MATCH], None, "unlimited")
    headers = {"Authorization": f"Bearer {key}"}
    assert {slow.verify("anna", VECTOR, headers=headers).status_code for _ in range(30)} == {200}


def test_a_key_over_its_rate_is_refused_before_the_body_is_read(slow: Cloud) -> None:
    key = slow.key(Scope.MATCH)
    for _ in range(10):
        slow.verify("anna", VECTOR, headers=key)
    path = "/v1/galleries/door/subjects/anna/verify"
    answer = slow.http.post(path, content=b"x" * 4_000_000, headers=key)
    assert_problem(answer, 429, "rate-limited")
