"""Operations on raw embeddings of another recognition system: enroll them, protect them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from shared.client.call import Call
from shared.client.pictures import Picture
from shared.errors import BadRequest, Unprocessable
from shared.names import QualityFilter
from shared.strict_types import wrong_type
from shared.wire.edge import EnrollEmbeddingsAnswer, ProtectAnswer
from shared.wire.edge_embeddings import EnrollSubjectsAnswer


class Array(Protocol):
    """An array that can be made a list, such as NumPy's."""

    def tolist(self) -> Any:
        """Its values as numbers, or its rows as lists of them."""


# (n, d) numbers.
Rows = Sequence[Sequence[float] | Array] | Array


def enroll_embeddings(
    gallery: str, subject: str, embeddings: Rows, *, faces: Sequence[str] | None = None
) -> Call[EnrollEmbeddingsAnswer]:
    """Enrolls a subject from raw embeddings of another system, all of them or none.

    Args:
        gallery: its name.
        subject: whose they are.
        embeddings: (n, d) numbers, up to 100 rows.
        faces: a name of your choice for each; a name is stored once for a subject. None: equal embeddings are.

    Raises:
        Unprocessable: an embedding cannot be used; ``reason`` says why.
    """
    return Call(
        method="POST",
        path="/v1/galleries/{gallery}/subjects/{subject}/embeddings",
        answer=EnrollEmbeddingsAnswer,
        names={"gallery": gallery, "subject": subject},
        body={"embeddings": _new_embeddings(embeddings, faces)},
    )


def enroll_subjects(
    gallery: str, subjects: Sequence[str], embeddings: Rows, *, faces: Sequence[str] | None = None
) -> Call[EnrollSubjectsAnswer]:
    """Enrolls raw embeddings of many subjects, all of them or none. Sent again, they are stored once.

    Args:
        gallery: its name.
        subjects: n names, whose each embedding is.
        embeddings: (n, d) numbers, up to 500 rows and 8 MiB as JSON.
        faces: a name of your choice for each; a name is stored once for a subject. None: equal embeddings are.

    Raises:
        Unprocessable: an embedding cannot be used; ``reason`` says why, ``extra["embeddings"]`` which have this fault.

    Example:
        >>> import numpy as np
        >>> embeddings = np.random.default_rng(1).normal(size=(3, 128))  # yours, of SFace
        >>> embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        >>> answer = client.enroll_subjects("door", ["ada", "ben", "ada"], embeddings)
        >>> [face.stored for face in answer.faces]
        ['now', 'now', 'now']
    """
    new = _new_embeddings(embeddings, faces)
    sent = [one | {"subject": subject} for one, subject in zip(new, _for_each(new, "subjects", subjects), strict=True)]
    return Call(
        method="POST",
        path="/v1/galleries/{gallery}/embeddings",
        answer=EnrollSubjectsAnswer,
        names={"gallery": gallery},
        body={"embeddings": sent},
    )


def protect(
    picture: Picture | None = None,
    *,
    embeddings: Rows | bytes | None = None,
    dim: int | None = None,
    gallery: str | None = None,
    subject: str | None = None,
    quality_filter: QualityFilter | None = None,
) -> Call[ProtectAnswer]:
    """Protects a face or raw embeddings, and returns the templates. Stores nothing, sends nothing to the cloud.

    Args:
        picture: of one face; or give ``embeddings``.
        embeddings: (n, d) numbers, up to 500 rows; or the bytes of (n, ``dim``) little-endian float32.
        dim: values of an embedding, with bytes.
        gallery: whose key seals the templates; None: for a profile that does not seal.
        subject: whose they are, where the gallery is verify-only.
        quality_filter: least quality of the picture's face; None: as the edge is set.

    Raises:
        ValueError: neither a picture nor embeddings were given, or both.
    """
    if (picture is None) == (embeddings is None):
        raise ValueError("give a picture or embeddings")
    binary = embeddings if isinstance(embeddings, bytes) else None
    return Call(
        method="POST",
        path="/v1/protect",
        answer=ProtectAnswer,
        query={"gallery": gallery, "subject": subject, "dim": dim, "quality_filter": quality_filter},
        body=None if embeddings is None or isinstance(embeddings, bytes) else {"embeddings": _lists(embeddings)},
        floats=binary,
        pictures=() if picture is None else (picture,),
    )


def _new_embeddings(embeddings: Rows, faces: Sequence[str] | None) -> list[dict[str, Any]]:
    rows = _lists(embeddings)
    named: Sequence[str | None] = [None] * len(rows) if faces is None else _for_each(rows, "faces", faces)
    return [
        {"values": values} | ({} if face is None else {"face": face}) for values, face in zip(rows, named, strict=True)
    ]


def _for_each(rows: list[Any], what: str, names: Sequence[str]) -> Sequence[str]:
    """Names, if there is one for each row; of the letters of one name, none is."""
    if isinstance(names, str | bytes) or not hasattr(names, "__len__"):
        raise wrong_type(what, "a list of names", names)
    if len(names) != len(rows):
        raise BadRequest(f"There are {len(rows)} embeddings and {len(names)} {what}; give one for each.")
    return names


def _lists(rows: Rows) -> list[Any]:
    found = _list(rows)
    if found is None:
        raise wrong_type("embeddings", "an array (n, d), or a list of rows of numbers", rows)
    made = [_list(row) for row in found]
    if any(row is None for row in made):
        raise Unprocessable("The embeddings are not rows of numbers; give n of them as (n, d).", reason="bad_shape")
    return made


def _list(given: Any) -> Sequence[Any] | None:
    """The items of an array or a sequence; None for what is neither."""
    found = given.tolist() if hasattr(given, "tolist") else given
    return found if isinstance(found, Sequence) and not isinstance(found, str | bytes) else None
