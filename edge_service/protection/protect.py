"""Protects embeddings: the only way to a template that may be sent. It fails closed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_service.protection.gaussians import seeds
from edge_service.protection.keys import EpochKey
from edge_service.protection.patronus import ANY_ANGLE, NO_ANGLE, PatronusGraph
from edge_service.protection.profiles.files import Profile
from edge_service.protection.seal import seal, seal_matrix
from shared.envelope import UNIT_TOLERANCE, TemplateEnvelope
from shared.errors import ProtectionFailed, SetupError
from shared.logs import get_logger, place_of

_log = get_logger(__name__)
Rows = NDArray[np.float32]

# The cosine of an embedding to its sealed template is that of two random directions: a standard deviation of 1/sqrt(d).
# Beyond 8 of them (a chance of 1e-15 a template) the seal was not applied.
_SEAL_SIGMAS: Final = 8.0
_CACHED_KEYS: Final = 256


@dataclass(frozen=True, slots=True)
class ProtectionContext:
    """The key and contract for which templates are made.

    Attributes:
        key: of the gallery and epoch, or of one subject in it; without a key no template is made.
        contract_digest: digest of the contract that the templates carry.
        subjects: the key that the subjects' keys follow from, where each subject has a seal of its own. There is no
            ``key`` then before ``for_subject``.
        renewed: whether it was fetched because the cloud refused templates made under the one before.
    """

    key: EpochKey | None = field(repr=False)
    contract_digest: str
    subjects: EpochKey | None = field(default=None, repr=False)
    renewed: bool = False

    @property
    def verify_only(self) -> bool:
        """Whether each subject has a seal of its own."""
        return self.subjects is not None

    def for_subject(self, subject: str) -> ProtectionContext:
        """The context for one subject; unchanged where all subjects share a seal."""
        if self.subjects is None:
            return self
        return ProtectionContext(self.subjects.of_subject(subject), self.contract_digest)


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


class Engine(Protocol):
    """Applies all steps of a profile, or all but the seal, to embeddings."""

    def __call__(self, rows: Rows, key: EpochKey, limits: Rows, *, sealed: bool) -> Protected:
        """Protects (n, d) float32 unit rows, each perturbed by at most (n,) float32 radians."""
        ...


def seal_engine(rows: Rows, key: EpochKey, limits: Rows, *, sealed: bool) -> Protected:
    """Applies the seal alone: a matrix product."""
    nothing = np.zeros(len(limits), np.float32)
    return Protected(seal(rows, key), nothing, ("seal",)) if sealed else Protected(rows, nothing, ())


@dataclass(frozen=True, slots=True)
class PatronusEngine:
    """Runs a network that erases, perturbs and seals at once.

    Attributes:
        graph: the network.
        seals: whether the profile seals.
    """

    graph: PatronusGraph
    seals: bool

    def __call__(self, rows: Rows, key: EpochKey, limits: Rows, *, sealed: bool) -> Protected:
        """Runs the network with a seed for each embedding, derived from the embedding and the key."""
        seal_now = sealed and self.seals
        dim = rows.shape[1]
        matrix = seal_matrix(key, dim) if seal_now else _no_seal(dim)
        drawn = seeds(rows, _seed_key(key), self.graph.step.seed_dim)
        templates, angles = self.graph.run(rows, drawn, limits, matrix)
        return Protected(templates, angles, ("patronus", "seal") if seal_now else ("patronus",))


class Protector:
    """Applies the steps of a profile to embeddings.

    Args:
        profile: the steps.
        engine: replaces the profile's own, in tests.
        on_protected: is called with each result, to count it.

    Raises:
        SetupError: the profile's network does not do what the profile says.
    """

    def __init__(
        self, profile: Profile, engine: Engine | None = None, on_protected: Callable[[Protected], None] | None = None
    ) -> None:
        self.profile = profile
        self._engine = engine or _engine_of(profile)
        self._kinds = profile.document.kinds
        self._on_protected = on_protected

    def protect(self, embeddings: Rows, context: ProtectionContext) -> PackedTemplates:
        """Protects embeddings and packs them.

        Args:
            embeddings: (n, d) float32, unit rows.
            context: key and contract.

        Returns:
            n envelopes.

        Raises:
            ProtectionFailed: a step failed, or its result is not n unit rows. Nothing may be sent then.
        """
        protected = self.templates(embeddings, context.key)
        try:
            packed = [TemplateEnvelope.pack(row, context.contract_digest) for row in protected.templates]
        except Exception as error:  # of any kind: nothing may be sent; the log has its type and place
            _log.error("template_not_packed", **place_of(error))
            raise ProtectionFailed("A template could not be packed; nothing was sent.") from None
        return PackedTemplates(packed, protected.unperturbed)

    def templates(
        self, rows: Rows, key: EpochKey | None, limits: Rows | None = None, *, sealed: bool = True
    ) -> Protected:
        """Protects embeddings.

        Args:
            rows: (n, d) float32, unit rows; n over 0.
            key: of a gallery and epoch.
            limits: (n,) float32 radians >= 0, the most by which each may be perturbed. None: as in the profile.
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
        if limits is None:
            limits = np.full(len(rows), ANY_ANGLE, np.float32)
        if limits.shape != (len(rows),) or limits.dtype != np.float32 or not (limits >= 0).all():
            raise ProtectionFailed(
                "Perturbation limits must be one float32 >= 0 radians for each embedding; no template was made."
            )
        try:
            made = self._engine(rows, key, limits, sealed=sealed)
            _check_unit_rows(made.templates, rows.shape)
            if made.done != wanted or made.angles.shape != limits.shape or not np.isfinite(made.angles).all():
                raise ProtectionFailed("A step of the protection was omitted; nothing was sent.")
            if "seal" in wanted:
                _refuse_unsealed(rows, made.templates)
        except ProtectionFailed:
            raise
        except Exception as error:  # of any kind: nothing may be sent; the log has its type and place
            _log.error("protection_step_failed", **place_of(error))
            # Without the cause: its text or frames may hold the embedding.
            raise ProtectionFailed("A step of the protection failed; nothing was sent.") from None
        if self._on_protected is not None:
            self._on_protected(made)
        return made


