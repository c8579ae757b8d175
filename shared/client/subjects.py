"""Operations on subjects: enroll from pictures, list, show, rename, merge, report, erase."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from shared.client.call import Call, recorded
from shared.client.pictures import Picture
from shared.errors import BadRequest
from shared.names import QualityFilter
from shared.strict_types import wrong_type
from shared.wire.common import Erased, Page, SubjectInfo
from shared.wire.edge import EnrollFacesAnswer, SubjectFaces
from shared.wire.edge_subjects import GalleryDuplicates, Moved, SubjectReport

_SUBJECTS = "/v1/galleries/{gallery}/subjects"
_SUBJECT = "/v1/galleries/{gallery}/subjects/{subject}"


def enroll_faces(
    gallery: str,
    subject: str,
    *pictures: Picture,
    quality_filter: QualityFilter | None = None,
    dry_run: bool = False,
    on_conflict: Literal["store", "refuse"] = "store",
    record: str | None = None,
) -> Call[EnrollFacesAnswer]:
    """Enrolls a subject from pictures, all of them or none. A picture that was enrolled before is not stored again.

    Args:
        gallery: its name.
        subject: whom they show: 1 to 128 characters of any script.
        pictures: paths, bytes, or files open for reading; as many as ``get_info`` allows in a request.
        quality_filter: least quality of a face; None: as the edge is set.
        dry_run: whether to store nothing, and tell what would be stored.
        on_conflict: ``refuse``: store nothing if a face is nearer to another subject, whom it matches.
        record: an id for this request, under which ``get_sent`` returns for a minute what was sent to the cloud.

    Raises:
        FaceRefused: no face, several faces, or one too poor; ``reason`` says which.
        Conflict: a face is another subject's, and ``on_conflict`` says to refuse it.

    Example:
        >>> client.enroll_faces("door", "obama", PORTRAIT).faces[0].stored
        'now'
    """
    return Call(
        method="POST",
        path=f"{_SUBJECT}/faces",
        answer=EnrollFacesAnswer,
        names={"gallery": gallery, "subject": subject},
        query={
            "quality_filter": quality_filter,
            "dry_run": "true" if dry_run else None,
            "on_conflict": None if on_conflict == "store" else on_conflict,
        },
        pictures=pictures,
        headers=recorded(record),
    )


def list_subjects(
    gallery: str, *, limit: int = 100, after: str | None = None, prefix: str | None = None
) -> Call[Page[SubjectInfo]]:
    """Returns a page of a gallery's subjects, in the order of the code points of their names.

    Args:
        gallery: its name.
        limit: most subjects on the page, 1 to 500.
        after: ``next`` of the page before.
        prefix: what the names begin with; None: all.

    Example:
        >>> [found.subject for found in client.list_subjects("door", prefix="oba").items]
        ['obama']
    """
    query = {"limit": limit, "after": after, "prefix": prefix}
    return Call(method="GET", path=_SUBJECTS, answer=Page[SubjectInfo], names={"gallery": gallery}, query=query)


def get_subject(gallery: str, subject: str) -> Call[SubjectFaces]:
    """Returns a subject with the ids of its faces.

    Raises:
        NotFound: there is none.
    """
    return Call(method="GET", path=_SUBJECT, answer=SubjectFaces, names={"gallery": gallery, "subject": subject})


def delete_subject(gallery: str, subject: str) -> Call[Erased]:
    """Erases a subject with all faces."""
    names = {"gallery": gallery, "subject": subject}
    return Call(method="DELETE", path=_SUBJECT, answer=Erased, names=names, repeat="not_done")


def delete_face(gallery: str, subject: str, face: str) -> Call[Erased]:
    """Erases one face of a subject, by its id, and the subject with its last face."""
    names = {"gallery": gallery, "subject": subject, "face": face}
    return Call(method="DELETE", path=f"{_SUBJECT}/faces/{{face}}", answer=Erased, names=names, repeat="not_done")


def rename_subject(gallery: str, subject: str, to: str) -> Call[Moved]:
    """Gives a subject another name, which no other subject has.

    Raises:
        NotFound: there is no such subject.
        Conflict: another subject has the name.

    Example:
        >>> client.rename_subject("door", "obama", "Barack Obama").subject
        'Barack Obama'
        >>> client.rename_subject("door", "Barack Obama", "obama").faces
        1
    """
    names = {"gallery": gallery, "subject": subject}
    return Call(method="POST", path=f"{_SUBJECT}/rename", answer=Moved, names=names, body={"to": to}, repeat="not_done")


def merge_subject(gallery: str, subject: str, into: str) -> Call[Moved]:
    """Gives all faces of a subject to another one, who is the same person. The subject is gone afterwards.

    Raises:
        NotFound: there is no such subject, or nobody to merge it into.
    """
    names = {"gallery": gallery, "subject": subject}
    return Call(
        method="POST", path=f"{_SUBJECT}/merge", answer=Moved, names=names, body={"into": into}, repeat="not_done"
    )


def move_face(gallery: str, subject: str, face: str, to: str) -> Call[Moved]:
    """Gives one face of a subject to another one, who may be new. A subject is gone with its last face.

    Raises:
        NotFound: the subject has no such face.
    """
    return Call(
        method="POST",
        path=f"{_SUBJECT}/faces/{{face}}/move",
        answer=Moved,
        names={"gallery": gallery, "subject": subject, "face": face},
        body={"to": to},
        repeat="not_done",
    )


def set_expiry(gallery: str, subject: str, expires_at: datetime) -> Call[SubjectFaces]:
    """Sets the moment from which a subject matches nobody and is erased. The gallery's retention holds too.

    Args:
        gallery: its name.
        subject: of the gallery.
        expires_at: with its time zone, within 100 years.

    Raises:
        BadRequest: it has no time zone.
    """
    if not isinstance(expires_at, datetime):
        raise wrong_type("expires_at", "a datetime with its time zone", expires_at)
    if expires_at.utcoffset() is None:
        raise BadRequest(
            "expires_at has no time zone; give it one, such as expires_at.astimezone() for this computer's.",
            reason="no_time_zone",
        )
    names, body = {"gallery": gallery, "subject": subject}, {"expires_at": expires_at.isoformat()}
    return Call(method="PUT", path=f"{_SUBJECT}/expiry", answer=SubjectFaces, names=names, body=body)


def remove_expiry(gallery: str, subject: str) -> Call[SubjectFaces]:
    """Keeps a subject until it is erased, or for as long as its gallery keeps faces."""
    names = {"gallery": gallery, "subject": subject}
    return Call(method="DELETE", path=f"{_SUBJECT}/expiry", answer=SubjectFaces, names=names)


def report_subject(gallery: str, subject: str) -> Call[SubjectReport]:
    """Returns all that is held about a subject: faces, their templates and dates, expiry, entries of the audit log.

    Example:
        >>> len(client.report_subject("door", "obama").faces)
        1
    """
    names = {"gallery": gallery, "subject": subject}
    return Call(method="GET", path=f"{_SUBJECT}/report", answer=SubjectReport, names=names)


def find_duplicates(
    gallery: str, *, limit: int = 100, after: int = 0, min_similarity: float | None = None
) -> Call[GalleryDuplicates]:
    """Compares some subjects of a gallery with all others, and returns the pairs that match.

    Args:
        gallery: its name; not a verify-only one.
        limit: most subjects to compare, 1 to 500.
        after: ``next`` of the page before.
        min_similarity: least score of a pair; None: the gallery's threshold.

    Raises:
        Conflict: the gallery is verify-only.

    Example:
        >>> client.find_duplicates("door").items
        []
    """
    return Call(
        method="POST",
        path="/v1/galleries/{gallery}/duplicates",
        answer=GalleryDuplicates,
        names={"gallery": gallery},
        body={"limit": limit, "after": after, "min_similarity": min_similarity},
    )
