"""Refusals that name the pictures or embeddings of a request that they are about, counted from 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NoReturn, TypeVar

from edge_service.cloud.answers import REFUSED_SUBJECTS, REFUSED_TEMPLATES
from shared.errors import Conflict, PatronusError

Sent = Literal["picture", "embedding"]
Refusal = TypeVar("Refusal", bound=PatronusError)
_MOVED_AWAY = "was enrolled under this subject before, and the face is another subject's now"


def refuse(error: PatronusError, rows: list[int], fault: str, sent: Sent = "embedding") -> NoReturn:
    """Raises an error that names the rows of the request with a fault.

    Args:
        error: what is wrong.
        rows: one at least, in the order of the request.
        fault: what is wrong with a row, as the end of a sentence that begins with it.
        sent: what the rows are.
    """
    error.extra |= {sent: rows[0], f"{sent}s": rows, "fault": fault}
    raise error from None


@contextmanager
def naming_the_refused(sent: Sent, ids: Sequence[str], names: Sequence[str] | None = None) -> Iterator[None]:
    """Adds to what the cloud refuses of an enrollment which rows of the request it refuses.

    Args:
        sent: what the rows are.
        ids: of the rows, at the cloud.
        names: of their subjects, as the cloud has them; None: all are of one subject.

    Raises:
        Conflict: as the cloud refused it.
    """
    try:
        yield
    except Conflict as error:
        taken, subjects = (set(error.extra.pop(name, ())) for name in (REFUSED_TEMPLATES, REFUSED_SUBJECTS))
        rows = [at for at, uid in enumerate(ids) if uid in taken or (names is not None and names[at] in subjects)]
        if not rows:  # of the gallery as a whole
            raise
        if not taken:
            refuse(error, rows, f"was refused: {error.detail.removesuffix('.')}", sent)
        detail = f"{sent.capitalize()} {rows[0]}, counted from 0, {_MOVED_AWAY}; enroll it under that one."
        refuse(Conflict(detail, reason=error.reason), rows, _MOVED_AWAY, sent)
