"""Operations on galleries: create, list, change, erase, retention, change of key."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from shared.client.call import Call
from shared.errors import BadRequest
from shared.strict_types import wrong_type
from shared.wire.common import Erased, Erasure, KeyChange, Page, ScoreRule, Threshold
from shared.wire.edge import EdgeGallery
from shared.wire.thresholds import ThresholdFor

_GALLERIES = "/v1/galleries"
_GALLERY = "/v1/galleries/{gallery}"


def put_gallery(
    gallery: str,
    *,
    threshold: Threshold | ThresholdFor | None = None,
    verify_only: bool | None = None,
    score_rule: ScoreRule | None = None,
) -> Call[EdgeGallery]:
    """Creates a gallery, or finds the one that exists with these properties.

    Args:
        gallery: its name.
        threshold: to accept at, with its false match rate; or a purpose, for which the edge chooses one; None: the
            edge's.
        verify_only: whether people can be verified and never identified; None: no.
        score_rule: how subjects with several faces are compared; None: by the mean.

    Raises:
        Conflict: it exists with other properties.

    Example:
        >>> client.put_gallery("door", score_rule="mean").score.rule
        'mean'
    """
    body = {
        "threshold": _threshold(threshold),
        "verify_only": verify_only,
        "score_rule": score_rule,
    }
    return Call(method="PUT", path=_GALLERY, answer=EdgeGallery, names={"gallery": gallery}, body=body)


def list_galleries(*, limit: int = 100, after: str | None = None) -> Call[Page[EdgeGallery]]:
    """Returns a page of the galleries that the API key is for, in the order of their names.

    Args:
        limit: most galleries on the page, 1 to 500.
        after: ``next`` of the page before.

    Example:
        >>> "door" in [found.gallery for found in client.list_galleries(limit=500).items]
        True
    """
    return Call(method="GET", path=_GALLERIES, answer=Page[EdgeGallery], query={"limit": limit, "after": after})


def get_gallery(gallery: str) -> Call[EdgeGallery]:
    """Returns a gallery: contract, threshold, rule of comparison, and how many are enrolled.

    Raises:
        NotFound: there is none.
    """
    return Call(method="GET", path=_GALLERY, answer=EdgeGallery, names={"gallery": gallery})


def change_gallery(
    gallery: str, *, score_rule: ScoreRule | None = None, threshold: Threshold | ThresholdFor | None = None
) -> Call[EdgeGallery]:
    """Changes how subjects with several faces are compared, or the threshold; holds for enrolled subjects too.

    Args:
        gallery: its name.
        score_rule: how subjects with several faces are compared.
        threshold: to accept at, with its false match rate; or a purpose, for which the edge chooses one. Not both.

    Raises:
        Unprocessable: both are given, or none; or the profile's measurements do not support the purpose.
    """
    names = {"gallery": gallery}
    body = {"score_rule": score_rule, "threshold": _threshold(threshold)}
    return Call(method="PATCH", path=_GALLERY, answer=EdgeGallery, names=names, body=body)


def delete_gallery(gallery: str) -> Call[Erased]:
    """Erases a gallery with everybody in it."""
    return Call(method="DELETE", path=_GALLERY, answer=Erased, names={"gallery": gallery}, repeat="not_done")


def get_erasure(gallery: str, receipt: int) -> Call[Erasure]:
    """Returns the state of an erasure: what is not overwritten yet.

    Args:
        gallery: in which it was, also if the gallery itself was erased.
        receipt: id of the receipt that the erasure answered.
    """
    path = f"{_GALLERY}/erasures/{{receipt}}"
    return Call(method="GET", path=path, answer=Erasure, names={"gallery": gallery, "receipt": receipt})


def set_retention(gallery: str, max_age_seconds: int | timedelta) -> Call[EdgeGallery]:
    """Sets the age from which a face matches nobody and is erased. Holds for stored faces too.

    Args:
        gallery: its name.
        max_age_seconds: whole seconds, up to 100 years, or a ``timedelta`` of them.

    Raises:
        BadRequest: a ``timedelta`` of parts of a second.

    Example:
        >>> client.set_retention("door", timedelta(days=90)).max_age_seconds
        7776000
        >>> client.remove_retention("door").max_age_seconds is None
        True
    """
    if isinstance(max_age_seconds, timedelta):
        if max_age_seconds % timedelta(seconds=1):
            raise BadRequest("The age is not of whole seconds; round it.", reason="not_whole")
        max_age_seconds //= timedelta(seconds=1)
    names, body = {"gallery": gallery}, {"max_age_seconds": max_age_seconds}
    return Call(method="PUT", path=f"{_GALLERY}/retention", answer=EdgeGallery, names=names, body=body)


def remove_retention(gallery: str) -> Call[EdgeGallery]:
    """Keeps faces until they are erased."""
    return Call(method="DELETE", path=f"{_GALLERY}/retention", answer=EdgeGallery, names={"gallery": gallery})


def start_rekey(gallery: str, *, epoch: str | None = None) -> Call[KeyChange]:
    """Starts a change of a gallery's key, or continues it. It may not be done when this returns: see ``state``.

    Args:
        gallery: its name.
        epoch: name of the new key, 16 hexadecimal digits; ``next_contract.seal.epoch`` of an answer continues that
            change. None: continues the change in progress, or starts one; then the call is not sent again after it
            may have been done.
    """
    return Call(
        method="POST",
        path=f"{_GALLERY}/rekey",
        answer=KeyChange,
        names={"gallery": gallery},
        body={"epoch": epoch},
        repeat="not_done" if epoch is None else "always",
    )


def get_rekey(gallery: str) -> Call[KeyChange]:
    """Returns the progress of a change of a gallery's key."""
    return Call(method="GET", path=f"{_GALLERY}/rekey", answer=KeyChange, names={"gallery": gallery})


def cancel_rekey(gallery: str) -> Call[KeyChange]:
    """Gives up a change of a gallery's key; refused where the gallery matches under the new one already."""
    return Call(method="DELETE", path=f"{_GALLERY}/rekey", answer=KeyChange, names={"gallery": gallery})


def _threshold(given: Threshold | ThresholdFor | None) -> dict[str, Any] | None:
    if given is None:
        return None
    if not isinstance(given, Threshold | ThresholdFor):
        raise wrong_type("threshold", "a Threshold(cosine=…, fmr=…) or a ThresholdFor(…) of patronus_face", given)
    return given.model_dump()
