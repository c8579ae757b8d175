"""The contract: what two templates must share so that a score between them has a meaning."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import Field

from shared.names import HexDigest
from shared.strict_types import JsonInteger, One, StrictModel

MAX_DIM = 4096
SealScope = Literal["gallery", "subject"]
Epoch = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class EmbedderPin(StrictModel):
    """The network that made the embedding, by the digest of the file that ran."""

    name: str = Field(min_length=1, max_length=64)
    sha256: HexDigest
    preprocessing: str = Field(min_length=1, max_length=64, description="alignment template, size, channels and range")


class ProfilePin(StrictModel):
    """The protection profile, by the digest over all of its files.

    The erase basis and the perturbation network are among them.
    """

    name: str = Field(min_length=1, max_length=64)
    version: JsonInteger = Field(ge=1)
    sha256: HexDigest


class SealPin(StrictModel):
    """Names the secret key that sealed the templates, and reveals nothing about it."""

    key_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] = Field(
        description="one-way fingerprint of the key; equal at all edges that have the key"
    )
    epoch: Epoch = Field(description="name of this key of the gallery; every change of the key starts a new epoch")
    scope: SealScope = Field(
        default="gallery",
        description="what one seal is for: the whole gallery, or each subject (verify-only: templates of two subjects "
        "cannot be compared, and nobody can be identified)",
    )
    seeds: Epoch | None = Field(
        default=None,
        exclude_if=lambda seeds: seeds is None,
        description="epoch whose key seeds the perturbation, where it is an earlier one: a change of key keeps it, and "
        "with it all scores; absent: `epoch`",
    )


class Contract(StrictModel):
    """Everything that decides whether two templates may be compared.

    A gallery is pinned to one contract. A template with another contract is refused, never compared.
    """

    version: One = 1
    dim: JsonInteger = Field(ge=2, le=MAX_DIM)
    metric: Literal["cosine"] = "cosine"
    embedder: EmbedderPin
    profile: ProfilePin
    seal: SealPin | None = Field(description="null where the profile does not seal")

    @property
    def verify_only(self) -> bool:
        """Whether a template can be compared with one subject at a time only, not a whole gallery."""
        return self.seal is not None and self.seal.scope == "subject"

    def digest(self) -> str:
        """SHA-256 over the contract as canonical JSON, as 64 hexadecimal digits.

        Canonical: with sorted keys and no white space. The seal's scope is left out where it is the gallery, and its
        seeds where they are the epoch's own.
        """
        plain = self.model_dump(mode="json")
        seal = plain["seal"]
        if seal is not None and seal["scope"] == "gallery":
            del seal["scope"]  # as contracts were before there was a choice
        canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()
