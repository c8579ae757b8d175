"""The profiles that an edge serves galleries under: its own for new galleries, and others for existing ones."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_service.protection.profiles.document import NAME_PATTERN
from edge_service.protection.profiles.files import DefaultThreshold, Profile, load_profile
from edge_service.protection.profiles.score import ScoreCalibration
from edge_service.protection.protect import Protected, Protector
from shared.contract import EmbedderPin, ProfilePin
from shared.errors import ContractMismatch, SetupError, Unprocessable
from shared.logs import get_logger
from shared.wire.common import Threshold

if TYPE_CHECKING:  # `patronus protect` runs without what reads pictures
    from edge_service.vision.embed import EmbedderSpec

_log = get_logger(__name__)
_DIGITS_SHOWN: Final = 12


class ServedProfiles:
    """Protectors of the edge's profile and of others that galleries are under, loaded on first need and kept.

    The cloud states which profile a gallery is under. A profile that does less than the edge's own (fewer of erase,
    perturb and seal) is refused unless the operator names it, so that no cloud can make the edge protect less.

    Args:
        name: of the edge's own profile, for new galleries and for templates of no gallery.
        pin: the embedder that runs.
        spec: its properties.
        own: the operator's folder of profiles.
        weaker: names of profiles that do less and are served all the same.
        on_protected: is called with each result, to count it.
        threshold: where a caller names none, in place of the profiles' and the embedder's.

    Raises:
        SetupError: the edge's own profile is missing, damaged, or for another embedder, or one in ``weaker`` is
            missing.
    """

    def __init__(
        self,
        name: str,
        pin: EmbedderPin,
        spec: EmbedderSpec,
        own: Path | None = None,
        weaker: Collection[str] = (),
        on_protected: Callable[[Protected], None] | None = None,
        threshold: Threshold | None = None,
    ) -> None:
        self.pin = pin
        self.spec = spec
        self._own = own
        self._weaker = frozenset(weaker)
        self._on_protected = on_protected
        self._threshold = threshold
        for allowed in sorted(self._weaker):
            load_profile(allowed, own=own)  # a name that is misspelled stops the start
        self.default = self._protector(load_profile(name, pin, spec.dim, own))
        if not self.default.profile.seals:
            warn_unsealed(self.default.profile.pin)
        self._loaded = {self.default.profile.pin: self.default}
        self._loading = threading.Lock()

    def loaded(self, profile: ProfilePin) -> Protector | None:
        """The protector of a profile that was loaded before."""
        return self._loaded.get(profile)

    def load(self, profile: ProfilePin) -> Protector:
        """The protector of the profile that a gallery's contract names; reads its files at the first need.

        Raises:
            ContractMismatch: it is not here with these files, is not for this embedder, or does less than the edge's.
        """
        with self._loading:
            if profile not in self._loaded:
                self._loaded[profile] = self._find(profile)
                _log.info("profile_loaded", profile=profile.name)
                if not self._loaded[profile].profile.seals:
                    warn_unsealed(profile)
            return self._loaded[profile]

    def default_threshold(self, profile: Profile) -> DefaultThreshold | None:
        """The threshold of a new gallery under this profile, or of a comparison, where a caller names none.

        None: an embedder of the operator's own, under a profile without a threshold, and no setting.
        """
        return profile.default_threshold(self.spec.threshold, self._threshold)

    def measured_threshold(self, profile: Profile) -> DefaultThreshold | None:
        """The threshold of a profile or embedder whose false match rate was measured, whatever the operator set."""
        return profile.default_threshold(self.spec.threshold)

    def needed_threshold(self, profile: Profile) -> DefaultThreshold:
        """As ``default_threshold``, where a decision needs one.

        Raises:
            Unprocessable: there is none.
        """
        found = self.default_threshold(profile)
        if found is None:
            raise Unprocessable(
                f"Neither the profile {profile.pin.name!r} nor the embedder {self.pin.name!r} has a threshold; name "
                "one with the gallery (--threshold and --fmr), or set PATRONUS_EDGE__THRESHOLD__COSINE and "
                "PATRONUS_EDGE__THRESHOLD__FMR at the edge.",
                reason="no_threshold",
            )
        return found

    def score_calibration(self, profile: Profile) -> ScoreCalibration:
        """How subjects of a gallery under this profile are compared, where they have several templates."""
        return profile.score_calibration(self.spec.score)

    def _find(self, wanted: ProfilePin) -> Protector:
        found = served_profile(wanted, self.default.profile, self._own, self._weaker, self.pin, self.spec.dim)
        try:
            return self._protector(found)
        except SetupError as error:
            _log.error("profile_not_loaded", profile=found.pin.name, why=error.detail)
            raise ContractMismatch(
                f"The gallery was made with the protection profile {found.pin.name!r}, whose network does not run on "
                "this edge; run an edge of the version that made it, or use another gallery.",
                differing=["profile"],
            ) from None

    def _protector(self, profile: Profile) -> Protector:
        return Protector(profile, self._on_protected)


def warn_unsealed(profile: ProfilePin) -> None:
    """Logs that templates of this profile are sent without a seal."""
    _log.warning("profile_does_not_seal", profile=profile.name, sends="templates that are nearly embeddings")


def served_profile(
    wanted: ProfilePin,
    default: Profile,
    own: Path | None,
    weaker: Collection[str],
    embedder: EmbedderPin | None = None,
    dim: int | None = None,
) -> Profile:
    """The profile that a gallery's contract names, if this edge serves it.

    Args:
        wanted: as the contract names it.
        default: the edge's own profile.
        own: the operator's folder of profiles.
        weaker: names of profiles that may do less than the edge's own.
        embedder: that it must be for; None: embeddings come from elsewhere.
        dim: that it must be for; None: checked later.

    Raises:
        ContractMismatch: it is not here with these files, is not for this embedder, or does less than the edge's own.
    """
    if wanted == default.pin:
        return default
    found, why = None, "its files are not those that the gallery was made with"
    try:
        found = load_profile(wanted.name, embedder, dim, own)
    except SetupError as error:
        why = error.detail
    if found is None or found.pin != wanted:
        named = f"{wanted.name!r} " if re.fullmatch(NAME_PATTERN, wanted.name) else "one "
        _log.warning("profile_not_served", digest=wanted.sha256, why=why)
        raise ContractMismatch(
            f"The gallery was made with another protection profile than this edge has: {named}of digest "
            f"{wanted.sha256[:_DIGITS_SHOWN]}…. Put its folder where PATRONUS_EDGE__PROFILES says, run an edge that "
            "has it, or use another gallery.",
            differing=["profile"],
        )
    missing = [layer for layer in default.document.layers if layer not in found.document.layers]
    if missing and found.pin.name not in weaker:
        raise ContractMismatch(
            f"The gallery was made with another protection profile than this edge's {default.pin.name!r}: "
            f"{found.pin.name!r}, which does not {' or '.join(missing)}. Name it in PATRONUS_EDGE__WEAKER_PROFILES to "
            "serve it all the same, or use another gallery.",
            differing=["profile"],
        )
    return found
