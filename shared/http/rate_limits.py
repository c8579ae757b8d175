"""Limits the rate of each API key, counted by ``limits`` in the memory of this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Final

from fastapi import Request
from limits import RateLimitItem, parse_many
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from shared.errors import Forbidden, RateLimited
from shared.http.auth import KEY_RECORD
from shared.logs import get_logger
from shared.security.credentials import UNLIMITED, ApiKeyRecord, Scope
from shared.service_settings import RateSettings

_log = get_logger(__name__)
_MATCHING = frozenset({"verify", "identify", "detect", "compare", "rebuild"})
# The operator needs to know which key it is, not each of its calls.
_SECONDS_BETWEEN_WARNINGS = 60.0
# In a request's scope: what was counted of it.
COUNTED: Final = "patronus.counted"


class Kind(StrEnum):
    """Kinds of requests, each with a rate of its own."""

    READING = "reading"
    MATCHING = "matching"
    WRITING = "writing"
    # Enrolled faces of which the answer says whether they match the subject's others.
    AGREEING = "agreeing"


def kind_of(method: str, path: str) -> Kind:
    """The kind of a request, by its method and path alone."""
    if method in {"GET", "HEAD"}:
        return Kind.READING
    return Kind.MATCHING if method == "POST" and path.rpartition("/")[2] in _MATCHING else Kind.WRITING


class RateLimits:
    """Counts the calls of each key, and refuses those over its rate. Used on one event loop.

    Refused calls do not count: a caller that keeps asking is answered as often as one that waits. Calls that are
    refused as overload after they were counted are given back.

    Args:
        settings: for keys without a rate of their own.
    """

    def __init__(self, settings: RateSettings) -> None:
        self._defaults = {Kind(name): rate for name, rate in settings.model_dump().items()}
        # As often as a key may match, but counted apart: who enrolls many must not be kept from matching.
        self._defaults[Kind.AGREEING] = self._defaults[Kind.MATCHING]
        self._storage = MemoryStorage()
        self._limiter = SlidingWindowCounterRateLimiter(self._storage)
        self._warned: dict[str, float] = {}

    def count(self, record: ApiKeyRecord, kind: Kind, cost: int = 1, counted: int = 0) -> None:
        """Counts a call, or several, of a key.

        A call that costs more than a whole limit costs all of it.

        Args:
            record: of the key.
            kind: what it is used for.
            cost: of the call.
            counted: how much of that was counted before.

        Raises:
            RateLimited: the key is over its rate.
        """
        rate, what = self._rate_of(record, kind)
        # The shortest first: a call refused by a short limit must not count against a long one.
        for item in _items(rate):
            more = min(cost, item.amount) - counted
            if more > 0 and not self._limiter.hit(item, record.id, what, cost=more):
                raise self._refused(record, what, item)

    def give_back(self, record: ApiKeyRecord, kind: Kind, cost: int) -> None:
        """Takes back what was counted of a call, for which nothing was done."""
        rate, what = self._rate_of(record, kind)
        for item in _items(rate):
            window = item.get_expiry()
            _, current = self._storage.sliding_window_keys(item.key_for(record.id, what), window, time.time())
            self._storage.decr(current, min(cost, item.amount))

    def _rate_of(self, record: ApiKeyRecord, kind: Kind) -> tuple[str, str]:
        """The rate, and what it counts: a rate of the key's own is for all that it does together."""
        if kind is Kind.AGREEING:
            return record.rate or self._defaults[kind], kind.value
        return (record.rate, "all") if record.rate else (self._defaults[kind], kind.value)

    def _refused(self, record: ApiKeyRecord, counted: str, item: RateLimitItem) -> RateLimited:
        now = time.time()
        if now - self._warned.get(record.id, 0) > _SECONDS_BETWEEN_WARNINGS:
            self._warned[record.id] = now
            _log.warning("rate_limit_exceeded", key=record.id, counted=counted, rate=str(item))
        free_at = self._limiter.get_window_stats(item, record.id, counted).reset_time
        return RateLimited(
            f"Rate limit reached: {item.amount} calls in {item.get_expiry()} s; send again after Retry-After.",
            counted=counted,
            quota=item.amount,
            window_s=item.get_expiry(),
            free_in_s=max(0.0, free_at - now),
        )


@lru_cache
def _items(rate: str) -> Sequence[RateLimitItem]:
    return () if rate == UNLIMITED else tuple(sorted(parse_many(rate), key=RateLimitItem.get_expiry))


def count_probes(request: Request, probes: int) -> None:
    """Counts the probes of one request; the first was counted before the request was read.

    The first stays counted if the others are refused: at the edge its picture was examined.

    Raises:
        RateLimited: they are more than the key may send.
    """
    if probes > 1:
        limits: RateLimits = request.app.state.rate_limits
        request.scope[COUNTED] = 0
        limits.count(request.scope[KEY_RECORD], Kind.MATCHING, probes, counted=1)
        request.scope[COUNTED] = probes


def count_comparisons(request: Request, faces: int) -> None:
    """Counts the enrolled faces of which an answer says whom they match, as often as the key may match.

    Raises:
        Forbidden: the key lacks the scope match.
        RateLimited: they are more than the key may compare.
    """
    record: ApiKeyRecord = request.scope[KEY_RECORD]
    if Scope.MATCH not in record.scopes:
        raise Forbidden("The API key lacks the scope match, and this tells whom a face matches; use one that has it.")
    limits: RateLimits = request.app.state.rate_limits
    limits.count(record, Kind.AGREEING, faces)


def may_compare(request: Request, faces: int) -> bool:
    """Whether an enrollment may say which of its faces match the subject's others, and counts these.

    That is a comparison: only a key that may match learns its outcome, and no more often than it may match.
    """
    try:
        count_comparisons(request, faces)
    except (Forbidden, RateLimited):
        return False
    return True
