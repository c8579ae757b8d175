"""A server on loopback that answers as it is told: a list of answers, one a request."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """One answer, after ``delay_s``. ``cut_off`` closes the connection in its place, after the request was read."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_off: bool = False
    delay_s: float = 0


@dataclass
class Request:
    """What came: how long its body was, and its beginning."""

    method: str
    path: str
    headers: dict[str, str]
    length: int
    begin: bytes


class AnsweringServer(ThreadingHTTPServer):
    """Answers requests in turn, the last reply again and again."""

    daemon_threads = True

    def __init__(self, *replies: Reply, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.scheme = "http" if tls is None else "https"
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.replies = deque(replies)
        self.requests: list[Request] = []

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: AnsweringServer

    def _answer(self) -> None:
        length, begin, read = int(self.headers.get("Content-Length", 0)), b"", 0
        while read < length:
            block = self.rfile.read(min(length - read, 64 * 1024))
            begin = begin or block
            read += len(block)
        self.server.requests.append(Request(self.command, self.path, dict(self.headers), length, begin))
        replies = self.server.replies
        reply = replies.popleft() if len(replies) > 1 else replies[0]
        time.sleep(reply.delay_s)
        if reply.cut_off:
            self.close_connection = True
            return
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the caller went away, or its certificate is not accepted
            super().handle()

    def log_message(self, *_arguments: object) -> None:
        """Prints nothing."""


@contextmanager
def answering(*replies: Reply, tls: ssl.SSLContext | None = None) -> Iterator[AnsweringServer]:
    """A server that runs."""
    with AnsweringServer(*replies, tls=tls) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
