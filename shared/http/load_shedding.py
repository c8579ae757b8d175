"""Sheds load before keys are checked and bodies read, so that accepted requests stay fast.

A request that is authenticated, parsed and then refused costs half of one that is answered: at twice the load that a
service can carry, it would do little else. So requests that are being answered are counted by kind and key, the answer
that refuses the next one is made once and sent many times, and a connection that was refused is held back for a moment.
"""

from __future__ import annotations

import time
from collections import Counter
from hashlib import blake2b
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from shared.errors import Overloaded, RateLimited
from shared.http.headers import must_close, raw_header
from shared.http.problems import ALWAYS_SENT, problem_response
from shared.http.rate_limits import Kind, kind_of
from shared.http.request_context import REQUEST_ID_HEADER, id_of_request
from shared.logs import get_logger
from shared.metrics import Metrics

_log = get_logger(__name__)
_BATCHED: Final = frozenset({"verify", "identify"})
# Of the slots of one kind, those that one key may hold: so many stay for the others.
_SHARE: Final = 0.75
_BUSY: Final = "More requests wait here than may; try again in a moment."
_TOO_MANY_CONNECTIONS: Final = "More connections are open here than may be; try again in a moment."
# The key's rate may be raised, or the key revoked: it is checked again after this.
_MAX_REMEMBERED_SECONDS: Final = 1.0
_MAX_REMEMBERED_KEYS: Final = 1000
_SECONDS_BETWEEN_LOG_LINES: Final = 1.0
# A connection that was refused is read again after the first of these. While more requests are refused than so many a
# second, it waits longer, so that refusing stays cheap beside answering; but no longer than Retry-After asks for.
_MIN_HOLD_SECONDS: Final = 0.1
_MAX_HOLD_SECONDS: Final = 1.0
_REFUSALS_PER_SECOND: Final = 300
_ID: Final = "(the request's id)"
_ID_HEADER: Final = REQUEST_ID_HEADER.lower().encode("ascii")
_REFUSED: Final = Overloaded.status
# Where the server says, in the ASGI scope's `state`, that the request came on a connection above its limit.
OVER_LIMIT: Final = "over_limit"
# Where the server puts, beside it, a function that reads the connection's next request so many seconds later.
HOLD_BACK: Final = "hold_back"
Slot = tuple[str, bytes]


