"""How often a key may call: counted by key and kind, refused with when to come again, without a cost to others."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from pydantic import ValidationError

from shared.errors import RateLimited
from shared.http.problems import problem_headers
from shared.http.rate_limits import Kind, RateLimits, kind_of
from shared.security.credentials import ApiKeyRecord, Scope, mint
from shared.service_settings import RateSettings

MATCHING, READING, WRITING = Kind.MATCHING, Kind.READING, Kind.WRITING


def a_key(rate: str | None = None) -> ApiKeyRecord:
    return mint("a key", list(Scope), rate=rate)[1]


def let_through(call: Callable[[], None], times: int) -> int:
    count = 0
    for _ in range(times):
        try:
            call()
        except RateLimited:
            continue
        count += 1
    return count


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("GET", "/v1/galleries/door", READING),
        ("POST", "/v1/galleries/door/subjects/a/verify", MATCHING),
        ("POST", "/v1/galleries/door/identify", MATCHING),
        ("POST", "/v1/detect", MATCHING),
        ("POST", "/v1/compare", MATCHING),
        ("PUT", "/v1/galleries/door", WRITING),
        ("POST", "/v1/galleries/door/subjects/a/templates", WRITING),
        ("DELETE", "/v1/galleries/door/subjects/verify", WRITING),
        ("DELETE", "/v1/galleries/door", WRITING),
    ],
)
def test_what_is_asked_for_is_told_by_method_and_path(method: str, path: str, kind: Kind) -> None:
    assert kind_of(method, path) == kind


def test_a_key_is_let_through_as_often_as_it_may_and_others_are_not_touched() -> None:
    limits, one, other = RateLimits(RateSettings(matching="5/minute", reading="2/minute")), a_key(), a_key()
    assert let_through(lambda: limits.count(one, MATCHING), 20) == 5
    assert let_through(lambda: limits.count(other, MATCHING), 20) == 5
    assert let_through(lambda: limits.count(one, READING), 20) == 2, "each kind by itself"
    with pytest.raises(RateLimited) as raised:
        limits.count(one, MATCHING)
    headers = problem_headers(raised.value)
    assert 1 <= int(headers["Retry-After"]) <= 120
    assert headers["RateLimit-Policy"] == '"matching";q=5;w=60'
    assert headers["RateLimit"] == f'"matching";r=0;t={headers["Retry-After"]}'
    assert one.id not in raised.value.detail


def test_who_waits_as_long_as_told_is_let_through_again() -> None:
    limits, key = RateLimits(RateSettings(writing="4/second")), a_key()
    for _ in range(3):
        assert let_through(lambda: limits.count(key, WRITING), 50) >= 1
        with pytest.raises(RateLimited) as raised:
            limits.count(key, WRITING, 4)
        assert raised.value.retry_after_s == 1
        time.sleep(raised.value.retry_after_s)


def test_a_rate_of_its_own_is_for_all_that_a_key_does_together() -> None:
    limits = RateLimits(RateSettings(matching="1/minute", writing="1/minute"))
    own, free = a_key("6/minute"), a_key("unlimited")
    assert let_through(lambda: limits.count(own, MATCHING), 4) == 4
    assert let_through(lambda: limits.count(own, WRITING), 20) == 2
    assert let_through(lambda: limits.count(free, MATCHING), 500) == 500


@pytest.mark.slow(reason="waits six seconds")
def test_what_the_short_limit_refuses_does_not_count_against_the_long_one() -> None:
    limits, key = RateLimits(RateSettings(matching="10/hour;5/second")), a_key()
    passed = let_through(lambda: limits.count(key, MATCHING), 50)
    assert 5 <= passed < 10, "fifty were asked, and would have used up the hour"
    for _ in range(6):
        time.sleep(1.0)
        passed += let_through(lambda: limits.count(key, MATCHING), 50)
    assert passed == 10


def test_many_probes_count_as_many_and_never_more_than_all() -> None:
    limits, key = RateLimits(RateSettings(matching="100/hour")), a_key()
    limits.count(key, MATCHING, 60)
    with pytest.raises(RateLimited):
        limits.count(key, MATCHING, 60)
    assert let_through(lambda: limits.count(key, MATCHING), 100) == 40
    limits.count(a_key("5/hour"), MATCHING, 64)


def test_what_is_given_back_can_be_used_again() -> None:
    limits, key = RateLimits(RateSettings(matching="10/hour;8/minute")), a_key()
    for cost in (3, 11):
        for _ in range(20):
            limits.count(key, MATCHING)
            limits.count(key, MATCHING, cost, counted=1)
            limits.give_back(key, MATCHING, cost)
    assert let_through(lambda: limits.count(key, MATCHING), 20) == 8


@pytest.mark.parametrize("rate", ["", "fast", "0/second", "5", "5/fortnight", "5/second;", "-1/second", "5 per second"])
def test_a_rate_that_is_none_is_refused(rate: str) -> None:
    with pytest.raises(ValidationError):
        RateSettings(matching=rate)
    with pytest.raises(ValidationError):
        a_key(rate)


def test_a_call_with_more_probes_than_a_limit_passes_when_nothing_else_was_counted() -> None:
    limits, key = RateLimits(RateSettings(matching="10/minute")), a_key()
    limits.count(key, MATCHING)  # at the gate, before the probes are known
    limits.count(key, MATCHING, 11, counted=1)
    with pytest.raises(RateLimited):
        limits.count(key, MATCHING)
