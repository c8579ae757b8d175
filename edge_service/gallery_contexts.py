"""What this edge knows of galleries: under which contract and key it makes templates for each."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edge_service.cloud_client import CloudClient
from edge_service.protection.keys import GalleryKey, KeyStore, new_epoch
from edge_service.protection.profiles import Profile
from edge_service.protection.protect import ProtectionContext
from shared.contract import Contract, EmbedderPin, SealPin, SealScope
from shared.errors import Conflict, ContractMismatch, NotFound, Unprocessable
from shared.wire.cloud import GallerySpec
from shared.wire.common import GalleryInfo, NewThreshold, Threshold

_MEND_KEY = (
    "import the gallery's key from the edge that made it: patronus keys export, then patronus keys import; "
    "or, if its key was renewed and forgotten here, restore this edge's folder from a backup"
)


@dataclass(frozen=True, slots=True)
class _Known:
    context: ProtectionContext
    key: GalleryKey = field(repr=False)
    until: float


class GalleryContexts:
    """Makes galleries, and knows the protection context of each.

    Args:
        cloud: where galleries are.
        keys: this edge's.
        profile: how this edge protects.
        embedder: what makes its embeddings.
        dim: their length.
        cache_s: how long a gallery's contract is taken as known.
    """

    def __init__(
        self, *, cloud: CloudClient, keys: KeyStore, profile: Profile, embedder: EmbedderPin, dim: int, cache_s: float
    ) -> None:
        self._cloud = cloud
        self._keys = keys
        self._profile = profile
        self._embedder = embedder
        self._dim = dim
        self._cache_s = cache_s
        self._known: dict[str, _Known] = {}

    async def create(
        self, gallery: str, threshold: Threshold | None, default: Threshold, *, verify_only: bool | None = None
    ) -> tuple[GalleryInfo, bool]:
        """Makes a gallery under this edge's contract, or finds it made.

        Args:
            gallery: its name.
            threshold: wanted; None takes the one of a gallery that exists, else the default.
            default: of this edge, for a new gallery.
            verify_only: whether each subject is to have a seal of its own; None takes a gallery that exists as it is.

        Raises:
            ContractMismatch: it exists under a contract that this edge cannot make templates for.
            Conflict: it exists with another threshold than the one wanted, or is verify-only where it is not to be.
            Unprocessable: it is to be verify-only, and this edge's profile does not seal.
        """
        if verify_only and not self._profile.seals:
            raise Unprocessable(
                f"The profile {self._profile.pin.name} does not seal, and in a verify-only gallery each subject "
                "has a seal of its own; run the edge with a profile that seals.",
                reason="profile_does_not_seal",
            )
        try:
            info, made = await self._put(gallery, threshold, default, verify_only)
        except ContractMismatch:
            # Perhaps another edge made it a moment ago, in an epoch of its own choice; if not, this fails again.
            info, made = await self._put(gallery, threshold, default, verify_only)
        self._remember(gallery, info)
        return info, made

    async def context(self, gallery: str) -> ProtectionContext:
        """Under what to protect templates for a gallery.

        Raises:
            NotFound: there is no such gallery.
            ContractMismatch: it was made under another contract than this edge's.
        """
        known = self._known.get(gallery)
        if known is None or known.until < time.monotonic():
            return self._remember(gallery, await self._cloud.gallery(gallery))
        return known.context

    async def _put(
        self, gallery: str, threshold: Threshold | None, default: Threshold, verify_only: bool | None
    ) -> tuple[GalleryInfo, bool]:
        found = await self._found(gallery)
        if found is not None and verify_only not in (None, found.contract.verify_only):
            is_so = "verify-only" if found.contract.verify_only else "not verify-only"
            raise Conflict(
                f"The gallery exists and is {is_so}, which cannot be changed; choose another name, or erase it."
            )
        # As it was made, if it was: a new epoch would be another contract.
        contract = found.contract if found else self._new_contract(gallery, "subject" if verify_only else "gallery")
        wanted = threshold or (found.threshold if found else default)
        try:
            new = NewThreshold(**wanted.model_dump())
        except ValidationError:  # made by an earlier version, or an embedder's own
            raise Unprocessable(
                "The threshold is not one that galleries are made with: a cosine of 0.0001 to 0.9999, and its rate.",
                reason="bad_threshold",
            ) from None
        return await self._cloud.put_gallery(gallery, GallerySpec(contract=contract, threshold=new))

    async def _found(self, gallery: str) -> GalleryInfo | None:
        """A gallery that exists and is this edge's to use; None if there is none yet."""
        try:
            found = await self._cloud.gallery(gallery)
        except NotFound:
            return None
        self._check(gallery, found.contract)
        return found

    def face_id(self, gallery: str, subject: str, name: str | None, unit: NDArray[np.float32]) -> str:
        """The id of a template whose embedding came from elsewhere: the same again gives the same.

        Args:
            gallery: under whose key.
            subject: whose.
            name: that the sender has for it; None: it goes by the embedding itself.
            unit: (d,) float32, the embedding.
        """
        content = name.encode() if name is not None else np.ascontiguousarray(unit, dtype="<f4").tobytes()
        known = self._known.get(gallery)
        key = self._keys.gallery(gallery) if known is None else known.key
        return key.face_id(subject, b"name" if name is not None else b"values", content)

    def forget(self, gallery: str) -> None:
        """Asks the cloud again next time."""
        self._known.pop(gallery, None)

    def checked(self, gallery: str, theirs: Contract) -> GalleryKey:
        """The key that a gallery's contract names.

        Raises:
            ContractMismatch: it is not a contract that this edge makes templates for.
        """
        self._check(gallery, theirs)
        return self._key(gallery, theirs.seal)

    def _remember(self, gallery: str, info: GalleryInfo) -> ProtectionContext:
        of_gallery = self.checked(gallery, info.contract)
        key = of_gallery.of(info.contract.seal)  # a profile that does not seal still seeds from the gallery's key
        digest = info.contract.digest()
        one_by_one = info.contract.verify_only
        context = ProtectionContext(None, digest, subjects=key) if one_by_one else ProtectionContext(key, digest)
        self._known[gallery] = _Known(context, of_gallery, time.monotonic() + self._cache_s)
        return context

    def _check(self, gallery: str, theirs: Contract) -> None:
        """Compares the whole contract with the one that this edge would make: the cloud is not believed in parts.

        Epoch, scope and seeds are the cloud's word, but the key's id follows from them: it can name only what an edge
        with the key made.
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
            mend = _MEND_KEY
        else:
            mend = "run an edge with the same models and profile, or use another gallery"
        raise ContractMismatch(
            f"The gallery was made under another contract than this edge's (in: {', '.join(differing)}); {mend}.",
            differing=differing,
        )

    def _key(self, gallery: str, seal: SealPin | None) -> GalleryKey:
        """The key that a seal names, else the newest."""
        found = None if seal is None else self._keys.named_by(gallery, seal)
        return found or self._keys.gallery(gallery)

    def _new_contract(self, gallery: str, scope: SealScope) -> Contract:
        seal = self._keys.gallery(gallery).seal_pin(new_epoch(), scope) if self._profile.seals else None
        return Contract(dim=self._dim, embedder=self._embedder, profile=self._profile.pin, seal=seal)
