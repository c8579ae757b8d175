"""Opens template envelopes for a gallery: the door through which every vector comes in."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cloud_service.record.queries import PinnedGallery
from shared.envelope import TemplateEnvelope
from shared.errors import ContractMismatch, InvalidTemplate


def open_for(gallery: PinnedGallery, envelopes: Iterable[TemplateEnvelope]) -> list[NDArray[np.float32]]:
    """The templates inside, each (dim,) float32, a unit vector; all of them or an error.

    Raises:
        ContractMismatch: made under another contract than the gallery's.
        InvalidTemplate: of another length than the gallery's, or not a finite unit vector.
    """
    return [_open(gallery, envelope) for envelope in envelopes]


def _open(gallery: PinnedGallery, envelope: TemplateEnvelope) -> NDArray[np.float32]:
    if envelope.contract != gallery.contract_digest:
        raise ContractMismatch(
            "The template was made under another contract than the gallery's; make it anew under the gallery's.",
            expected=gallery.contract_digest,
            given=envelope.contract,
        )
    if envelope.dim != gallery.dim:
        raise InvalidTemplate(f"The template has {envelope.dim} values; this gallery's have {gallery.dim}.")
    return envelope.open()
