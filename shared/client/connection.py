"""Where the edge is and how it is reached: address, API key, TLS, timeouts. And when a call is sent again.

Imports httpx, which takes longer to load than all else here; so it is loaded with the first client.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import httpx

from shared.client.answers import read, retry_after
from shared.client.deadline import DeadlineTransport
from shared.client.pictures import parts
from shared.errors import AnswerNotUnderstood, ClientError, PatronusError, ServiceUnreachable, SetupError
from shared.security.tls import client_context, why_refused
from shared.strict_types import file_path, wrong_type

if TYPE_CHECKING:
    from pathlib import Path

    from shared.client.call import Call

T = TypeVar("T")

# A host that does not answer at all is noticed earlier than one that is slow to answer.
_MOST_CONNECT_S: Final = 10.0
# A day: no socket takes infinity.
_MOST_TIMEOUT_S: Final = 86_400
# The service did nothing: too much work, or over the key's rate.
_NOT_DONE: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS})
# Busy, or something that it needs is away for a moment.
_BUSY: Final = _NOT_DONE | {HTTPStatus.SERVICE_UNAVAILABLE}
# Failures of a connection, before anything was sent, and at any time. A timeout of the answer is not among them: the
# service may still be at work.
_UNSENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_BROKEN: Final = (*_UNSENT, httpx.NetworkError, httpx.RemoteProtocolError)
# What h11 and httpcore say of an answer that ends early, or does not come.
_ENDED: Final = ("peer closed connection", "Server disconnected")
_UNSENT_SHARE: Final = 0.8
_FIRST_WAIT_S: Final = 0.5
_MOST_WAIT_S: Final = 8.0
# A service that asks for more time will not be back while a caller waits.
_MOST_RETRY_AFTER_S: Final = 30


class Connection:
    """Where an edge is, and how it is called.

    Args:
        url: of the edge.
        api_key: one of it.
        ca: file of the authority that signed its certificate; None: those that this system trusts.
        certificate: file of a certificate to show to it; None: none.
        certificate_key: file of the certificate's key.
        timeout_s: seconds that one sending may take, to the last byte of the answer.
        retries: how often a call is sent again, at most.
        transport: instead of the network.

    Raises:
        SetupError: the address is not a URL, the key cannot be one, the timeout is not over 0, or a file for TLS is
            missing, wrong or out of date.
        TypeError: an argument is of another type.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        ca: str | Path | None,
        certificate: str | Path | None,
        certificate_key: str | Path | None,
        timeout_s: float,
        retries: int,
        transport: Any,
    ) -> None:
        if (certificate is None) != (certificate_key is None):
            raise SetupError("A client's certificate and its key go together; name the files of both.")
        if not isinstance(api_key, str):
            raise wrong_type("api_key", "a string", api_key)
        if not api_key.isascii() or not api_key.isprintable() or " " in api_key:
            raise SetupError("This is not an API key; an edge's looks like patronus_…")
        self._url = url
        self._retries = retries
        self._timeout_s = timeout_s
        self._options: dict[str, Any] = {
            "base_url": _checked(url),
            "headers": {
                "Authorization": f"Bearer {api_key}",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
            },
            "timeout": _timeout(timeout_s),
            "verify": client_context(
                None if ca is None else file_path("ca", ca),
                None if certificate is None else file_path("certificate", certificate),
                None if certificate_key is None else file_path("certificate_key", certificate_key),
            ),
            "trust_env": False,  # a proxy named in the environment must not see pictures
            "follow_redirects": False,
            "transport": transport,
        }

    def client(self) -> httpx.Client:
        """A new HTTP client of it."""
        options = self._options
        transport = options["transport"] or DeadlineTransport(options["verify"])
        return httpx.Client(**options | {"transport": transport})

    def async_client(self) -> httpx.AsyncClient:
        """A new HTTP client of it, for asyncio."""
        return httpx.AsyncClient(**self._options)

    def exchange(self, call: Call[T]) -> Exchange[T]:
        """What sends a call."""
        return Exchange(call, self._url, self._retries, self._timeout_s)


def _checked(url: str) -> httpx.URL:
    with suppress(httpx.InvalidURL, TypeError):
        address = httpx.URL(url)
        if address.scheme in {"http", "https"} and address.host:
            if address.userinfo or address.query or address.fragment:  # sentences name the address
                raise SetupError(
                    "The edge's address has a user, a password, a query or a fragment, which an edge does not take; "
                    "leave it out, and give the API key as api_key or in PATRONUS_API_KEY."
                )
            return address
    raise SetupError("The edge's address is not a URL; write it like http://127.0.0.1:8000")


def _timeout(seconds: float) -> httpx.Timeout:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise wrong_type("timeout_s", "a number of seconds", seconds)
    if not 0 < seconds <= _MOST_TIMEOUT_S:
        raise SetupError(f"timeout_s is a number of seconds over 0, and at most {_MOST_TIMEOUT_S}.")
    # Before the deadline of the sending: then nothing was sent, and both clients connect again.
    unsent = _UNSENT_SHARE * seconds
    return httpx.Timeout(seconds, connect=min(unsent, _MOST_CONNECT_S), pool=unsent)


