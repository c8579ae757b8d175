"""Cached contracts and keys of galleries."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ValidationError

from edge_service.cloud_client import CloudClient
from edge_service.protection.keys import GalleryKey, KeyStore, new_epoch
from edge_service.protection.profiles.files import Profile
from edge_service.protection.protect import ProtectionContext
from shared.contract import Contract, EmbedderPin, SealPin, SealScope
from shared.errors import Conflict, ContractMismatch, Unprocessable
from shared.wire.cloud import GallerySpec
from shared.wire.common import GalleryInfo, NewThreshold, Threshold

_OTHER_KEY = (
    "The gallery is under another key than this edge has for it; import the key from the edge that has it (patronus "
    "keys export there, patronus keys import here) or, if it was forgotten here, restore this edge from a backup."
)
# How the parts of a contract are called.
_PARTS = {"dim": "length of embeddings", "embedder": "face embedder", "profile": "protection profile"}


@dataclass(frozen=True, slots=True)
class _CachedGallery:
    context: ProtectionContext
    key: GalleryKey = field(repr=False)
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryContexts:
    """Creates galleries, and caches the protection context of each.

    Attributes:
        cloud: where galleries are.
        keys: keys of this edge.
        profile: how this edge protects.
        embedder: what makes its embeddings.
        dim: length of its embeddings.
        cache_s: seconds for which a gallery's contract is cached.
        cached: what is known of galleries, by name.
    """

    cloud: CloudClient
    keys: KeyStore
    profile: Profile
    embedder: EmbedderPin
    dim: int
    cache_s: float
    cached: dict[str, _CachedGallery] = field(default_factory=dict, repr=False)

    async def create(
        self, gallery: str, threshold: Threshold | None, default: Threshold, *, verify_only: bool | None = None
    ) -> tuple[GalleryInfo, bool]:
        """Creates or finds a gallery under this edge's contract; says whether it is new.

        Args:
            gallery: its name.
            threshold: wanted; None keeps that of an existing gallery, else takes the default.
            default: threshold of a new gallery.
            verify_only: whether each subject gets a seal of its own; None keeps an existing gallery as it is.

        Raises:
            ContractMismatch: it exists under a contract that this edge cannot make templates for.
            Conflict: it exists with another threshold, or with another choice of verify-only.
            Unprocessable: verify-only is wanted, and this edge's profile does not seal.
        """
        if verify_only and not self.profile.seals:
            raise Unprocessable(
                f"The profile {self.profile.pin.name} does not seal, and in a verify-only gallery each subject "
                "has a seal of its own; run the edge with a profile that seals.",
                reason="profile_does_not_seal",
            )
        try:
            info, made = await self._put(gallery, threshold, default, verify_only)
        except ContractMismatch:
            # Another edge may have just created it in an epoch of its own choice; if not, this fails again.
            info, made = await self._put(gallery, threshold, default, verify_only)
        self._cache(gallery, info)
        return info, made

    async def context(self, gallery: str) -> ProtectionContext:
        """The key and contract for templates of a gallery.

        Raises:
            NotFound: there is no such gallery.
            ContractMismatch: it was made under another contract than this edge's.
        """
        cached = self.cached.get(gallery)
        if cached is None or cached.expires_at < time.monotonic():
            return self._cache(gallery, await self.cloud.gallery(gallery))
        return cached.context

    async def renewed(self, gallery: str, refused: ProtectionContext, refusal: ContractMismatch) -> ProtectionContext:
        """The context of a gallery whose contract changed while templates were made.

        Args:
            gallery: its name.
            refused: the context whose templates the cloud refused.
            refusal: the cloud's.

        Raises:
            ContractMismatch: the contract has not changed.
        """
        self.forget(gallery)
        found = await self.context(gallery)
        if found.contract_digest == refused.contract_digest:
            raise refusal
        return found

    async def _put(
        self, gallery: str, threshold: Threshold | None, default: Threshold, verify_only: bool | None
    ) -> tuple[GalleryInfo, bool]:
        found = await self.cloud.find_gallery(gallery)
        if found is not None:
            self._check(gallery, found.contract)
        if found is not None and verify_only not in (None, found.contract.verify_only):
            is_so = "verify-only" if found.contract.verify_only else "not verify-only"
            raise Conflict(
                f"The gallery exists and is {is_so}, which cannot be changed; choose another name, or erase it."
            )
        # An existing gallery keeps its contract: a new epoch would be another contract.
        contract = found.contract if found else self._new_contract(gallery, "subject" if verify_only else "gallery")
        wanted = threshold or (found.threshold if found else default)
        try:
            new = NewThreshold(**wanted.model_dump())
        except ValidationError:  # made by an earlier version, or an embedder's own
            raise Unprocessable(
                "The threshold is not one that galleries are made with: a cosine of 0.0001 to 0.9999, and its rate.",
                reason="bad_threshold",
            ) from None
        return await self.cloud.put_gallery(gallery, GallerySpec(contract=contract, threshold=new))

    def face_id(self, gallery: str, subject: str, kind: Literal["picture", "name", "values"], content: bytes) -> str:
        """The id of a template: equal for the same content and subject of a gallery.

        It follows from the gallery's key, so nobody without the key can test a guess of the content by it.

        Args:
            gallery: its name.
            subject: the person.
            kind: what the content is: an uploaded picture, the sender's name of an embedding, or its values.
            content: the bytes.
        """
        cached = self.cached.get(gallery)
        key = self.keys.gallery(gallery) if cached is None else cached.key
        return key.face_id(subject, kind, content)

    def forget(self, gallery: str) -> None:
        """Drops what is cached of a gallery."""
        self.cached.pop(gallery, None)

    def key_for(self, gallery: str, theirs: Contract) -> GalleryKey:
        """The key that a gallery's contract names.

        Raises:
            ContractMismatch: this edge cannot make templates under this contract.
        """
        self._check(gallery, theirs)
        return self._key(gallery, theirs.seal)

    def _cache(self, gallery: str, info: GalleryInfo) -> ProtectionContext:
        of_gallery = self.key_for(gallery, info.contract)
        key = of_gallery.of(info.contract.seal)  # a profile that does not seal still seeds from the gallery's key
        digest = info.contract.digest()
        one_by_one = info.contract.verify_only
        context = ProtectionContext(None, digest, subjects=key) if one_by_one else ProtectionContext(key, digest)
        self.cached[gallery] = _CachedGallery(context, of_gallery, time.monotonic() + self.cache_s)
        return context

    def _check(self, gallery: str, theirs: Contract) -> None:
        """Compares the whole contract with the one that this edge would make.

        The cloud states epoch, scope and seeds. The key's id follows from them, so a cloud without the key cannot
        make up a contract.
        """
        seal = theirs.seal
        ours = self._new_contract(gallery, "gallery")
        if ours.seal and seal:
            key = self._key(gallery, seal)
            ours = ours.model_copy(update={"seal": key.seal_pin(seal.epoch, seal.scope, seal.seeds)})
        if ours == theirs:
            return
        self.forget(gallery)
        differing = [name for name in type(ours).model_fields if getattr(ours, name) != getattr(theirs, name)]
        if differing == ["seal"] and ours.seal and theirs.seal:
            raise ContractMismatch(_OTHER_KEY, differing=differing)
        parts = " and another ".join(_PARTS.get(name, name) for name in differing)
        raise ContractMismatch(
            f"The gallery was made with another {parts} than this edge uses; run an edge with the same models and "
            "profile, or use another gallery.",
            differing=differing,
        )

    def _key(self, gallery: str, seal: SealPin | None) -> GalleryKey:
        """The gallery key that a seal names, else the newest one."""
        found = None if seal is None else self.keys.named_by(gallery, seal)
        return found or self.keys.gallery(gallery)

    def _new_contract(self, gallery: str, scope: SealScope) -> Contract:
        seal = self.keys.gallery(gallery).seal_pin(new_epoch(), scope) if self.profile.seals else None
        return Contract(dim=self.dim, embedder=self.embedder, profile=self.profile.pin, seal=seal)
