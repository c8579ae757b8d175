"""The two clients of the edge's REST interface: ``Client``, and ``AsyncClient`` for asyncio.

An operation is a function of ``galleries``, ``subjects``, ``embeddings``, ``matching`` or ``console``. To add one,
write it there and name it in both classes. A test compares both with the edge's OpenAPI document.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeVar

from shared.client import console, embeddings, galleries, matching, subjects
from shared.client.answers import Body
from shared.client.call import Call
from shared.client.methods import awaited, awaited_for_items, called, called_for_items
from shared.errors import SetupError
from shared.strict_types import whole_number

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

DEFAULT_EDGE: Final = "http://127.0.0.1:8000"
# Long enough for a picture over a slow uplink, and for an edge that waits for its cloud.
_TIMEOUT_S: Final = 60.0
_RETRIES: Final = 3


class _Caller:
    """What both clients are made from; see ``Client``."""

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        ca: str | Path | None = None,
        certificate: str | Path | None = None,
        certificate_key: str | Path | None = None,
        timeout_s: float = _TIMEOUT_S,
        retries: int = _RETRIES,
        transport: httpx.BaseTransport | httpx.AsyncBaseTransport | None = None,
    ) -> None:
        from shared.client.connection import Connection  # noqa: PLC0415 - it loads httpx, which takes a while

        if whole_number("retries", retries) < 0:
            raise SetupError(f"retries is a whole number from 0, not {retries}.")
        key = api_key or os.environ.get("PATRONUS_API_KEY")
        if not key:
            raise SetupError("There is no API key; give it as api_key, or in PATRONUS_API_KEY.")
        self.url = url or os.environ.get("PATRONUS_EDGE_URL") or DEFAULT_EDGE
        self._connection = Connection(
            self.url,
            key,
            ca or _named("PATRONUS_EDGE_CA"),
            certificate or _named("PATRONUS_EDGE_CERTIFICATE"),
            certificate_key or _named("PATRONUS_EDGE_CERTIFICATE_KEY"),
            timeout_s,
            retries,
            transport,
        )
        self._open()

    def _open(self) -> None:
        raise NotImplementedError


def _named(variable: str) -> Path | None:
    name = os.environ.get(variable)
    return Path(name) if name else None


class Client(_Caller):
    """Calls an edge. Several threads may use it at once. Close it, or use it in a ``with``.

    What the edge refuses is raised as the error of ``shared.errors`` that it answered, with ``reason``,
    ``request_id`` and ``retry_after``. A call is sent again where that is safe.

    Args:
        url: of the edge; None: ``PATRONUS_EDGE_URL``, else http://127.0.0.1:8000
        api_key: one of the edge; None: ``PATRONUS_API_KEY``.
        ca: file of the authority that signed the edge's certificate; None: ``PATRONUS_EDGE_CA``, else those that
            this system trusts.
        certificate: file of a certificate to show to the edge; None: ``PATRONUS_EDGE_CERTIFICATE``, else none.
        certificate_key: file of its key; None: ``PATRONUS_EDGE_CERTIFICATE_KEY``.
        timeout_s: seconds that one sending may take, from its start to the last byte of the answer. Each retry has as
            many again, the waits between come on top, and so does what a ``transport`` of one's own takes beyond. Give
            more for many pictures over a slow uplink.
        retries: how often a call is sent again, at most; after one that was late, only if it did not connect.
        transport: what httpx sends with instead of the network: a proxy, or an application in tests.

    Raises:
        SetupError: there is no API key, the address is not a URL, a number is too small or too large, or a file for TLS
            cannot be used.
        TypeError: an argument is of another type, here or in a call; one sentence names it.

    Example:
        >>> with Client(EDGE, api_key=API_KEY) as client:
        ...     client.put_gallery("door").gallery
        'door'
    """

    def _open(self) -> None:
        self._http = self._connection.client()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_ended: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def send(self, call: Call[T]) -> T:
        """Sends a call, again where that is safe and helps, and returns its answer.

        Raises:
            PatronusError: the edge answered a problem; the class is that of its type.
            ServiceUnreachable: no edge answers.
            AnswerNotUnderstood: what answers is not an edge, or one of another version.
            ClientError: this client is closed.
        """
        from shared.client.deadline import deadline  # noqa: PLC0415 - loaded with the connection

        exchange = self._connection.exchange(call)
        while exchange.goes_on:
            time.sleep(exchange.wait_s)
            with (
                deadline(exchange.timeout_s),
                exchange.sending(self._http) as options,
                self._http.stream(**options) as response,
            ):
                body = Body(response)
                for block in response.iter_bytes():
                    body.add(block)
                exchange.receive(response, body.content)
        return exchange.answer

    put_gallery = called(galleries.put_gallery)
    list_galleries = called(galleries.list_galleries)
    all_galleries = called_for_items(galleries.list_galleries)
    get_gallery = called(galleries.get_gallery)
    change_gallery = called(galleries.change_gallery)
    delete_gallery = called(galleries.delete_gallery)
    get_erasure = called(galleries.get_erasure)
    set_retention = called(galleries.set_retention)
    remove_retention = called(galleries.remove_retention)
    start_rekey = called(galleries.start_rekey)
    get_rekey = called(galleries.get_rekey)
    cancel_rekey = called(galleries.cancel_rekey)

    enroll_faces = called(subjects.enroll_faces)
    list_subjects = called(subjects.list_subjects)
    all_subjects = called_for_items(subjects.list_subjects)
    get_subject = called(subjects.get_subject)
    report_subject = called(subjects.report_subject)
    rename_subject = called(subjects.rename_subject)
    merge_subject = called(subjects.merge_subject)
    move_face = called(subjects.move_face)
    set_expiry = called(subjects.set_expiry)
    remove_expiry = called(subjects.remove_expiry)
    find_duplicates = called(subjects.find_duplicates)
    all_duplicates = called_for_items(subjects.find_duplicates)
    delete_subject = called(subjects.delete_subject)
    delete_face = called(subjects.delete_face)

    enroll_embeddings = called(embeddings.enroll_embeddings)
    enroll_subjects = called(embeddings.enroll_subjects)
    protect = called(embeddings.protect)

    verify_face = called(matching.verify_face)
    identify_faces = called(matching.identify_faces)
    detect_faces = called(matching.detect_faces)
    compare_faces = called(matching.compare_faces)
    get_info = called(matching.get_info)
    get_health = called(matching.get_health)
    get_readiness = called(matching.get_readiness)
    get_metrics = called(matching.get_metrics)

    get_key = called(console.get_key)
    list_keys = called(console.list_keys)
    get_curves = called(console.get_curves)
    get_gallery_curves = called(console.get_gallery_curves)
    get_sent = called(console.get_sent)
    rebuild_face = called(console.rebuild_face)


class AsyncClient(_Caller):
    """Calls an edge from asyncio. Its arguments, methods and errors are those of ``Client``, and methods are awaited.

    Example:
        >>> async def decide() -> str:
        ...     async with AsyncClient(EDGE, api_key=API_KEY) as client:
        ...         return (await client.compare_faces(PORTRAIT, SPEECH)).decision
        >>> asyncio.run(decide())
        'match'
    """

    def _open(self) -> None:
        self._http = self._connection.async_client()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_ended: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def send(self, call: Call[T]) -> T:
        """As ``Client.send``."""
        import asyncio  # noqa: PLC0415 - whoever awaits has loaded it; others need not

        exchange = self._connection.exchange(call)
        while exchange.goes_on:
            await asyncio.sleep(exchange.wait_s)
            with exchange.sending(self._http) as options:
                async with asyncio.timeout(exchange.timeout_s), self._http.stream(**options) as response:
                    body = Body(response)
                    async for block in response.aiter_bytes():
                        body.add(block)
                    exchange.receive(response, body.content)
        return exchange.answer

    put_gallery = awaited(galleries.put_gallery)
    list_galleries = awaited(galleries.list_galleries)
    all_galleries = awaited_for_items(galleries.list_galleries)
    get_gallery = awaited(galleries.get_gallery)
    change_gallery = awaited(galleries.change_gallery)
    delete_gallery = awaited(galleries.delete_gallery)
    get_erasure = awaited(galleries.get_erasure)
    set_retention = awaited(galleries.set_retention)
    remove_retention = awaited(galleries.remove_retention)
    start_rekey = awaited(galleries.start_rekey)
    get_rekey = awaited(galleries.get_rekey)
    cancel_rekey = awaited(galleries.cancel_rekey)

    enroll_faces = awaited(subjects.enroll_faces)
    list_subjects = awaited(subjects.list_subjects)
    all_subjects = awaited_for_items(subjects.list_subjects)
    get_subject = awaited(subjects.get_subject)
    report_subject = awaited(subjects.report_subject)
    rename_subject = awaited(subjects.rename_subject)
    merge_subject = awaited(subjects.merge_subject)
    move_face = awaited(subjects.move_face)
    set_expiry = awaited(subjects.set_expiry)
    remove_expiry = awaited(subjects.remove_expiry)
    find_duplicates = awaited(subjects.find_duplicates)
    all_duplicates = awaited_for_items(subjects.find_duplicates)
    delete_subject = awaited(subjects.delete_subject)
    delete_face = awaited(subjects.delete_face)

    enroll_embeddings = awaited(embeddings.enroll_embeddings)
    enroll_subjects = awaited(embeddings.enroll_subjects)
    protect = awaited(embeddings.protect)

    verify_face = awaited(matching.verify_face)
    identify_faces = awaited(matching.identify_faces)
    detect_faces = awaited(matching.detect_faces)
    compare_faces = awaited(matching.compare_faces)
    get_info = awaited(matching.get_info)
    get_health = awaited(matching.get_health)
    get_readiness = awaited(matching.get_readiness)
    get_metrics = awaited(matching.get_metrics)

    get_key = awaited(console.get_key)
    list_keys = awaited(console.list_keys)
    get_curves = awaited(console.get_curves)
    get_gallery_curves = awaited(console.get_gallery_curves)
    get_sent = awaited(console.get_sent)
    rebuild_face = awaited(console.rebuild_face)
