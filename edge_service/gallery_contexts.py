"""Cached contracts and keys of galleries, and how their subjects are called at the cloud."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError

from edge_service.cloud.client import CloudClient
from edge_service.gallery_names import OTHER_KEY, GalleryNames, names_of
from edge_service.protection.keys import GalleryKey, KeyStore
from edge_service.protection.names import new_epoch
from edge_service.protection.profiles.files import Profile
from edge_service.protection.profiles.purpose import choose_threshold
from edge_service.protection.protect import ProtectionContext, Protector
from edge_service.protection.served_profiles import ServedProfiles
from shared.contract import Contract, SealPin, SealScope
from shared.errors import Conflict, ContractMismatch, Unprocessable
from shared.wire.cloud import ChangeScore, ChangeThreshold, GallerySpec
from shared.wire.common import BEST, GalleryInfo, NewThreshold, ScoreRule, SubjectScore, Threshold
from shared.wire.edge import CreateGallery
from shared.wire.thresholds import ThresholdChoice, ThresholdFor

T = TypeVar("T")
# How the parts of a contract are called.
_PARTS = {"dim": "length of embeddings", "embedder": "face embedder", "profile": "protection profile"}


@dataclass(frozen=True, slots=True)
class GalleryContext:
    """What makes a gallery's templates, and what its answers are read by.

    Attributes:
        names: how its subjects are called at the cloud.
        protection: key and contract.
        protector: of the profile that the contract names.
        threshold: of the gallery, and its false match rate as stated with it.
        score: how a subject of several templates is compared.
    """

    names: GalleryNames
    protection: ProtectionContext
    protector: Protector
    threshold: Threshold
    score: SubjectScore


@dataclass(frozen=True, slots=True)
class ChangedGallery:
    """A gallery that was created, found or changed.

    Attributes:
        info: as it is now.
        choice: how its threshold was chosen, if it was wanted for a purpose.
        made: whether it is new.
    """

    info: GalleryInfo
    choice: ThresholdChoice | None
    made: bool = False


@dataclass(frozen=True, slots=True)
class _CachedGallery:
    context: GalleryContext
    key: GalleryKey = field(repr=False)
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryContexts:
    """Creates galleries, and caches the context of each.

    A new gallery is under the edge's own profile. An existing one stays under the profile that its contract names.

    Attributes:
        cloud: where galleries are.
        keys: keys of this edge.
        profiles: how this edge protects, and for which embedder.
        cache_s: seconds for which a gallery's contract is cached.
        cached: what is known of galleries, by name.
    """

    cloud: CloudClient
    keys: KeyStore
    profiles: ServedProfiles
    cache_s: float
    cached: dict[str, _CachedGallery] = field(default_factory=dict, repr=False)

    async def create(self, gallery: str, wanted: CreateGallery) -> ChangedGallery:
        """Creates or finds a gallery that this edge can make templates for.

        Args:
            gallery: its name.
            wanted: its properties. What is absent keeps that of an existing gallery; a new one gets the default.

        Raises:
            ContractMismatch: it exists under a contract that this edge cannot make templates for.
            Conflict: it exists with another threshold, rule, or choice of verify-only.
            Unprocessable: a new gallery is to be verify-only, and this edge's profile does not seal; or no threshold
                can be chosen for the purpose.
        """
        try:
            done = await self._put(gallery, wanted)
        except Conflict:
            # Another edge may have just created it in an epoch of its own choice, or changed its threshold; if not,
            # this fails again.
            done = await self._put(gallery, wanted)
        _refuse_other_rule(wanted.score_rule, done.info)  # another edge may have just created it
        await self._cache(gallery, done.info)
        return done

    async def change_score_rule(self, gallery: str, rule: ScoreRule) -> GalleryInfo:
        """Changes how a subject of several templates is compared: by the exponents of the gallery's profile.

        Raises:
            NotFound: there is no such gallery.
            ContractMismatch: this edge cannot make templates under its contract.
        """
        protector = await self._checked(gallery, (await self.cloud.gallery(gallery)).contract)
        info = await self.cloud.change_gallery(gallery, ChangeScore(score=self._score(protector, rule)))
        await self._cache(gallery, info)
        return info

    async def change_threshold(self, gallery: str, wanted: NewThreshold | ThresholdFor) -> ChangedGallery:
        """Changes a gallery's threshold, to a cosine or to what the curves of its profile say for a purpose.

        Raises:
            NotFound: there is no such gallery.
            ContractMismatch: this edge cannot make templates under its contract.
            Conflict: it compares subjects otherwise than was measured.
            Unprocessable: no threshold can be chosen for the purpose.
        """
        found = await self.cloud.gallery(gallery)
        protector = await self._checked(gallery, found.contract)
        threshold, choice = self._threshold(wanted, protector, found.score)
        info = await self.cloud.change_gallery(gallery, ChangeThreshold(threshold=threshold))
        await self._cache(gallery, info)
        return ChangedGallery(info, choice)

    async def context(self, gallery: str) -> GalleryContext:
        """What makes templates of a gallery.

        Raises:
            NotFound: there is no such gallery.
            ContractMismatch: it was made under a contract that this edge cannot make templates for.
        """
        cached = self.cached.get(gallery)
        if cached is None or cached.expires_at < time.monotonic():
            return await self._cache(gallery, await self.cloud.gallery(gallery))
        return cached.context

    def last_known(self, gallery: str) -> GalleryContext | None:
        """The context of a gallery as this edge saw it last, perhaps outdated; None: it is not cached."""
        cached = self.cached.get(gallery)
        return None if cached is None else cached.context

    async def renewed(self, gallery: str, refused: GalleryContext, refusal: ContractMismatch) -> GalleryContext:
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
        if found.protection.contract_digest == refused.protection.contract_digest:
            raise refusal
        return found

    async def names(self, gallery: str) -> GalleryNames:
        """How a gallery's subjects are called at the cloud.

        The gallery may be under another profile or embedder than this edge's: names follow from its key alone.

        Raises:
            NotFound: there is no such gallery.
            ContractMismatch: its names are sealed under a key that is not here.
        """
        cached = self.cached.get(gallery)
        if cached is not None and cached.expires_at >= time.monotonic():
            return cached.context.names
        info = await self.cloud.gallery(gallery)
        try:
            return (await self._cache(gallery, info)).names
        except ContractMismatch:
            return names_of(gallery, info, self.keys)

    async def with_contract(self, gallery: str, contract_digest: str) -> GalleryNames:
        """How a gallery's subjects are called at the cloud under one contract, the present one.

        Raises:
            NotFound: there is no such gallery.
            ContractMismatch: the gallery has another contract by now, or names are sealed under a key that is not here.
        """
        names = await self.names(gallery)
        if names.contract_digest != contract_digest:
            self.forget(gallery)
            names = await self.names(gallery)
        if names.contract_digest != contract_digest:
            raise ContractMismatch("The gallery's key was changed meanwhile; send the same again.")
        return names

    async def with_names(self, gallery: str, call: Callable[[GalleryNames], Awaitable[T]]) -> T:
        """Calls the cloud with names of subjects; once more where the gallery's key was changed meanwhile.

        Raises:
            NotFound: there is no such gallery.
            ContractMismatch: its names are sealed under a key that is not here.
        """
        names = await self.names(gallery)
        try:
            return await call(names)
        except ContractMismatch as refusal:
            self.forget(gallery)
            renewed = await self.names(gallery)
            if renewed.contract_digest == names.contract_digest:
                raise refusal from None
        return await call(renewed)

    async def _put(self, gallery: str, wanted: CreateGallery) -> ChangedGallery:
        found = await self.cloud.find_gallery(gallery)
        if found is None:
            default = self.profiles.default
            if wanted.verify_only and not default.profile.seals:
                raise Unprocessable(
                    f"The profile {default.profile.pin.name} does not seal, and in a verify-only gallery each subject "
                    "has a seal of its own; run the edge with a profile that seals.",
                    reason="profile_does_not_seal",
                )
            contract = self._new_contract(gallery, default.profile, "subject" if wanted.verify_only else "gallery")
            score = self._score(default, wanted.score_rule or "mean")
            of_none = wanted.threshold or self.profiles.needed_threshold(default.profile).threshold
            threshold, choice = self._threshold(of_none, default, score)
        else:
            protector = await self._checked(gallery, found.contract)
            if wanted.verify_only not in (None, found.contract.verify_only):
                is_so = "verify-only" if found.contract.verify_only else "not verify-only"
                raise Conflict(
                    f"The gallery exists and is {is_so}, which cannot be changed; choose another name, or erase it."
                )
            _refuse_other_rule(wanted.score_rule, found)
            # An existing gallery keeps its contract: a new epoch would be another contract.
            contract, score = found.contract, found.score
            threshold, choice = self._threshold(wanted.threshold or found.threshold, protector, score)
        spec = GallerySpec(contract=contract, threshold=threshold, score=score, sealed_names=True)
        info, made = await self.cloud.put_gallery(gallery, spec)
        return ChangedGallery(info, choice, made)

    def _threshold(
        self, wanted: Threshold | ThresholdFor, protector: Protector, score: SubjectScore
    ) -> tuple[NewThreshold, ThresholdChoice | None]:
        """What to send as a gallery's threshold, and how it was chosen if it was wanted for a purpose."""
        if isinstance(wanted, ThresholdFor):
            profile = protector.profile
            if score.rule != "mean" or not self.profiles.score_calibration(profile).covers(score):
                raise Conflict(
                    "A threshold is chosen for a purpose where subjects are compared by the rule mean, with the "
                    "profile's exponents; first: patronus gallery score GALLERY mean",
                    reason="other_score",
                )
            return choose_threshold(profile.document, self.profiles.needed_threshold(profile).threshold.cosine, wanted)
        try:
            return NewThreshold(**wanted.model_dump()), None
        except ValidationError:  # made by an earlier version, or an embedder's own
            raise Unprocessable(
                "The threshold is not one that galleries are made with: a cosine of 0.0001 to 0.9999, and its rate.",
                reason="bad_threshold",
            ) from None

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

    async def key_for(self, gallery: str, theirs: Contract) -> GalleryKey:
        """The key that a gallery's contract names.

        Raises:
            ContractMismatch: this edge cannot make templates under this contract.
        """
        await self._checked(gallery, theirs)
        return self._key(gallery, theirs.seal)

    async def _cache(self, gallery: str, info: GalleryInfo) -> GalleryContext:
        protector = await self._checked(gallery, info.contract)
        of_gallery = self._key(gallery, info.contract.seal)
        key = of_gallery.of(info.contract.seal)  # a profile that does not seal still seeds from the gallery's key
        digest, profile = info.contract.digest(), protector.profile.pin
        protection = (
            ProtectionContext(None, digest, profile, subjects=key)
            if info.contract.verify_only
            else ProtectionContext(key, digest, profile)
        )
        context = GalleryContext(names_of(gallery, info, self.keys), protection, protector, info.threshold, info.score)
        self.cached[gallery] = _CachedGallery(context, of_gallery, time.monotonic() + self.cache_s)
        return context

    async def _checked(self, gallery: str, theirs: Contract) -> Protector:
        """The protector for a contract, after the whole contract was compared with the one that this edge would make.

        The cloud states profile, epoch, scope and seeds. The profile must be one that the edge serves. The key's id
        follows from the rest, so a cloud without the key cannot make up a contract.

        Raises:
            ContractMismatch: they differ, or the edge does not serve the profile.
        """
        try:
            protector = await self._protector_for(theirs)
            self._compare(gallery, protector.profile, theirs)
        except ContractMismatch:
            self.forget(gallery)
            raise
        return protector

    async def _protector_for(self, theirs: Contract) -> Protector:
        found = self.profiles.loaded(theirs.profile)
        if found is not None:
            return found
        if (theirs.embedder, theirs.dim) != (self.profiles.pin, self.profiles.spec.dim):
            return self.profiles.default  # whatever its profile, the contract differs
        return await run_in_threadpool(self.profiles.load, theirs.profile)

    def _compare(self, gallery: str, profile: Profile, theirs: Contract) -> None:
        seal = theirs.seal
        ours = self._new_contract(gallery, profile, "gallery")
        if ours.seal and seal:
            key = self._key(gallery, seal)
            ours = ours.model_copy(update={"seal": key.seal_pin(seal.epoch, seal.scope, seal.seeds)})
        if ours == theirs:
            return
        differing = [name for name in type(ours).model_fields if getattr(ours, name) != getattr(theirs, name)]
        if differing == ["seal"] and ours.seal and theirs.seal:
            raise ContractMismatch(OTHER_KEY, differing=differing)
        parts = " and another ".join(_PARTS.get(name, name) for name in differing)
        raise ContractMismatch(
            f"The gallery was made with another {parts} than this edge uses; run an edge with the same models and "
            "profile, or use another gallery.",
            differing=differing,
        )

    def _score(self, protector: Protector, rule: ScoreRule) -> SubjectScore:
        return BEST if rule == "best" else self.profiles.score_calibration(protector.profile).subject_score()

    def _key(self, gallery: str, seal: SealPin | None) -> GalleryKey:
        """The gallery key that a seal names, else the newest one."""
        found = None if seal is None else self.keys.named_by(gallery, seal)
        return found or self.keys.gallery(gallery)

    def _new_contract(self, gallery: str, profile: Profile, scope: SealScope) -> Contract:
        key = self.keys.gallery(gallery)
        seal = key.seal_pin(new_epoch(key), scope) if profile.seals else None
        return Contract(dim=self.profiles.spec.dim, embedder=self.profiles.pin, profile=profile.pin, seal=seal)


def _refuse_other_rule(wanted: ScoreRule | None, found: GalleryInfo) -> None:
    if wanted not in (None, found.score.rule):
        raise Conflict(
            f"The gallery exists and compares subjects by the rule {found.score.rule}; change it with patronus gallery "
            "score, or PATCH its path."
        )
