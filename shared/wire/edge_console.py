"""What the edge says of API keys, measured curves and its console; and what it sent to the cloud for one request."""

from __future__ import annotations

from pydantic import Field

from shared.contract import EmbedderPin, ProfilePin
from shared.security.credentials import Scope
from shared.strict_types import Moment
from shared.wire.common import Threshold, Wire
from shared.wire.curves import MeasuredCurve


class ConsoleInfo(Wire):
    """What this edge can show beyond its answers."""

    decoder: bool = Field(description="whether a decoder lies beside the profile, for `POST /v1/rebuild`")
    recording: bool = Field(description="whether requests to the cloud are recorded where a caller asks for it")


class OwnKey(Wire):
    """The API key that a request came with, without its secret."""

    id: str
    label: str = Field(description="what it is for")
    scopes: list[Scope]
    galleries: list[str] | None = Field(description="the galleries it is for; null: all")
    rate: str | None = Field(description="how often it may call, all in all; null: as the edge is set")
    expires_at: Moment | None = Field(description="of a browser's key that a one-time link gave; null: never")


class KnownKey(OwnKey):
    """An API key of the edge, without its secret."""

    created_at: Moment
    revoked_at: Moment | None


class KnownKeys(Wire):
    """All API keys of the edge, revoked ones too."""

    keys: list[KnownKey]


class Curves(Wire):
    """What was measured of a profile, by one rule of comparison."""

    profile: ProfilePin
    embedder: EmbedderPin
    default_threshold: Threshold | None = Field(description="of galleries created without one; null: none is known")
    curves: list[MeasuredCurve] = Field(description="empty where nothing was measured, as of `seal`")
