"""What the edge says of API keys, measured curves and its console; and what it sent to the cloud for one request."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, StringConstraints

from shared.contract import EmbedderPin, ProfilePin
from shared.names import HexDigest
from shared.security.credentials import Scope
from shared.strict_types import Moment
from shared.wire.common import Threshold, Wire
from shared.wire.curves import MeasuredCurve

# A request that carries it with the value `1` is recorded: what the edge sends to the cloud for it.
RECORD_HEADER: Final = "X-Patronus-Record"
REQUEST_ID_PATTERN: Final = "^[A-Za-z0-9._-]{1,64}$"
RequestId = Annotated[str, StringConstraints(pattern=REQUEST_ID_PATTERN)]


class RebuiltRates(Wire):
    """Shares, 0 to 1, of rebuilt faces that the profile's matcher accepts; a decoder that the training never saw."""

    people: int = Field(description="how many faces were attacked, one a person")
    unprotected_same: float = Field(description="from unprotected embeddings, against the same photo (type I)")
    unprotected_other: float = Field(description="the same, against another photo of the person (type II)")
    protected_same: float = Field(description="from templates before their seal, type I")
    protected_other: float = Field(description="from templates before their seal, type II")


class ConsoleInfo(Wire):
    """What this edge can show beyond its answers."""

    decoder: bool = Field(description="whether a decoder lies beside the profile, for `POST /v1/rebuild`")
    recording: bool = Field(description="whether requests to the cloud are recorded where a caller asks for it")
    rebuilt: RebuiltRates | None = Field(
        default=None, description="what was measured of faces rebuilt under the profile; null: nothing"
    )


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


class SentTemplate(Wire):
    """A protected template in a request to the cloud."""

    dim: int
    bytes: int = Field(description="of its values as they were sent, before base64")
    sha256: HexDigest = Field(description="of these bytes")
    values: list[float] | None = Field(description="null: the API key lacks the scope manage")


class DecodedRequest(Wire):
    """What a request to the cloud says."""

    gallery: str | None
    subject: str | None = Field(description="the name that the edge sealed; null: there is none")
    sealed_subject: str | None = Field(description="the same as it was sent")
    contract: str | None = Field(description="digest of the contract that it was made under")
    templates: list[SentTemplate]


class SentHeader(Wire):
    """A header of a request to the cloud."""

    name: str
    value: str


class SentToCloud(Wire):
    """One request to the cloud, as it left the edge.

    On the line it is ``METHOD TARGET HTTP/1.1``, the headers in their order, an empty line, and the body.
    """

    sent_at: Moment
    method: str
    target: str = Field(description="path and query")
    headers: list[SentHeader] = Field(description="in their order; the value of `Authorization` is left out")
    body: str | None = Field(description="null: there is none")
    body_bytes: int = Field(description="as it was sent")
    withheld: bool = Field(description="whether templates are replaced by their length and digest")
    answered: int | None = Field(description="status of the answer; null: none came")
    decoded: DecodedRequest


class Sent(Wire):
    """All that the edge sent to the cloud for one request; nothing else of that request left it."""

    request_id: RequestId
    kept_until: Moment
    requests: list[SentToCloud] = Field(description="in the order of their sending; empty: nothing was sent")


class Rebuilt(Wire):
    """A face, and what a decoder rebuilds of it: PNG pictures as data URIs."""

    width: int = Field(description="of the rebuilt pictures, in pixels")
    height: int
    original: str = Field(description="the aligned face of the picture")
    unprotected: str = Field(description="rebuilt from the embedding")
    template_with_key: str = Field(description="rebuilt from the template by somebody who has the gallery's key")
    template_without_key: str = Field(description="rebuilt from the template as the cloud has it")