class Exchange(Generic[T]):
    """One call, from its first sending to its answer; whoever holds it waits and sends.

    ::

        while exchange.goes_on:
            sleep(exchange.wait_s)
            with deadline(exchange.timeout_s), exchange.sending(http) as options, http.stream(**options) as response:
                body = Body(response)
                for block in response.iter_bytes():
                    body.add(block)
                exchange.receive(response, body.content)
        return exchange.answer

    Args:
        call: what to send.
        place: the edge's address, for sentences.
        retries: how often it is sent again, at most.
        timeout_s: seconds that one sending may take.
    """

    def __init__(self, call: Call[T], place: str, retries: int, timeout_s: float) -> None:
        self._call = call
        self._place = place
        self._left = retries
        self._tried = 0
        self.timeout_s = timeout_s
        self.goes_on = True
        self.wait_s = 0.0
        self.answer: T

    @contextmanager
    def sending(self, http: httpx.Client | httpx.AsyncClient) -> Iterator[dict[str, Any]]:
        """Gives the arguments for ``stream`` of an HTTP client, and takes a failure of the connection.

        Pictures are open for as long as the context is.

        Args:
            http: that client.

        Raises:
            ClientError: it is closed.
            BadRequest: a name cannot be one, or a picture cannot be read.
            ServiceUnreachable: the connection failed, and the call is not to be sent again.
        """
        if http.is_closed:
            raise ClientError("This client is closed; make another one.", reason="closed")
        call = self._call
        sent: dict[str, Any] = {"method": call.method, "url": call.target(), "params": call.params()}
        headers = {name: value for name, value in call.headers.items() if value is not None}
        with parts(call.pictures) as files:
            if files:
                sent["files"] = files
            elif call.floats is not None:
                sent["content"] = call.floats
                headers["Content-Type"] = "application/octet-stream"
            elif call.body is not None:
                sent["content"] = call.json()
                headers["Content-Type"] = "application/json"
            sent["headers"] = headers
            try:
                yield sent
            except httpx.RequestError as failure:
                self._fail(failure)
            except TimeoutError:  # of asyncio
                raise self._late() from None

    def receive(self, response: httpx.Response, body: bytearray) -> None:
        """Takes an answer: it is the call's, or the call is to be sent again.

        Args:
            response: status and headers.
            body: all of it.

        Raises:
            PatronusError: it is a problem, and the call is not to be sent again.
        """
        again = _BUSY if self._call.repeat == "always" else _NOT_DONE
        asked = retry_after(response) or 0
        if response.status_code in again - self._call.also and self._left and asked <= _MOST_RETRY_AFTER_S:
            self._wait(asked)
            return
        self.answer = read(response, body, self._call)
        self.goes_on = False

    def _fail(self, failure: httpx.RequestError) -> None:
        refused = why_refused(failure)
        again = _BROKEN if self._call.repeat == "always" else _UNSENT
        if refused is None and isinstance(failure, again) and self._left:
            self._wait(0)
            return
        raise self._unreachable(failure, refused) from None

    def _unreachable(self, failure: httpx.RequestError, refused: str | None) -> PatronusError:
        if refused is not None:
            return ServiceUnreachable(
                f"{refused} Name the edge's authority in PATRONUS_EDGE_CA and, if the edge asks for one, a certificate "
                "in PATRONUS_EDGE_CERTIFICATE and its key in PATRONUS_EDGE_CERTIFICATE_KEY.",
                reason="tls",
            )
        if isinstance(failure, httpx.ReadTimeout | httpx.WriteTimeout):
            return self._late()
        if isinstance(failure, httpx.RemoteProtocolError) and not any(word in str(failure) for word in _ENDED):
            return AnswerNotUnderstood(
                f"What answers at {self._place} is not an edge, or is one that speaks TLS; try https://"
            )
        if isinstance(failure, httpx.RemoteProtocolError | httpx.ReadError | httpx.WriteError):
            return ServiceUnreachable(
                f"What answers at {self._place} ended the connection before its answer was whole; look into the edge's "
                "log, or that of a proxy before it, and try again.",
                reason="cut_short",
            )
        return ServiceUnreachable(
            f"No edge answers at {self._place}; start one there, or name another address (PATRONUS_EDGE_URL)."
        )

    def _late(self) -> PatronusError:
        return ServiceUnreachable(f"The edge at {self._place} did not answer in time.", reason="timeout")

    def _wait(self, asked_s: float) -> None:
        backoff = min(_FIRST_WAIT_S * 2**self._tried, _MOST_WAIT_S)
        jitter = random.uniform(0.8, 1.2)  # noqa: S311 - callers that failed together should not return together
        self.wait_s = max(asked_s, backoff * jitter)
        self._left -= 1
        self._tried += 1
