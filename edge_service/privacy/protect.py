"""The one way from a raw embedding to a template that may leave the edge. It fails closed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_service.privacy.keys import EpochKey
from edge_service.privacy.profiles import Profile
from edge_service.privacy.seal import seal
from shared.envelope import UNIT_TOLERANCE, TemplateEnvelope
from shared.errors import ProtectionFailed

Rows = NDArray[np.float32]

# The cosine of an embedding to its sealed self is that of two random directions: a standard deviation of 1/sqrt(d). At
# 8 of them (a chance of 1e-15 a template) no seal was applied, whatever the code says.
_SEAL_SIGMAS: Final = 8.0


@dataclass(frozen=True, slots=True)
class ProtectionContext:
    """For whom templates are made.

    Attributes:
        key: of the gallery and epoch; None for a profile that does not seal.
        contract_digest: what the templates will say they were made under.
    """

    key: EpochKey | None = field(repr=False)
    contract_digest: str


class Step(Protocol):
    """One layer of protection."""

    def __call__(self, rows: Rows, context: ProtectionContext) -> Rows:
        """(n, d) float32 unit rows to (n, d) float32 unit rows."""
        ...


def seal_step(rows: Rows, context: ProtectionContext) -> Rows:
    """Seals under the context's key, and makes sure that it did.

    Raises:
        ProtectionFailed: there is no key, or the result is still close to what went in.
    """
    if context.key is None:
        raise ProtectionFailed("The profile seals, but the gallery has no key; make the gallery again.")
    sealed = seal(rows, context.key)
    kept = np.abs(np.einsum("nd,nd->n", rows, sealed))
    if (kept > _SEAL_SIGMAS / np.sqrt(rows.shape[1])).any() and rows.shape[1] > _SEAL_SIGMAS**2:
        raise ProtectionFailed("The seal was not applied; nothing was sent.")
    return sealed


STEPS: Final[Mapping[str, Step]] = {"seal": seal_step}


class Protector:
    """Takes embeddings through the steps of a profile.

    Args:
        profile: which steps.
        steps: the code of each kind of step.
    """

    def __init__(self, profile: Profile, steps: Mapping[str, Step] = STEPS) -> None:
        self.profile = profile
        self._steps: Sequence[Step] = [steps[step.kind] for step in profile.document.steps]

    def protect(self, embeddings: Rows, context: ProtectionContext) -> list[TemplateEnvelope]:
        """Protects embeddings and packs them.

        Args:
            embeddings: (n, d) float32, unit rows.
            context: for which gallery and epoch.

        Returns:
            n envelopes.

        Raises:
            ProtectionFailed: any step failed, or gave something that is not n unit rows. Nothing may be sent then.
        """
        rows = _checked(embeddings, embeddings.shape)
        try:
            for step in self._steps:
                rows = _checked(step(rows, context), embeddings.shape)
            return [TemplateEnvelope.seal_in(row, context.contract_digest) for row in rows]
        except ProtectionFailed:
            raise
        except Exception:
            # Without the cause: its text or its frames may hold the embedding.
            raise ProtectionFailed("A step of the protection failed; nothing was sent.") from None


def _checked(rows: Rows, shape: tuple[int, ...]) -> Rows:
    if len(shape) != 2 or rows.shape != shape or rows.dtype != np.float32 or not np.isfinite(rows).all():
        raise ProtectionFailed("A step of the protection gave something that is not an embedding; nothing was sent.")
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    if (np.abs(norms - 1) > UNIT_TOLERANCE).any():
        raise ProtectionFailed("A step of the protection gave a vector of the wrong length; nothing was sent.")
    return rows
