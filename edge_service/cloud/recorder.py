"""Keeps, for a minute and in memory, what was sent to the cloud for a request whose caller asked for it.

``CloudClient`` notes each request where it leaves, as it leaves; of the ``Authorization`` header only that there was
one. Used on one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

_KEPT_SECONDS: Final = 60.0
# Of each API key; its oldest go first.
_MOST_RECORDINGS: Final = 32
_MOST_BYTES: Final = 8 * 1024 * 1024
# Of all keys together; those of the key that has most go first, so that no key displaces what a smaller one has.
_MOST_RECORDINGS_IN_ALL: Final = 512
_MOST_BYTES_IN_ALL: Final = 32 * 1024 * 1024
_HIDDEN: Final = "Bearer …"


@dataclass(slots=True)
class SentRequest:
    """One request as it left.

    Attributes:
        sent_at: when.
        method: of HTTP.
        target: path and query, as on the line.
        headers: in their order; the value of ``Authorization`` is hidden.
        body: as on the line; empty where there is none.
        answered: status of the answer; None: there was none, or none yet.
    """

    sent_at: datetime
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytearray = field(repr=False)
    answered: int | None = None

    @property
    def size(self) -> int:
        """Bytes that are kept of it."""
        return len(self.body) + len(self.target) + sum(len(name) + len(value) for name, value in self.headers)


@dataclass(slots=True, eq=False)
class Recording:
    """What was sent for one request of a caller.

    Attributes:
        recorder: that keeps it.
        requests: in the order of their sending.
        names: what the cloud calls the subjects of the request, and their names.
        kept_until: by the clock of the day.
        expiry: forgets it.
        ended: whether it is forgotten; nothing more is noted in it.
    """

    recorder: SentRecorder = field(repr=False)
    requests: list[SentRequest] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict, repr=False)
    kept_until: datetime = field(default_factory=lambda: datetime.now(UTC))
    expiry: asyncio.TimerHandle | None = None
    ended: bool = False

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return sum(request.size for request in self.requests)

    def note(
        self, method: str, target: bytes, headers: Iterable[tuple[bytes, bytes]], body: bytes
    ) -> SentRequest | None:
        """Keeps a request that is about to leave; None where this recording has ended."""
        if self.ended:
            return None
        shown = [
            (name.decode("latin-1"), _HIDDEN if name.lower() == b"authorization" else value.decode("latin-1"))
            for name, value in headers
        ]
        sent = SentRequest(datetime.now(UTC), method, target.decode("latin-1"), shown, bytearray(body))
        self.requests.append(sent)
        self.recorder.grown(self)
        return sent


# The recording of the request being answered; None where its caller asked for none.
_current: ContextVar[Recording | None] = ContextVar("recording", default=None)


def current_recording() -> Recording | None:
    """The recording of the request being answered."""
    return _current.get()


class SentRecorder:
    """The recordings of an edge, each for one API key and one request id."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Recording] = {}

    def begin(self, key_id: str, request_id: str) -> None:
        """Records what is sent from here on, in this task; a recording under the same id of this key is wiped.

        Args:
            key_id: of the caller's API key.
            request_id: of the caller's request.
        """
        self._wipe((key_id, request_id))
        recording = self._kept[key_id, request_id] = Recording(self)
        self._keep_on(recording)
        self._limit(key_id)
        _current.set(recording)

    def found(self, key_id: str, request_id: str) -> Recording | None:
        """What was sent for a request of this key; None: not recorded, or no longer kept."""
        return self._kept.get((key_id, request_id))

    def grown(self, recording: Recording) -> None:
        """Keeps a recording for a minute from now, and all of them within their limits."""
        self._keep_on(recording)
        for key_id in [key_id for (key_id, _), kept in self._kept.items() if kept is recording]:
            self._limit(key_id)

    def _limit(self, key_id: str) -> None:
        """Wipes recordings of this key over its own limits, then over the limits of all, of the key that has most."""
        while len(own := self._of(key_id)) > _MOST_RECORDINGS:
            # Those for which nothing was sent go first, but for the newest, which is about to send.
            self._wipe(next((name for name in own[:-1] if not self._kept[name].requests), own[0]))
        while self._bytes(self._of(key_id)) > _MOST_BYTES:
            self._wipe(self._of(key_id)[0])
        while len(self._kept) > _MOST_RECORDINGS_IN_ALL:
            self._wipe(max(self._each_keys(), key=len)[0])
        while self._bytes(list(self._kept)) > _MOST_BYTES_IN_ALL:
            self._wipe(max(self._each_keys(), key=self._bytes)[0])

    def _of(self, key_id: str) -> list[tuple[str, str]]:
        return [name for name in self._kept if name[0] == key_id]

    def _each_keys(self) -> list[list[tuple[str, str]]]:
        return [self._of(key_id) for key_id in dict.fromkeys(key_id for key_id, _ in self._kept)]

    def _bytes(self, names: list[tuple[str, str]]) -> int:
        return sum(self._kept[name].size for name in names)

    def close(self) -> None:
        """Wipes all recordings."""
        for name in list(self._kept):
            self._wipe(name)

    def _keep_on(self, recording: Recording) -> None:
        if recording.expiry is not None:
            recording.expiry.cancel()
        recording.kept_until = datetime.now(UTC) + timedelta(seconds=_KEPT_SECONDS)
        recording.expiry = asyncio.get_running_loop().call_later(_KEPT_SECONDS, self._expire, recording)

    def _expire(self, recording: Recording) -> None:
        for name, kept in list(self._kept.items()):
            if kept is recording:
                self._wipe(name)

    def _wipe(self, name: tuple[str, str]) -> None:
        recording = self._kept.pop(name, None)
        if recording is None:
            return
        recording.ended = True
        if recording.expiry is not None:
            recording.expiry.cancel()
        for request in recording.requests:
            request.body[:] = bytes(len(request.body))
        recording.requests.clear()
        recording.names.clear()