@lru_cache(maxsize=_CACHED_KEYS)
def _seed_key(key: EpochKey) -> bytes:
    return key.seed_key()


@lru_cache(maxsize=8)
def _no_seal(dim: int) -> Rows:
    matrix = np.eye(dim, dtype=np.float32)
    matrix.flags.writeable = False
    return matrix


def _engine_of(profile: Profile) -> Engine:
    step = profile.document.patronus
    if step is None:
        return seal_engine
    if profile.graph is None:
        raise SetupError(f"The protection profile {profile.pin.name!r} lacks its file {step.file}; put it back.")
    return PatronusEngine(PatronusGraph(step, profile.graph, profile.pin.name), seals=profile.seals)


def _refuse_unsealed(rows: Rows, templates: Rows) -> None:
    kept = np.abs(np.vecdot(rows, templates))
    if rows.shape[1] > _SEAL_SIGMAS**2 and (kept > _SEAL_SIGMAS / np.sqrt(rows.shape[1])).any():
        raise ProtectionFailed("The seal was not applied; nothing was sent.")


def _check_unit_rows(rows: Rows, shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or not shape[0] or rows.shape != shape or rows.dtype != np.float32:
        raise ProtectionFailed(
            "A step of the protection returned something that is not an embedding; nothing was sent."
        )
    # A value that is not finite fails this comparison too. Squaring doubles a deviation.
    if not (np.abs(np.vecdot(rows, rows) - 1) <= 2 * UNIT_TOLERANCE).all():
        raise ProtectionFailed("A step of the protection returned a vector of the wrong length; nothing was sent.")
