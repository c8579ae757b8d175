"""Operations that a console needs: keys, measured curves, and what was sent to the cloud."""

from __future__ import annotations

from shared.client.call import Call
from shared.client.pictures import Picture
from shared.names import QualityFilter
from shared.wire.common import ScoreRule
from shared.wire.edge_console import Curves, KnownKeys, OwnKey, Rebuilt, Sent


def get_key() -> Call[OwnKey]:
    """Returns what the client's API key may do, and until when.

    Example:
        >>> "match" in client.get_key().scopes
        True
    """
    return Call(method="GET", path="/v1/key", answer=OwnKey)


def list_keys() -> Call[KnownKeys]:
    """Returns all API keys of the edge, without their secrets. Needs a key for all galleries, with the scope manage.

    Example:
        >>> client.get_key().id in [key.id for key in client.list_keys().keys]
        True
    """
    return Call(method="GET", path="/v1/keys", answer=KnownKeys)


def get_curves(*, rule: ScoreRule = "mean") -> Call[Curves]:
    """Returns the measured curves of the edge's profile.

    Args:
        rule: how subjects with several faces are compared.

    Example:
        >>> client.get_curves().curves[0].rule
        'mean'
    """
    return Call(method="GET", path="/v1/curves", answer=Curves, query={"rule": rule})


def get_gallery_curves(gallery: str) -> Call[Curves]:
    """Returns the measured curves of a gallery's profile, by the rule that the gallery compares subjects with.

    Raises:
        NotFound: there is no such gallery.
        ContractMismatch: this edge cannot make templates of the gallery.
    """
    return Call(method="GET", path="/v1/galleries/{gallery}/curves", answer=Curves, names={"gallery": gallery})


def get_sent(request_id: str) -> Call[Sent]:
    """Returns what the edge sent to the cloud for a request of this API key that was recorded, for a minute.

    Args:
        request_id: as it was given to the request as ``record``.

    Raises:
        NotFound: nothing is recorded under this id, or no longer.
        Forbidden: the edge does not record what it sends.

    Example:
        >>> _ = client.verify_face("door", "obama", SPEECH, record="first-try")
        >>> [sent.decoded.subject for sent in client.get_sent("first-try").requests]
        ['obama']
    """
    return Call(method="GET", path="/v1/sent/{request_id}", answer=Sent, names={"request_id": request_id})


def rebuild_face(
    picture: Picture,
    *,
    gallery: str | None = None,
    subject: str | None = None,
    quality_filter: QualityFilter | None = None,
) -> Call[Rebuilt]:
    """Returns what a decoder rebuilds from a face's embedding and template. Sends nothing to the cloud.

    Args:
        picture: a path, bytes, or a file open for reading.
        gallery: whose key seals the template; None: for a profile that does not seal.
        subject: whose face it is, where the gallery is verify-only.
        quality_filter: least quality of the face; None: as the edge is set.

    Raises:
        NotFound: no decoder lies beside the edge's profile, or there is no such gallery.
    """
    query = {"gallery": gallery, "subject": subject, "quality_filter": quality_filter}
    return Call(method="POST", path="/v1/rebuild", answer=Rebuilt, query=query, pictures=(picture,))
