"""Silent connections are closed, and connections above the limit get health checks only, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.http import connections
from shared.http.connections import LimitedProtocol, close_silent_connections
from shared.http.load_shedding import LoadShedder, LoadShedding
from shared.metrics import Metrics

GET = b"GET /v1/info HTTP/1.1\r\nHost: x\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
Open = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


async def application(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_HEAD_SECONDS", 0.3)
    monkeypatch.setattr(connections, "KEEP_ALIVE_SECONDS", 0.6)
    monkeypatch.setattr(connections, "_SWEEP_SECONDS", 0.02)
    monkeypatch.setattr(connections, "_MAX_SERVED", 2)
    monkeypatch.setattr(connections, "_MAX_OPEN", 4)


@asynccontextmanager
async def served(inner: ASGIApp = application, slots: int = 8) -> AsyncIterator[Open]:
    app = LoadShedding(inner, LoadShedder(slots, Metrics("cloud")))
    config = uvicorn.Config(app, http=LimitedProtocol, port=0, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    listener = config.bind_socket()
    address = listener.getsockname()
    lines: list[asyncio.StreamWriter] = []

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*address)
        lines.append(writer)
        return reader, writer

    serving = asyncio.create_task(server.serve(sockets=[listener]))
    sweep = asyncio.create_task(close_silent_connections(server.server_state.connections))  # type: ignore[arg-type]
    try:
        for _ in range(2000):
            if server.started:
                break
            await asyncio.sleep(0.01)
        yield connect
    finally:
        for writer in lines:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        server.should_exit = True
        await serving
        sweep.cancel()


async def ask(line: tuple[asyncio.StreamReader, asyncio.StreamWriter], data: bytes) -> tuple[int, bytes]:
    line[1].write(data)
    head = await line[0].readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    await line[0].readexactly(length)
    return int(head.split()[1]), head.lower()


async def closed_after(line: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> float:
    began = asyncio.get_running_loop().time()
    assert await asyncio.wait_for(line[0].read(), 20) == b""
    return asyncio.get_running_loop().time() - began


@pytest.mark.parametrize("begun", [b"", b"GET /v1/info HT", GET[:-2]])
def test_a_connection_that_sends_no_whole_head_is_closed(begun: bytes) -> None:
    async def scenario() -> float:
        async with served() as connect:
            line = await connect()
            line[1].write(begun)
            return await closed_after(line)

    assert asyncio.run(scenario()) >= 0.25


def test_dripping_a_head_does_not_help() -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        for at in range(len(GET)):
            writer.write(GET[at : at + 1])
            await asyncio.sleep(0.1)

    async def scenario() -> bool:
        async with served() as connect:
            reader, writer = await connect()
            dripping = asyncio.create_task(drip(writer))
            with suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 20) == b""
            try:
                return not dripping.done()
            finally:
                dripping.cancel()

    assert asyncio.run(scenario())


@pytest.mark.parametrize("begun", [b"", b"GET /v1/info HT"])
def test_after_an_answer_a_connection_may_be_silent_for_longer(begun: bytes) -> None:
    async def scenario() -> float:
        async with served() as connect:
            line = await connect()
            assert (await ask(line, GET))[0] == 200
            line[1].write(begun)
            return await closed_after(line)

    assert asyncio.run(scenario()) >= 0.5


def test_a_request_that_is_being_answered_is_not_silent() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(1)
        await application(scope, receive, send)

    async def scenario() -> int:
        async with served(slow) as connect:
            return (await ask(await connect(), GET))[0]

    assert asyncio.run(scenario()) == 200


def test_connections_above_the_limit_get_health_checks_only() -> None:
    async def scenario() -> None:
        async with served() as connect:
            first = [await connect() for _ in range(2)]
            assert [(await ask(line, GET))[0] for line in first] == [200, 200]
            third = await connect()
            assert (await ask(third, HEALTH))[0] == 200
            status, head = await ask(third, GET)
            assert status == 429
            assert b"connection: close" in head
            await closed_after(third)
            assert (await ask(first[0], GET))[0] == 200, "those below it do not notice"

    asyncio.run(scenario())


def test_connections_above_the_second_limit_are_closed_at_once() -> None:
    async def scenario() -> None:
        async with served() as connect:
            lines = [await connect() for _ in range(4)]
            assert [(await ask(line, HEALTH))[0] for line in lines] == [200] * 4
            fifth = await connect()
            with suppress(ConnectionResetError):
                assert await asyncio.wait_for(fifth[0].read(), 20) == b""
            assert (await ask(lines[3], HEALTH))[0] == 200

    asyncio.run(scenario())


def test_an_endless_head_is_refused_before_it_ends() -> None:
    async def scenario() -> bytes:
        async with served() as connect:
            reader, writer = await connect()
            writer.write(b"GET /v1/info HTTP/1.1\r\nX: ")
            writer.write(b"a" * 130_000)
            await asyncio.sleep(0.1)
            writer.write(b"a" * 2_000)
            return await reader.readuntil(b"\r\n\r\n")

    head = asyncio.run(scenario()).lower()
    assert head.startswith(b"http/1.1 400")
    assert b"application/problem+json" in head


def test_a_refused_connection_is_held_back_and_stays_open() -> None:
    async def scenario() -> float:
        async with served(slots=0) as connect:
            line = await connect()
            began = asyncio.get_running_loop().time()
            assert [(await ask(line, GET))[0] for _ in range(4)] == [429] * 4
            return asyncio.get_running_loop().time() - began

    assert asyncio.run(scenario()) >= 0.29


@asynccontextmanager
async def one_in_progress() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, asyncio.Event]]:
    """A connection whose first request is answered when the event is set."""
    free = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await free.wait()
        await application(scope, receive, send)

    async with served(slow) as connect:
        reader, writer = await connect()
        yield reader, writer, free
        free.set()


def test_some_requests_may_be_sent_ahead_of_answers() -> None:
    async def scenario() -> bytes:
        async with one_in_progress() as (reader, writer, free):
            writer.write(GET * 16 + GET.replace(b"Host", b"Connection: close\r\nHost"))
            await asyncio.sleep(0.05)
            free.set()
            return await reader.read()

    assert asyncio.run(scenario()).count(b"HTTP/1.1 200 OK") == 17


def test_of_too_many_requests_ahead_some_are_answered_and_the_connection_is_closed() -> None:
    async def scenario() -> bytes:
        async with one_in_progress() as (reader, writer, free):
            writer.write(GET * 1000)
            await asyncio.sleep(0.05)
            free.set()
            return await asyncio.wait_for(reader.read(), 5)

    assert asyncio.run(scenario()).count(b"HTTP/1.1 200 OK") == 17


def test_what_is_malformed_gets_no_answer_that_an_earlier_request_waits_for() -> None:
    async def scenario() -> bytes:
        async with one_in_progress() as (reader, writer, free):
            writer.write(GET * 2 + b"\x00\r\n\r\n")
            await asyncio.sleep(0.05)
            free.set()
            return await asyncio.wait_for(reader.read(), 5)

    got = asyncio.run(scenario())
    assert got.count(b"HTTP/1.1 200 OK") == 2
    assert b"400" not in got


@pytest.mark.parametrize("also", [b"", b"Content-Length: 36\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_a_body_after_an_upgrade_is_not_read_as_a_request(also: bytes) -> None:
    async def scenario() -> bytes:
        async with served() as connect:
            reader, writer = await connect()
            head = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" + also + b"\r\n"
            writer.write(head)
            await asyncio.sleep(0.05)
            with suppress(ConnectionError):
                writer.write(GET)
            return await asyncio.wait_for(reader.read(), 5)

    answered = asyncio.run(scenario())
    assert answered.startswith(b"HTTP/1.1 400 ")
    assert b"HTTP/1.1 200" not in answered
    assert b"upgrade_not_supported" in answered


@pytest.mark.parametrize("endless", [b"X-1: abc\r\n", b"a"])
def test_endless_trailers_are_refused(endless: bytes) -> None:
    async def body_is_read(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await application(scope, receive, send)

    async def scenario() -> int:
        async with served(body_is_read) as connect:
            reader, writer = await connect()
            writer.write(b"POST /v1/info HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: ")
            sent = 0
            with suppress(ConnectionError):
                while sent < 50_000_000 and not reader.at_eof():
                    writer.write(endless * (10_000 // len(endless)))
                    await asyncio.wait_for(writer.drain(), 5)
                    await asyncio.sleep(0)
                    sent += 10_000
            return sent

    assert asyncio.run(scenario()) < 10_000_000


def test_a_long_head_is_refused_also_while_a_request_is_answered() -> None:
    async def scenario() -> int:
        async with one_in_progress() as (_, writer, _):
            writer.write(GET + b"GET /v1/info HTTP/1.1\r\nX: ")
            sent = 0
            with suppress(ConnectionError, TimeoutError):
                while sent < 20_000_000:
                    writer.write(b"a" * 10_000)
                    await asyncio.wait_for(writer.drain(), 1)
                    sent += 10_000
            return sent

    assert asyncio.run(scenario()) < 10_000_000


def test_the_rest_of_a_refused_short_body_is_skipped() -> None:
    async def scenario() -> list[int]:
        async with served() as connect:
            line = await connect()
            post = b"POST /v1/info HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n"
            statuses = []
            for _ in range(4):
                statuses.append((await ask(line, post))[0])
                line[1].write(b"x" * 50_000)
                statuses.append((await ask(line, GET))[0])
            return statuses

    assert asyncio.run(scenario()) == [200] * 8
