"""The file with the records of a service's API keys, and the key of its first start."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.errors import Conflict, NotFound, PatronusError, SetupError
from shared.security.credentials import ApiKeyRecord, Scope, authenticate, mint
from shared.security.secret_files import locked, read_secret, remove_leftovers, write_secret
from shared.strict_types import JsonInteger


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: JsonInteger = 1
    keys: list[ApiKeyRecord]


class KeyRing:
    """The API keys of one service, in a private file that may change under a running service.

    Args:
        path: the file of digests, such as ``PATRONUS_HOME/edge/api_keys.json``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._records: list[ApiKeyRecord] = []
        self._valid: dict[bytes, ApiKeyRecord] = {}

    def check(self, key: str) -> ApiKeyRecord | None:
        """The record of a valid key, else None.

        Reads the file again when it has changed, so a revocation holds immediately.

        Raises:
            SetupError: the file is missing, damaged, or readable by others.
        """
        self._refresh()
        # By a digest of the whole key: finding a known key at once reveals no more than the answer does.
        digest = hashlib.blake2b(key.encode()).digest()
        record = self._valid.get(digest)
        if record is None:
            record = authenticate(key, self._records)
            if record is not None:
                self._valid[digest] = record
        return record

    def records(self) -> list[ApiKeyRecord]:
        """All records, revoked ones too.

        Raises:
            SetupError: the file is missing, damaged, or readable by others.
        """
        self._refresh()
        return list(self._records)

    def readable(self) -> bool:
        """Whether the file can be read now."""
        try:
            self._refresh()
        except SetupError:
            return False
        return True

    def ensure_first_key(self, shown_in: Path, label: str = "made at the first start") -> bool:
        """Makes the first key, with every scope, if there is none, and writes it to a private file.

        Also removes what a writer of either file left that was killed: services call this at each start.

        Returns:
            Whether a key was made.

        Raises:
            SetupError: the folder cannot be written.
        """
        with locked(self.path):
            remove_leftovers(self.path, shown_in)
            if self.path.exists():
                return False
            key, record = mint(label, list(Scope))
            # The key before its digest: a crash between the two leaves a useless key, never a locked-out owner.
            write_secret(shown_in, f"{key}\n".encode("ascii"), replace=True)
            self._write([record])
        return True

    def add(
        self,
        label: str,
        scopes: list[Scope],
        galleries: list[str] | None,
        rate: str | None = None,
        *,
        shown_in: Path | None = None,
    ) -> tuple[str, ApiKeyRecord]:
        """Makes a further key; returns it, to be shown once, and its record.

        Args:
            label: what it is for.
            scopes: what it may do.
            galleries: that it is for; None: all.
            rate: how often it may call; None: as it is set.
            shown_in: a new private file that gets the key.

        Raises:
            Conflict: an id was drawn that exists already.
            FileExistsError: the file to show it in is there.
            SetupError: a file cannot be written; no key was made.
        """
        key, record = mint(label, scopes, galleries, rate)

        def with_it(records: list[ApiKeyRecord]) -> list[ApiKeyRecord]:
            if any(known.id == record.id for known in records):
                raise Conflict("A key with this id exists already; try again.")
            return [*records, record]

        if shown_in is not None:
            # The key before its digest: a crash between the two leaves a file of no use, never a key that nobody has.
            write_secret(shown_in, f"{key}\n".encode("ascii"), replace=False)
        try:
            self._change(with_it)
        except PatronusError:
            if shown_in is not None:
                shown_in.unlink(missing_ok=True)
            raise
        return key, record

    def withdraw(self, key_id: str) -> None:
        """Takes back a key that was made a moment ago and could not be shown to anybody.

        Raises:
            SetupError: the file cannot be written.
        """
        self._change(lambda records: [record for record in records if record.id != key_id])

    def revoke(self, key_id: str) -> None:
        """Revokes a key, at once and for good.

        Raises:
            NotFound: there is no such key.
        """

        def without_it(records: list[ApiKeyRecord]) -> list[ApiKeyRecord]:
            if not any(record.id == key_id for record in records):
                raise NotFound("There is no API key with this id.")
            now = datetime.now(UTC)
            return [
                record.model_copy(update={"revoked_at": record.revoked_at or now}) if record.id == key_id else record
                for record in records
            ]

        self._change(without_it)

    def _change(self, change: Callable[[list[ApiKeyRecord]], list[ApiKeyRecord]]) -> None:
        with locked(self.path):
            remove_leftovers(self.path)
            self._refresh()
            self._write(change(self._records))

    def _write(self, records: list[ApiKeyRecord]) -> None:
        write_secret(self.path, _File(keys=records).model_dump_json(indent=1).encode(), replace=True)

    def _refresh(self) -> None:
        try:
            status = os.stat(self.path)  # noqa: PTH116 - a hot path: one system call a request
            # The change time also moves when somebody makes the file readable for others.
            seen = (status.st_ctime_ns, status.st_ino, status.st_size)
            if seen == self._seen:
                return
            text = read_secret(self.path)
            records = _File.model_validate_json(text).keys
            # Pydantic takes the last of two members with one name, by which a revoked key could seem valid.
            json.loads(text, object_pairs_hook=_members_once)
            self._records = records
            self._valid = {}
            self._seen = seen
        except FileNotFoundError:
            raise SetupError(
                f"The file of API keys {self.path} is missing; start the service once to make it."
            ) from None
        except ValidationError:
            raise SetupError(f"The file of API keys {self.path} is damaged; remove it to make new keys.") from None
        except ValueError:  # of `_members_once`
            raise SetupError(
                f"The file of API keys {self.path} holds a member twice; remove the wrong one of the two."
            ) from None


def _members_once(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("an object of the file names a member twice")
