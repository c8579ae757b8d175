"""What answers cannot fill the memory: an answer is not compressed, and not longer than any edge's."""

from __future__ import annotations

import asyncio
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from shared.client import AsyncClient, Client
from shared.errors import AnswerNotUnderstood
from tests.shared.client.answering import Reply, answering

MIB = 1024 * 1024
HEALTHY = b'{"status": "ok"}'


def packed(mebibytes: int) -> bytes:
    packer = zlib.compressobj(wbits=31)  # gzip
    return b"".join([*(packer.compress(bytes(MIB)) for _ in range(mebibytes)), packer.flush()])


async def health(url: str, transport: httpx.AsyncBaseTransport | None = None) -> str:
    async with AsyncClient(url, api_key="k", retries=0, transport=transport) as edge:
        return (await edge.get_health()).status


@pytest.mark.parametrize("status", [200, 500])
def test_a_small_answer_cannot_become_a_large_one(status: int) -> None:
    bomb = Reply(status, packed(200), {"Content-Encoding": "gzip"})
    assert len(bomb.body) < MIB
    with answering(bomb) as server:
        tracemalloc.start()
        try:
            with (
                Client(server.url, api_key="k", retries=0) as edge,
                pytest.raises(AnswerNotUnderstood, match=r"^What answers at http://127.0.0.1:[0-9]+ compresses its"),
            ):
                edge.get_health()
            with pytest.raises(AnswerNotUnderstood, match="compresses its answer"):
                asyncio.run(health(server.url))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 8 * MIB
        assert [request.headers["Accept-Encoding"] for request in server.requests] == ["identity"] * 2


def test_an_answer_without_end_is_not_read_to_its_end() -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield bytes(MIB)

    async def endless_too() -> AsyncIterator[bytes]:
        for block in endless():
            yield block

    says = "^What answers at http://edge is not an edge: its answer is over 128 MiB long.$"
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, content=endless()))
    with (
        Client("http://edge", api_key="k", retries=0, transport=transport) as edge,
        pytest.raises(AnswerNotUnderstood, match=says),
    ):
        edge.get_health()
    assert taken == 129
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, content=endless_too()))
    with pytest.raises(AnswerNotUnderstood, match=says):
        asyncio.run(health("http://edge", transport))
    assert taken == 2 * 129


def test_an_answer_that_says_that_it_is_not_compressed_is_read() -> None:
    plain = Reply(200, HEALTHY, {"Content-Encoding": "identity"})
    with answering(plain) as server, Client(server.url, api_key="k", retries=0) as edge:
        assert edge.get_health().status == asyncio.run(health(server.url)) == "ok"


def test_a_text_answer_is_read_as_utf_8() -> None:
    text = "# HELP x Zoë\nx 1\n"
    reply = Reply(200, text.encode(), {"Content-Type": "text/plain"})
    with answering(reply) as server, Client(server.url, api_key="k", retries=0) as edge:
        assert edge.get_metrics() == text