class LoadShedder:
    """Counts requests at work, and remembers keys over their rate. Used on one event loop.

    Args:
        slots: requests of one kind at once: verifications, identifications, and all others together.
        metrics: where refusals are counted.
    """

    def __init__(self, slots: int, metrics: Metrics) -> None:
        self._slots = slots
        self._slots_of_one_key = max(1, int(slots * _SHARE))
        self._metrics = metrics
        self._taken: Counter[str] = Counter()
        self._taken_by_key: Counter[Slot] = Counter()
        self._over_rate: dict[tuple[Kind, bytes], tuple[float, Refusal]] = {}
        self._busy = Refusal(Overloaded(_BUSY), metrics)
        self._too_many_connections = Refusal(Overloaded(_TOO_MANY_CONNECTIONS), metrics)
        self._shed = 0
        self._logged = 0.0
        self._last_read = 0.0

    def take(self, scope: Scope) -> Slot | Refusal:
        """Takes a slot for a request, to be released later, or returns the answer that refuses it."""
        if scope.get("state", {}).get(OVER_LIMIT):
            return self._refuse(self._too_many_connections)
        path = scope["path"]
        last = path.rpartition("/")[2]
        key = _digest(raw_header(scope, b"authorization") or b"")
        slot = (last if last in _BATCHED else "other", key)
        if self._over_rate:
            until, refusal = self._over_rate.get((kind_of(scope["method"], path), key), (0.0, self._busy))
            if time.monotonic() < until:
                return self._refuse(refusal)
        taken = self._taken[slot[0]]
        most = self._slots_of_one_key
        if taken >= self._slots or (taken >= most and self._taken_by_key[slot] >= most):
            return self._refuse(self._busy)
        self._taken[slot[0]] += 1
        self._taken_by_key[slot] += 1
        return slot

    def release(self, slot: Slot) -> None:
        """Gives a slot back: its request is answered."""
        self._taken[slot[0]] -= 1
        self._taken_by_key[slot] -= 1
        if not self._taken_by_key[slot]:
            del self._taken_by_key[slot]

    def hold_seconds(self) -> float:
        """How long a connection is held back that is refused now: each is read again in its turn."""
        now = time.monotonic()
        next_read = max(now + _MIN_HOLD_SECONDS, self._last_read + 1 / _REFUSALS_PER_SECOND)
        self._last_read = min(next_read, now + _MAX_HOLD_SECONDS)
        return self._last_read - now

    def remember(self, kind: Kind, authorization: bytes, error: RateLimited) -> None:
        """Refuses this key's requests of this kind until its rate allows one, at most a second."""
        now = time.monotonic()
        if len(self._over_rate) >= _MAX_REMEMBERED_KEYS:
            self._over_rate = {key: found for key, found in self._over_rate.items() if found[0] > now}
        if len(self._over_rate) < _MAX_REMEMBERED_KEYS:
            until = now + min(error.free_in_s, _MAX_REMEMBERED_SECONDS)
            self._over_rate[kind, _digest(authorization)] = (until, Refusal(error, self._metrics))

    def _refuse(self, refusal: Refusal) -> Refusal:
        refusal.counted.inc()
        self._shed += 1
        now = time.monotonic()
        if now - self._logged > _SECONDS_BETWEEN_LOG_LINES:
            _log.warning("load_shed", requests=self._shed)
            self._shed, self._logged = 0, now
        return refusal


class LoadShedding:
    """The outermost layer: refuses requests under ``/v1`` that find no free slot.

    Args:
        app: the application inside.
        shedder: has the slots.
    """

    def __init__(self, app: ASGIApp, shedder: LoadShedder) -> None:
        self.app = app
        self.shedder = shedder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1"):
            await self.app(scope, receive, send)
            return
        slot = self.shedder.take(scope)
        if isinstance(slot, Refusal):
            await slot(scope, send, self.shedder.hold_seconds())
            return
        try:
            await self.app(scope, receive, send)
        finally:
            self.shedder.release(slot)


class Refusal:
    """A response that is sent many times: all of it but the request's id is made once."""

    def __init__(self, error: Overloaded, metrics: Metrics) -> None:
        self.counted = metrics.refused.labels(error.kind, error.reason or "")
        response = problem_response(error, request_id=_ID)
        response.headers.update(ALWAYS_SENT)
        self._before, self._after = bytes(response.body).split(_ID.encode())
        self._headers = [pair for pair in response.raw_headers if pair[0] not in {_ID_HEADER, b"content-length"}]

    async def __call__(self, scope: Scope, send: Send, hold_seconds: float) -> None:
        """Answers one request, before its body is read, and holds its connection back."""
        request_id = id_of_request(raw_header(scope, _ID_HEADER)).encode("ascii")
        body = b"%b%b%b" % (self._before, request_id, self._after)
        headers = [*self._headers, (_ID_HEADER, request_id), (b"content-length", b"%d" % len(body))]
        state = scope.get("state", {})
        if must_close(scope) or state.get(OVER_LIMIT):
            headers.append((b"connection", b"close"))
        elif HOLD_BACK in state:
            state[HOLD_BACK](hold_seconds)
        await send({"type": "http.response.start", "status": _REFUSED, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _digest(authorization: bytes) -> bytes:
    """Of the key alone: the scheme's name and the blanks around it can be written in many ways."""
    return blake2b(authorization.partition(b" ")[2].strip(b" \t"), digest_size=16).digest()
