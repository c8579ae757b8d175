"""Open-loop load: requests at a given rate, whether or not earlier ones were answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.load.closed_loop import read_answer

_ACCEPTABLE: Final = range(200, 300)


@dataclass(frozen=True, slots=True)
class Request:
    """A request to send.

    Attributes:
        kind: its group in the figures.
        wire: as ``tests.load.closed_loop.request`` makes it.
        on_status: called with the status of the answer.
    """

    kind: str
    wire: bytes
    on_status: Callable[[int], None] = lambda _status: None


@dataclass(frozen=True, slots=True)
class Response:
    """An answer.

    Attributes:
        kind: of the request.
        status: of the answer; 0: the connection ended.
        at: seconds from the beginning at which the request was due.
        ms: milliseconds from then to the end of the answer, so that waiting for a service that is behind counts.
    """

    kind: str
    status: int
    at: float
    ms: float

    @property
    def ok(self) -> bool:
        """Whether the request succeeded."""
        return self.status in _ACCEPTABLE


async def open_loop(
    host: str,
    port: int,
    draw: Callable[[], Request],
    rate: float,
    seconds: float,
    connections: int,
    record: Callable[[Response], None],
) -> None:
    """Sends requests at a rate, then waits for the last answers.

    Args:
        host: of the service.
        port: of the service.
        draw: makes the next request.
        rate: requests a second.
        seconds: how long.
        connections: the most requests at once; a further one waits, and its time counts.
        record: called with each answer.
    """
    idle: asyncio.Queue[_Connection] = asyncio.Queue()
    for _ in range(connections):
        idle.put_nowait(_Connection(host, port))
    began = time.perf_counter()

    async def send(request: Request, due: float) -> None:
        connection = await idle.get()
        try:
            status = await connection.exchange(request.wire)
        finally:
            idle.put_nowait(connection)
        request.on_status(status)
        record(Response(request.kind, status, due - began, 1e3 * (time.perf_counter() - due)))

    async with asyncio.TaskGroup() as on_their_way:
        for number in range(int(rate * seconds)):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            on_their_way.create_task(send(draw(), due))
    while not idle.empty():
        idle.get_nowait().close()


class _Connection:
    """A connection that stays open; opened again when the service has closed it."""

    def __init__(self, host: str, port: int) -> None:
        self._place = (host, port)
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def exchange(self, wire: bytes) -> int:
        """Sends a request and reads its answer; returns the status, 0 without an answer."""
        try:
            if self._open is None or self._open[0].at_eof():
                self.close()
                self._open = await asyncio.open_connection(*self._place)
            reader, writer = self._open
            writer.write(wire)
            head, _ = await read_answer(reader)
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return 0
        return int(head.split(b" ", 2)[1])

    def close(self) -> None:
        """Closes the connection, if it is open."""
        if self._open is not None:
            self._open[1].close()
            self._open = None
