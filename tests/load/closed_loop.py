"""Closed-loop load: callers that each send their next request when the last was answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np

_OK: Final = b"HTTP/1.1 200"


@dataclass(frozen=True, slots=True)
class Load:
    """Figures of a load.

    Attributes:
        answered: requests a second, of those answered with 200.
        refused: share answered otherwise.
        p50: milliseconds of an answer; likewise ``p95`` and ``p99``.
    """

    answered: float
    refused: float
    p50: float
    p95: float
    p99: float


def request(url: str, key: str, body: bytes, method: str = "POST", kind: str = "application/json") -> bytes:
    """The bytes of a request on a connection that stays open; ``kind`` is the media type of the body."""
    place = urlsplit(url)
    head = (
        f"{method} {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def answers(host: str, port: int, requests: Sequence[bytes]) -> list[Any]:
    """Sends each request once, one after the other; returns the JSON of the answers.

    Raises:
        ValueError: one was not answered with 200.
    """
    reader, writer = await asyncio.open_connection(host, port)
    found = []
    for one in requests:
        writer.write(one)
        head, body = await read_answer(reader)
        if not head.startswith(_OK):
            raise ValueError(head.partition(b"\r\n")[0].decode())
        found.append(json.loads(body))
    writer.close()
    return found


async def read_answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Reads an answer: head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return head, await reader.readexactly(int(length))


async def closed_loop(host: str, port: int, requests: Sequence[bytes], callers: int, seconds: float) -> Load:
    """Sends requests from a number of callers for some seconds.

    A client library would use as much of the processor as the service. This one writes bytes, and reads as many as the
    Content-Length of the answer says.

    Args:
        host: of the service.
        port: of the service.
        requests: as ``request`` makes them.
        callers: connections, each with one request at a time.
        seconds: how long; answers to the last requests are waited for, and counted.
    """
    taken: list[float] = []
    refused = 0
    began = time.perf_counter()

    async def call(first: int) -> None:
        nonlocal refused
        reader, writer = await asyncio.open_connection(host, port)
        at = first
        while time.perf_counter() - began < seconds:
            start = time.perf_counter()
            writer.write(requests[at % len(requests)])
            head, _ = await read_answer(reader)
            if head.startswith(_OK):
                taken.append(time.perf_counter() - start)
            else:
                refused += 1
            at += callers
        writer.close()

    await asyncio.gather(*(call(first) for first in range(callers)))
    whole = time.perf_counter() - began
    spread = np.percentile(np.array(taken) * 1e3, [50, 95, 99]) if taken else np.full(3, np.nan)
    return Load(len(taken) / whole, refused / max(1, refused + len(taken)), *(float(value) for value in spread))
