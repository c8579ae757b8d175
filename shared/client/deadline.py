"""A limit for a whole sending: connecting, the request, and the answer to its last byte.

httpx limits each read and each write alone, so that a peer which sends a byte now and then holds its caller for ever.
Imports httpx, as ``connection`` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import httpcore
import httpx

if TYPE_CHECKING:
    import ssl

# When what this thread sends must be over, by the monotonic clock.
_ends: Final[ContextVar[float | None]] = ContextVar("ends", default=None)
# The system takes this much at once, or nothing.
_WRITE_BYTES: Final = 16 * 1024
# Of httpx's own pool.
_MOST_CONNECTIONS: Final = 100
_MOST_IDLE_CONNECTIONS: Final = 20
_IDLE_S: Final = 5.0


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Limits what this thread sends and receives through a ``DeadlineTransport``, all of it together."""
    before = _ends.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _ends.reset(before)


class DeadlineTransport(httpx.BaseTransport):
    """httpx's transport over the network, with reads and writes that end at the deadline.

    Args:
        verify: what TLS needs.
    """

    def __init__(self, verify: ssl.SSLContext) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=verify,
            max_connections=_MOST_CONNECTIONS,
            max_keepalive_connections=_MOST_IDLE_CONNECTIONS,
            keepalive_expiry=_IDLE_S,
            network_backend=_Backend(),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request.

        Raises:
            httpx.RequestError: the connection failed, or the time is over.
        """
        url = request.url
        with _as_httpx():
            answer = self._pool.handle_request(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Content(answer), extensions=answer.extensions
        )

    def close(self) -> None:
        """Closes the connections."""
        self._pool.close()


class _Content(httpx.SyncByteStream):
    """The body of an answer."""

    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx():
            yield from self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


class _Backend(httpcore.SyncBackend):
    """Connects to a host; the connection is limited."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(super().connect_tcp(host, port, left, local_address, socket_options))


class _Stream(httpcore.NetworkStream):
    """A connection."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _WRITE_BYTES):
            self._stream.write(buffer[start : start + _WRITE_BYTES], _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(timeout: float | None, late: Callable[[str], Exception]) -> float | None:
    """The seconds that one read, write or connect may take.

    Raises:
        httpcore.TimeoutException: there are none left.
    """
    ends = _ends.get()
    if ends is None:
        return timeout
    left = ends - time.monotonic()
    if left <= 0:
        raise late("The deadline has passed.")
    return left if timeout is None else min(timeout, left)


@contextmanager
def _as_httpx() -> Iterator[None]:
    """httpx has an error of the same name for each of httpcore's."""
    try:
        yield
    except (
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.UnsupportedProtocol,
    ) as failure:
        found: type[httpx.RequestError] = getattr(httpx, type(failure).__name__)
        raise found(str(failure)) from failure
