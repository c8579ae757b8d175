"""Protects embeddings: the only way to a template that may be sent. It fails closed."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_service.protection.gaussians import seeds
from edge_service.protection.keys import EpochKey
from edge_service.protection.patronus import ANY_ANGLE, NO_ANGLE, PatronusGraph
from edge_service.protection.profiles.files import Profile
from edge_service.protection.seal import seal, seal_matrix
from shared.contract import ProfilePin
from shared.envelope import UNIT_TOLERANCE, TemplateEnvelope
from shared.errors import ProtectionFailed, SetupError, place_of

# Python's own log, since programs that embed the public library set that up as they like.
_log = logging.getLogger(__name__)
Rows = NDArray[np.float32]

# The cosine of an embedding to its sealed template is that of two random directions: a standard deviation of 1/sqrt(d).
# Beyond 8 of them (a chance of 1e-15 a template) the seal was not applied.
_SEAL_SIGMAS: Final = 8.0


@dataclass(frozen=True, slots=True)
class ProtectionContext:
    """The key, contract and profile for which templates are made.

    Attributes:
        key: of the gallery and epoch, or of one subject in it; without a key no template is made.
        contract_digest: digest of the contract that the templates carry.
        profile: the profile that the contract names; no other makes templates for it.
        subjects: the key that the subjects' keys follow from, where each subject has a seal of its own. There is no
            ``key`` then before ``for_subject``.
    """

    key: EpochKey | None = field(repr=False)
    contract_digest: str
    profile: ProfilePin
    subjects: EpochKey | None = field(default=None, repr=False)

    @property
    def verify_only(self) -> bool:
        """Whether each subject has a seal of its own."""
        return self.subjects is not None

    def for_subject(self, subject: str | None) -> ProtectionContext:
        """The context for one subject; unchanged where all share a seal, or where none is named."""
        if self.subjects is None or subject is None:
            return self
        return ProtectionContext(self.subjects.of_subject(subject), self.contract_digest, self.profile)


@dataclass(frozen=True, slots=True, eq=False)
class Protected:
    """The result of protecting n embeddings.

    Attributes:
        templates: (n, d) float32, unit rows.
        angles: (n,) float32 radians, by which each was perturbed; zeros where no step perturbs.
        done: the kinds of the steps taken, in their order.
    """

    templates: Rows = field(repr=False)
    angles: Rows = field(repr=False)
    done: tuple[str, ...]

    @property
    def unperturbed(self) -> int:
        """Number of templates left unperturbed for lack of a margin; 0 without a network."""
        return int((self.angles < NO_ANGLE).sum()) if "patronus" in self.done else 0


@dataclass(frozen=True, slots=True)
class PackedTemplates:
    """Templates as they are sent.

    Attributes:
        envelopes: one an embedding.
        unperturbed: number of them that a network left unperturbed for lack of a margin.
    """

    envelopes: list[TemplateEnvelope] = field(repr=False)
    unperturbed: int


class Protector:
    """Applies the steps of a profile to embeddings.

    Args:
        profile: the steps.
        on_protected: is called with each result, to count it.

    Raises:
        SetupError: the profile's network does not do what the profile says.
    """

    def __init__(self, profile: Profile, on_protected: Callable[[Protected], None] | None = None) -> None:
        self.profile = profile
        self._graph = _graph_of(profile)
        self._kinds = profile.document.kinds
        self._on_protected = on_protected

    def protect(self, embeddings: Rows, context: ProtectionContext) -> PackedTemplates:
        """Protects embeddings and packs them.

        Args:
            embeddings: (n, d) float32, unit rows.
            context: key, contract and profile.

        Returns:
            n envelopes.

        Raises:
            ProtectionFailed: the context is for another profile, a step failed, or its result is not n unit rows.
                Nothing may be sent then.
        """
        if context.profile != self.profile.pin:
            raise ProtectionFailed("The gallery is under another profile than this protector's; nothing was sent.")
        protected = self.templates(embeddings, context.key)
        try:
            packed = [TemplateEnvelope.pack(row, context.contract_digest) for row in protected.templates]
        except Exception as error:  # of any kind: nothing may be sent; the log has its type and place
            _log.error("template_not_packed", extra=place_of(error))
            raise ProtectionFailed("A template could not be packed; nothing was sent.") from None
        return PackedTemplates(packed, protected.unperturbed)

    def templates(self, rows: Rows, key: EpochKey | None, *, sealed: bool = True) -> Protected:
        """Protects embeddings.

        Args:
            rows: (n, d) float32, unit rows; n over 0.
            key: of a gallery and epoch.
            sealed: False omits the seal, for measurements and for galleries without a seal.

        Raises:
            ProtectionFailed: a step failed or was omitted, or its result is not n unit rows.
        """
        _check_unit_rows(rows, rows.shape)
        if key is None:
            raise ProtectionFailed("The profile needs a key, and these templates have none; no template was made.")
        wanted = self._kinds if sealed else tuple(kind for kind in self._kinds if kind != "seal")
        if not wanted:
            raise ProtectionFailed("Without its seal this profile protects nothing; no template was made.")
        if "seal" in wanted and not key.gallery:
            raise ProtectionFailed("The profile seals, and the key belongs to no gallery; no template was made.")
        try:
            made = self.apply_steps(rows, key, sealed=sealed)
            _check_unit_rows(made.templates, rows.shape)
            if made.done != wanted or made.angles.shape != rows.shape[:1] or not np.isfinite(made.angles).all():
                raise ProtectionFailed("A step of the protection was omitted; nothing was sent.")
            if "seal" in wanted:
                _refuse_unsealed(rows, made.templates)
        except ProtectionFailed:
            raise
        except Exception as error:  # of any kind: nothing may be sent; the log has its type and place
            _log.error("protection_step_failed", extra=place_of(error))
            # Without the cause: its text or frames may hold the embedding.
            raise ProtectionFailed("A step of the protection failed; nothing was sent.") from None
        if self._on_protected is not None:
            self._on_protected(made)
        return made

    def apply_steps(self, rows: Rows, key: EpochKey, *, sealed: bool) -> Protected:
        """Applies all steps, or all but the seal; ``templates`` checks the result.

        The seal alone is a matrix product. A network erases, perturbs and seals at once, with a seed for each embedding
        that is derived from the embedding and the key.
        """
        no_limits = np.full(len(rows), ANY_ANGLE, np.float32)
        if self._graph is None:
            return Protected(seal(rows, key), np.zeros_like(no_limits), ("seal",))
        dim, seal_now = rows.shape[1], sealed and "seal" in self._kinds
        matrix = seal_matrix(key, dim) if seal_now else np.eye(dim, dtype=np.float32)
        drawn = seeds(rows, key.seed_key(), self._graph.step.seed_dim)
        templates, angles = self._graph.run(rows, drawn, no_limits, matrix)
        return Protected(templates, angles, ("patronus", "seal") if seal_now else ("patronus",))


def _graph_of(profile: Profile) -> PatronusGraph | None:
    step = profile.document.patronus
    if step is None:
        return None
    if profile.graph is None:
        raise SetupError(f"The protection profile {profile.pin.name!r} lacks its file {step.file}; put it back.")
    return PatronusGraph(step, profile.graph, profile.pin.name)


def _refuse_unsealed(rows: Rows, templates: Rows) -> None:
    dim = rows.shape[1]
    if dim > _SEAL_SIGMAS**2 and not np.abs(np.vecdot(rows, templates)).max() <= _SEAL_SIGMAS / math.sqrt(dim):
        raise ProtectionFailed("The seal was not applied; nothing was sent.")


def _check_unit_rows(rows: Rows, shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or not shape[0] or rows.shape != shape or rows.dtype != np.float32:
        raise ProtectionFailed(
            "A step of the protection returned something that is not an embedding; nothing was sent."
        )
    # A value that is not finite fails this comparison too. Squaring doubles a deviation.
    if not np.abs(np.vecdot(rows, rows) - 1).max() <= 2 * UNIT_TOLERANCE:
        raise ProtectionFailed("A step of the protection returned a vector of the wrong length; nothing was sent.")
