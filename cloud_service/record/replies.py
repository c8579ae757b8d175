"""Enrollments that are sent twice under one ``Idempotency-Key``: done once, answered twice.

What is kept is the key and a digest of the request, for a day, and no answer: that follows from the templates that the
request names. So a repeated answer cannot tell of templates that were erased meanwhile, and there is nothing here of
a subject that an erasure would have to find.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, delete, insert, select

from cloud_service.record.database import Database
from cloud_service.record.queries import PinnedGallery
from cloud_service.record.tables import answered, subject, template
from shared.errors import Conflict, Unprocessable
from shared.wire.common import TemplateInfo


@dataclass(frozen=True, slots=True)
class Once:
    """A request that is to be done once: the API key's id, the caller's key, and the digest of what is asked."""

    key_id: str
    key: str
    digest: str

    @classmethod
    def of(cls, key_id: str, key: str, *asked: str) -> Once:
        """From the parts of a request: its method, route, names and body."""
        digest = hashlib.sha256()
        for part in asked:
            raw = part.encode()
            digest.update(len(raw).to_bytes(8, "big") + raw)
        return cls(key_id, key, digest.hexdigest())


class Answers:
    """Which requests were done already.

    Args:
        database: where that is noted.
        kept: for how long.
    """

    def __init__(self, database: Database, kept: timedelta) -> None:
        self._database = database
        self._kept = kept
        self._changing = threading.Lock()
        self._under_way: set[tuple[str, str]] = set()

    @contextmanager
    def under_way(self, once: Once) -> Iterator[None]:
        """While a request is worked on.

        Raises:
            Conflict: another one under the same key is.
        """
        mine = (once.key_id, once.key)
        with self._changing:
            if mine in self._under_way:
                raise Conflict(
                    "A request with this Idempotency-Key is being worked on; send it again in a moment.",
                    reason="idempotency_key_in_use",
                )
            self._under_way.add(mine)
        try:
            yield
        finally:
            with self._changing:
                self._under_way.discard(mine)

    def before(self, once: Once, pinned: PinnedGallery, name: str, uids: Sequence[str]) -> list[TemplateInfo] | None:
        """What the request was answered when it was done; None: it was not done yet.

        Args:
            once: the request.
            pinned: the gallery that it names.
            name: the subject that it names.
            uids: the templates that it names.

        Raises:
            Unprocessable: another request was done under the key.
            Conflict: what it stored was erased since; it is not stored anew without the sender's saying so.
        """
        with self._database.read() as connection:
            digest = connection.scalar(
                select(answered.c.request_digest).where(
                    answered.c.key_id == once.key_id,
                    answered.c.idempotency_key == once.key,
                    answered.c.created_at > self._oldest(),
                )
            )
            if digest is None:
                return None
            if digest != once.digest:
                raise Unprocessable(
                    "Another request was sent with this Idempotency-Key; choose a new one for each request.",
                    reason="idempotency_key_reused",
                )
            stored = connection.execute(
                select(template.c.uid, template.c.created_at)
                .join(subject, subject.c.id == template.c.subject_id)
                .where(template.c.gallery_id == pinned.id, subject.c.name == name, template.c.uid.in_(uids))
            )
            since = {row.uid: row.created_at for row in stored}
        if len(since) < len(uids):
            raise Conflict(
                "What was stored under this Idempotency-Key was erased since; to enroll anew, choose a new key.",
                reason="erased_since",
            )
        return [TemplateInfo(id=uid, created_at=since[uid]) for uid in uids]

    def note(self, connection: Connection, once: Once | None) -> None:
        """Notes within a transaction that it does the request, and forgets those that are too old; None: nothing."""
        if once is None:
            return
        connection.execute(delete(answered).where(answered.c.created_at <= self._oldest()))
        connection.execute(
            insert(answered).values(
                key_id=once.key_id,
                idempotency_key=once.key,
                request_digest=once.digest,
                created_at=datetime.now(UTC),
            )
        )

    def _oldest(self) -> datetime:
        return datetime.now(UTC) - self._kept
