"""API keys of browsers that signed in: in memory, for half a day or until they sign out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from shared.security.credentials import ApiKeyRecord, Scope, authenticate, mint
from shared.security.key_ring import KeyRing

_KEY_SECONDS: Final = 12 * 3600
_LABEL: Final = "browser on this machine"
# Further ones push the oldest out.
_MOST_KEYS: Final = 64


@dataclass(frozen=True, slots=True)
class BrowserKey:
    """A key that was made for a browser.

    Attributes:
        record: what is kept of it.
        expires_at: by the clock of the day.
        ends: the same by the clock of this process, which nobody sets.
    """

    record: ApiKeyRecord
    expires_at: datetime
    ends: float

    @property
    def valid(self) -> bool:
        """Whether its time has not come by either clock."""
        return time.monotonic() < self.ends and datetime.now(UTC) < self.expires_at


class EdgeKeyRing(KeyRing):
    """The edge's API keys: those of its file, and those of browsers that signed in.

    The latter are in this process alone: they end with it. Used on one event loop.

    Args:
        path: the file of digests.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._browsers: dict[str, BrowserKey] = {}

    def check(self, key: str) -> ApiKeyRecord | None:
        """The record of a valid key, else None.

        Raises:
            SetupError: the file is missing, damaged, or readable by others. Browsers are refused then, too.
        """
        record = super().check(key)
        if record is None and self._browsers:
            self._forget_expired()
            record = authenticate(key, [browser.record for browser in self._browsers.values()])
        return record

    def sign_in(self) -> tuple[str, BrowserKey]:
        """Makes a key for a browser, with every scope and for all galleries."""
        self._forget_expired()
        while len(self._browsers) >= _MOST_KEYS:
            del self._browsers[next(iter(self._browsers))]
        key, record = mint(_LABEL, list(Scope))
        made = BrowserKey(record, datetime.now(UTC) + timedelta(seconds=_KEY_SECONDS), time.monotonic() + _KEY_SECONDS)
        self._browsers[record.id] = made
        return key, made

    def sign_out(self, key_id: str) -> bool:
        """Ends the key of a browser; False: the key is none."""
        return self._browsers.pop(key_id, None) is not None

    def expires_at(self, key_id: str) -> datetime | None:
        """When a key ends; None of one that lasts until it is revoked."""
        found = self._browsers.get(key_id)
        return None if found is None else found.expires_at

    def all_records(self) -> list[ApiKeyRecord]:
        """All records: those of the file, revoked ones too, then those of browsers.

        Raises:
            SetupError: the file is missing, damaged, or readable by others.
        """
        self._forget_expired()
        return [*self.records(), *(browser.record for browser in self._browsers.values())]

    def _forget_expired(self) -> None:
        self._browsers = {name: browser for name, browser in self._browsers.items() if browser.valid}
