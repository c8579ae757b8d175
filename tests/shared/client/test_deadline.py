"""A sending is over after ``timeout_s``, however the other side spreads its bytes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from shared.client import AsyncClient, Client
from shared.errors import ServiceUnreachable

TIMEOUT_S = 0.6
# A loaded machine is late.
MOST_S = 5.0
EVERY_S = 0.05
Peer = Callable[[socket.socket, threading.Event], None]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def for_ever(first: bytes, again: bytes) -> Peer:
    def drip(peer: socket.socket, over: threading.Event) -> None:
        peer.recv(65_536)
        peer.sendall(first)
        while not over.wait(EVERY_S):
            peer.sendall(again)

    return drip


def reads_slowly(peer: socket.socket, over: threading.Event) -> None:
    while not over.wait(EVERY_S) and peer.recv(16_384):
        pass


PEERS = {
    "headers": for_ever(HEAD + b"X-Slow: ", b"x"),
    "continue": for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": for_ever(HEAD + b"Content-Length: 100000\r\n\r\n{", b" "),
    "chunks": for_ever(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "chunk size": for_ever(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "reads slowly": reads_slowly,
}


@contextmanager
def peer_that(answers: Peer) -> Iterator[str]:
    """The address of a server that treats its only connection like this."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        def serve() -> None:
            with contextlib.suppress(OSError):
                peer, _ = listener.accept()
                with peer:
                    answers(peer, over)

        # Without a deadline the caller would wait for ever.
        thread, last = threading.Thread(target=serve, daemon=True), threading.Timer(MOST_S * 2, over.set)
        last.start()
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        over.set()
        last.cancel()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def called(url: str, picture: bytes, retries: int = 0) -> None:
    with Client(url, api_key="k", timeout_s=TIMEOUT_S, retries=retries) as client:
        client.detect_faces(picture)


def awaited(url: str, picture: bytes, retries: int = 0) -> None:
    async def call() -> None:
        async with AsyncClient(url, api_key="k", timeout_s=TIMEOUT_S, retries=retries) as client:
            await client.detect_faces(picture)

    asyncio.run(call())


@pytest.mark.parametrize("call", [called, awaited])
@pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS)
def test_a_sending_ends_at_its_deadline(peer: Peer, call: Callable[[str, bytes], None]) -> None:
    picture = bytes(32 * 1024**2 if peer is reads_slowly else 10)
    with peer_that(peer) as url:
        began = time.monotonic()
        with pytest.raises(ServiceUnreachable) as error:
            call(url, picture)
        took_s = time.monotonic() - began
    assert (error.value.reason, error.value.detail) == ("timeout", f"The edge at {url} did not answer in time.")
    assert TIMEOUT_S * 0.9 < took_s < MOST_S


@pytest.mark.parametrize("call", [called, awaited])
@pytest.mark.parametrize("picture_bytes", [10, 8 * 1024**2], ids=["answers nothing", "reads nothing"])
def test_what_was_late_is_not_sent_again(call: Callable[[str, bytes, int], None], picture_bytes: int) -> None:
    """The edge may still be at work: each sending has its deadline, and the first late one ends the call."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ServiceUnreachable) as error:
            call(url, bytes(picture_bytes), 2)
        assert error.value.reason == "timeout"
        listener.settimeout(0.5)
        first, _ = listener.accept()
        with first, pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize("call", [called, awaited])
def test_a_peer_that_accepts_no_connection_is_tried_again(call: Callable[[str, bytes, int], None]) -> None:
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # fill the backlog
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        time.sleep(0.2)
        began = time.monotonic()
        with pytest.raises(ServiceUnreachable, match="No edge answers at"):
            call(f"http://127.0.0.1:{listener.getsockname()[1]}", b"picture", 1)
    assert time.monotonic() - began > 1.2 * TIMEOUT_S
