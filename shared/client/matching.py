"""Operations that compare: verify, identify, detect, compare; and what the edge says of itself."""

from __future__ import annotations

from shared.client.call import Call, recorded
from shared.client.pictures import Picture
from shared.names import QualityFilter
from shared.wire.common import Health, Readiness
from shared.wire.edge import CompareAnswer, DetectAnswer, EdgeInfo, IdentifyFacesAnswer, VerifyFaceAnswer

_GALLERY = "/v1/galleries/{gallery}"
_UNAVAILABLE = 503


def verify_face(
    gallery: str,
    subject: str,
    picture: Picture,
    *,
    quality_filter: QualityFilter | None = None,
    record: str | None = None,
) -> Call[VerifyFaceAnswer]:
    """Decides whether the largest face of a picture is a subject's (1:1).

    Args:
        gallery: its name.
        subject: whose face it may be.
        picture: a path, bytes, or a file open for reading.
        quality_filter: least quality of the face; None: as the edge is set.
        record: an id for this request, under which ``get_sent`` returns for a minute what was sent to the cloud.

    Raises:
        NotFound: there is no such gallery or subject.
        FaceRefused: no face, several faces, or one too poor; ``reason`` says which.

    Example:
        >>> client.verify_face("door", "obama", SPEECH).decision
        'match'
    """
    return Call(
        method="POST",
        path=f"{_GALLERY}/subjects/{{subject}}/verify",
        answer=VerifyFaceAnswer,
        names={"gallery": gallery, "subject": subject},
        query={"quality_filter": quality_filter},
        pictures=(picture,),
        headers=recorded(record),
    )


def identify_faces(
    gallery: str,
    picture: Picture,
    *,
    top_k: int = 5,
    max_faces: int = 1,
    quality_filter: QualityFilter | None = None,
    record: str | None = None,
) -> Call[IdentifyFacesAnswer]:
    """Searches a gallery for the faces of a picture (1:N).

    Args:
        gallery: its name.
        picture: a path, bytes, or a file open for reading.
        top_k: most candidates for each face, 1 to 100.
        max_faces: most faces to search for, largest first, 1 to 200.
        quality_filter: least quality of a face; None: as the edge is set.
        record: as of ``verify_face``.

    Raises:
        Conflict: the gallery is verify-only.

    Example:
        >>> [found.subject for found in client.identify_faces("door", SPEECH).faces[0].candidates]
        ['obama']
    """
    return Call(
        method="POST",
        path=f"{_GALLERY}/identify",
        answer=IdentifyFacesAnswer,
        names={"gallery": gallery},
        query={"top_k": top_k, "max_faces": max_faces, "quality_filter": quality_filter},
        pictures=(picture,),
        headers=recorded(record),
    )


def detect_faces(picture: Picture, *, quality_filter: QualityFilter | None = None) -> Call[DetectAnswer]:
    """Returns the faces of a picture: boxes, landmarks, quality. Nothing is sent to the cloud.

    Example:
        >>> client.detect_faces(PORTRAIT).faces_found
        1
    """
    query = {"quality_filter": quality_filter}
    return Call(method="POST", path="/v1/detect", answer=DetectAnswer, query=query, pictures=(picture,))


def compare_faces(
    picture: Picture, other: Picture, *, quality_filter: QualityFilter | None = None
) -> Call[CompareAnswer]:
    """Decides whether two pictures show one person. Nothing is sent to the cloud.

    Example:
        >>> client.compare_faces(PORTRAIT, SPEECH).decision
        'match'
    """
    query = {"quality_filter": quality_filter}
    return Call(method="POST", path="/v1/compare", answer=CompareAnswer, query=query, pictures=(picture, other))


def get_info() -> Call[EdgeInfo]:
    """Returns versions, models and limits of the edge.

    Example:
        >>> client.get_info().dim
        128
    """
    return Call(method="GET", path="/v1/info", answer=EdgeInfo)


def get_health() -> Call[Health]:
    """Returns if the edge is alive."""
    return Call(method="GET", path="/healthz", answer=Health)


def get_readiness() -> Call[Readiness]:
    """Returns whether the edge can do its work now, and which of its checks hold.

    Example:
        >>> client.get_readiness().status
        'ready'
    """
    return Call(method="GET", path="/readyz", answer=Readiness, also=frozenset({_UNAVAILABLE}))


def get_metrics() -> Call[str]:
    """Returns the edge's metrics in the text format of Prometheus."""
    return Call(method="GET", path="/metrics", answer=str)
