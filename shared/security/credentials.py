"""API keys: random, shown once, stored as digests, compared in constant time, revocable."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from shared.names import HexDigest
from shared.strict_types import Moment

_KEY = re.compile(r"patronus_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NOBODY = hashlib.sha256(b"no such key").hexdigest()

_ONE_RATE: Final = r"[1-9][0-9]{0,8}/(second|minute|hour|day)"
UNLIMITED: Final = "unlimited"
RATE_PATTERN: Final = rf"^({UNLIMITED}|{_ONE_RATE}(;{_ONE_RATE}){{0,3}})$"
# How often a key may call: `50/second`, several that all hold (`50/second;20000/hour`), or `unlimited`.
Rate = Annotated[str, StringConstraints(pattern=RATE_PATTERN)]


class Scope(StrEnum):
    """What a key may do. A key has one or several; none implies another."""

    # Add pictures or templates, and erase subjects and faces.
    ENROLL = "enroll"
    # Detect, compare, verify and identify.
    MATCH = "match"
    # Create and erase galleries, and list what is in them.
    MANAGE = "manage"


class ApiKeyRecord(BaseModel):
    """What is kept of a key. The key itself is not."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    digest: HexDigest
    label: str = Field(max_length=100)
    scopes: frozenset[Scope]
    galleries: frozenset[str] | None = Field(description="the galleries it is for; null: all")
    created_at: Moment
    revoked_at: Moment | None = None
    rate: Rate | None = Field(None, description="how often it may call, all in all; null: as it is set")

    def may_use(self, gallery: str) -> bool:
        """Whether the key is for this gallery."""
        return self.galleries is None or gallery in self.galleries


def mint(
    label: str, scopes: Iterable[Scope], galleries: Iterable[str] | None = None, rate: str | None = None
) -> tuple[str, ApiKeyRecord]:
    """Makes a key.

    The secret half has 256 random bits, so its plain SHA-256 cannot be searched; no slow hash is needed.

    Returns:
        The key, to be shown once, and the record of it, to be kept.
    """
    key_id = secrets.token_hex(6)
    secret = secrets.token_urlsafe(32)
    record = ApiKeyRecord(
        id=key_id,
        digest=_digest(secret),
        label=label,
        scopes=frozenset(scopes),
        galleries=None if galleries is None else frozenset(galleries),
        created_at=datetime.now(UTC),
        rate=rate,
    )
    return f"patronus_{key_id}_{secret}", record


def authenticate(key: str, records: Iterable[ApiKeyRecord]) -> ApiKeyRecord | None:
    """The record of a key that is known and not revoked, else None.

    A key with an unknown id is compared with a digest too, so that the time taken does not reveal which ids exist.
    """
    parts = _KEY.fullmatch(key)
    if parts is None:
        return None
    found = next((record for record in records if record.id == parts[1]), None)
    right = hmac.compare_digest(_digest(parts[2]), found.digest if found else _NOBODY)
    return found if found and right and found.revoked_at is None else None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("ascii")).hexdigest()
