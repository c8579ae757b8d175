"""Opens envelopes for a gallery: from what is sent to templates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cloud_service.record.queries import PinnedGallery
from cloud_service.subjects.enrollment import NewVector
from shared.envelope import TemplateEnvelope
from shared.errors import ContractMismatch, InvalidTemplate, Unprocessable
from shared.wire.cloud import NewTemplate


def open_envelopes(gallery: PinnedGallery, envelopes: Iterable[TemplateEnvelope]) -> list[NDArray[np.float32]]:
    """Returns the templates of a gallery's envelopes: (dim,) float32 unit vectors.

    Raises:
        ContractMismatch: made under another contract than the gallery's.
        InvalidTemplate: of another length than the gallery's, or not a finite unit vector.
    """
    vectors = []
    for envelope in envelopes:
        if envelope.contract != gallery.contract_digest:
            raise ContractMismatch(
                "The template was made under another contract than the gallery's; make it again under the gallery's.",
                expected=gallery.contract_digest,
                given=envelope.contract,
            )
        if envelope.dim != gallery.dim:
            raise InvalidTemplate(
                f"The template has {envelope.dim} values; this gallery's have {gallery.dim}: use its embedder."
            )
        vectors.append(envelope.open())
    return vectors


def new_vectors(gallery: PinnedGallery, sent: Sequence[NewTemplate]) -> dict[str, NewVector]:
    """The templates of an enrollment, by their ids on the wire.

    Raises:
        ContractMismatch, InvalidTemplate: as ``open_envelopes`` says. Unprocessable: an id is there twice.
    """
    vectors = open_envelopes(gallery, (new.template for new in sent))
    templates = {new.id: NewVector(vector, new.weight) for new, vector in zip(sent, vectors, strict=True)}
    if len(templates) < len(sent):
        raise duplicate_id()
    return templates


def duplicate_id() -> Unprocessable:
    """The error where a request has a template id twice."""
    return Unprocessable("The request has a template id twice; give each its own.", reason="duplicate_id")
