"""Refusing at once what cannot be answered soon, for so little that the rest is answered as if it were not there.

A request that is parsed, checked and then refused costs half of one that is answered: at twice the load that a service
can carry, it would do little else. So it is counted here how many requests of each kind are inside, and a connection
asks here before it parses anything. The same holds for a key that is over its rate.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from shared.errors import Overloaded, RateLimited
from shared.http.problems import MEDIA_TYPE, problem_document, problem_headers
from shared.http.rate_limits import Kind, kind_of
from shared.http.request_context import REQUEST_ID_HEADER, id_of_request
from shared.logs import get_logger
from shared.metrics import Metrics

_log = get_logger(__name__)
_ANSWERED_TOGETHER: Final = frozenset({"verify", "identify"})
# Of the places of one kind, those that one key may hold: so many stay for the others.
_SHARE: Final = 0.75
_BUSY: Final = "More requests wait here than may; try again in a moment."
_CROWDED: Final = "More connections are open here than may be; try again in a moment."
# JsonInteger requests of one plain form; all others take the long way, and are refused there.
_PLAIN: Final = re.compile(rb"([A-Z]{3,7}) (/v1/[!-~]*) HTTP/1\.1\r\n")
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*(?=\r\n)", re.IGNORECASE)
_KEY: Final = re.compile(rb"\r\nauthorization:[ \t]*([!-~]+ [!-~]+)[ \t]*(?=\r\n)", re.IGNORECASE)
_REQUEST_ID: Final = re.compile(rb"\r\nx-request-id:[ \t]*([!-~]{1,64})[ \t]*(?=\r\n)", re.IGNORECASE)
_NOT_PLAIN: Final = re.compile(rb"\r\n(?:transfer-encoding|expect|connection|upgrade)[ \t]*:", re.IGNORECASE)
# A key's rate may be raised, or the key revoked: it is looked at again after this.
_MOST_SECONDS: Final = 1.0
_SECONDS_BETWEEN_LINES: Final = 1.0
_MOST_KEYS: Final = 1000
_ID: Final = "(the request's id)"
_ID_HEADER: Final = REQUEST_ID_HEADER.encode("ascii")
Place = tuple[str, bytes]
PLACE: Final = "patronus.place"
"""Where a connection leaves, in the ASGI scope, the place that its request has already."""


class LoadShedder:
    """Knows how many requests are inside, and which keys are over their rate just now. Used on one event loop.

    Args:
        most: requests of one kind that may be inside: verifications, identifications, and all others together.
        metrics: where refusals are counted.
    """

    def __init__(self, most: int, metrics: Metrics) -> None:
        self._most = most
        self._most_of_one = max(1, int(most * _SHARE))
        self._metrics = metrics
        self._inside: Counter[str] = Counter()
        self._inside_of_one: Counter[Place] = Counter()
        self._over: dict[tuple[Kind, bytes], tuple[float, _Refusal]] = {}
        self._busy = _Refusal(Overloaded(_BUSY), metrics)
        self._crowded = _Refusal(Overloaded(_CROWDED), metrics)
        self._refused = 0
        self._told = 0.0

    def enter(self, path: str, header: bytes) -> Place:
        """Counts a request as inside; gives its place, to ``leave``.

        Args:
            path: what it asks for.
            header: its ``Authorization``.

        Raises:
            Overloaded: too many of its kind are.
        """
        return self._enter((_what(path), _digest(header)))

    def _enter(self, place: Place) -> Place:
        if self._full(place):
            raise Overloaded(_BUSY)
        self._inside[place[0]] += 1
        self._inside_of_one[place] += 1
        return place

    def leave(self, place: Place) -> None:
        """A request is answered."""
        self._inside[place[0]] -= 1
        self._inside_of_one[place] -= 1
        if not self._inside_of_one[place]:
            del self._inside_of_one[place]

    def remember(self, kind: Kind, header: bytes, error: RateLimited) -> None:
        """Keeps in mind that nothing more of this kind comes in with this key, for a moment."""
        now = time.monotonic()
        if len(self._over) >= _MOST_KEYS:
            self._over = {key: found for key, found in self._over.items() if found[0] > now}
        if len(self._over) < _MOST_KEYS:
            until = now + min(error.free_in_s, _MOST_SECONDS)
            self._over[kind, _digest(header)] = (until, _Refusal(error, self._metrics))

    def receive(self, data: bytes) -> Place | bytes | None:
        """Looks at what came on a connection on which no request is under way.

        Returns:
            For one whole plain request, the place that it has from now on, or the whole answer that refuses it; for
            anything else None: it is to be parsed, and enters later.
        """
        plain = _PLAIN.match(data)
        end = data.find(b"\r\n\r\n")
        if plain is None or end < 0:
            return None
        head = data[: end + 2]
        lengths, keys = _LENGTH.findall(head), _KEY.findall(head)
        if len(lengths) > 1 or len(keys) != 1 or _NOT_PLAIN.search(head):
            return None
        if len(data) != end + 4 + int(lengths[0] if lengths else 0):
            return None
        method, path = plain[1].decode(), plain[2].partition(b"?")[0].decode()
        place = (_what(path), _digest(keys[0]))
        over = self._over_rate(kind_of(method, path), place[1]) if self._over else None
        refusal = over or (self._busy if self._full(place) else None)
        if refusal is None:
            return self._enter(place)
        self._tell(refusal)
        offered = _REQUEST_ID.search(head)
        return refusal.written(id_of_request(offered[1].decode() if offered else None), method)

    def farewell(self, data: bytes) -> bytes | None:
        """The answer to the first request on a connection that is one too many; None: it may be answered, for it asks
        how the service is.

        Args:
            data: the beginning of the request, or all of it.
        """
        plain = _PLAIN.match(data)
        if plain is None:
            return None
        self._tell(self._crowded)
        return self._crowded.written(id_of_request(None), plain[1].decode(), (b"Connection: close",))

    def _full(self, place: Place) -> bool:
        inside = self._inside[place[0]]
        return inside >= self._most or (inside >= self._most_of_one and self._inside_of_one[place] >= self._most_of_one)

    def _over_rate(self, kind: Kind, key: bytes) -> _Refusal | None:
        until, refusal = self._over.get((kind, key), (0.0, None))
        return refusal if time.monotonic() < until else None

    def _tell(self, refusal: _Refusal) -> None:
        refusal.counted.inc()
        self._refused += 1
        now = time.monotonic()
        if now - self._told > _SECONDS_BETWEEN_LINES:
            _log.warning("refused_at_once", requests=self._refused)
            self._refused, self._told = 0, now


class _Refusal:
    """An answer that is written many times: all of it but the request's id is made once."""

    def __init__(self, error: Overloaded, metrics: Metrics) -> None:
        self.counted = metrics.refused.labels(error.kind, error.reason or "")
        document = json.dumps(problem_document(error, _ID)).encode()
        self._before, self._after = document.split(_ID.encode())
        headers = {
            **problem_headers(error),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Content-Type": MEDIA_TYPE,
        }
        lines = [f"HTTP/1.1 {error.status} Too Many Requests", *(f"{name}: {value}" for name, value in headers.items())]
        self._head = "\r\n".join(lines).encode()

    def written(self, request_id: str, method: str, further: Sequence[bytes] = ()) -> bytes:
        """The whole answer to a request."""
        word = request_id.encode("ascii")
        length = len(self._before) + len(word) + len(self._after)
        own = (b"%b: %b" % (_ID_HEADER, word), b"Content-Length: %d" % length, *further)
        body = b"" if method == "HEAD" else b"%b%b%b" % (self._before, word, self._after)
        return b"\r\n".join((self._head, *own, b"", body))


def _what(path: str) -> str:
    last = path.rpartition("/")[2]
    return last if last in _ANSWERED_TOGETHER else "other"


def _digest(header: bytes) -> bytes:
    """Of the key alone: the scheme's name and the blanks around it can be written in many ways."""
    return blake2b(header.partition(b" ")[2].strip(b" \t"), digest_size=16).digest()
