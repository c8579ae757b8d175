"""Requests and answers of the edge about raw embeddings of many subjects."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.names import SubjectName
from shared.wire.common import StrictWire, Wire
from shared.wire.edge import MAX_EMBEDDINGS_A_REQUEST, UNPERTURBED, NewEmbedding, StoredFace


class NewEmbeddingOfSubject(NewEmbedding):
    """A raw embedding to enroll, and whose it is."""

    subject: SubjectName


class EnrollSubjects(StrictWire):
    """Raw embeddings of many subjects, up to 500 in all and 8 MiB: stored in one transaction, all or none."""

    embeddings: Annotated[list[NewEmbeddingOfSubject], Field(min_length=1, max_length=MAX_EMBEDDINGS_A_REQUEST)]


class EnrollSubjectsAnswer(Wire):
    """The enrolled faces, one for each embedding, in the order of the embeddings."""

    faces: list[StoredFace]
    unperturbed: int = Field(ge=0, description=UNPERTURBED)
