"""Operations on subjects: enroll from pictures, list, show, erase."""

from __future__ import annotations

from shared.client.call import Call
from shared.client.pictures import Picture
from shared.names import QualityFilter
from shared.wire.common import Erased, Page, SubjectInfo
from shared.wire.edge import EnrollFacesAnswer, SubjectFaces

_SUBJECTS = "/v1/galleries/{gallery}/subjects"
_SUBJECT = "/v1/galleries/{gallery}/subjects/{subject}"


def enroll_faces(
    gallery: str, subject: str, *pictures: Picture, quality_filter: QualityFilter | None = None
) -> Call[EnrollFacesAnswer]:
    """Enrolls a subject from pictures, all of them or none. A picture that was enrolled before is not stored again.

    Args:
        gallery: its name.
        subject: whom they show; a pseudonym is better than a name.
        pictures: paths, bytes, or files open for reading; as many as ``get_info`` allows in a request.
        quality_filter: least quality of a face; None: as the edge is set.

    Raises:
        FaceRefused: no face, several faces, or one too poor; ``reason`` says which.

    Example:
        >>> client.enroll_faces("door", "obama", PORTRAIT).faces[0].stored
        'now'
    """
    return Call(
        method="POST",
        path=f"{_SUBJECT}/faces",
        answer=EnrollFacesAnswer,
        names={"gallery": gallery, "subject": subject},
        query={"quality_filter": quality_filter},
        pictures=pictures,
    )


def list_subjects(gallery: str, *, limit: int = 100, after: str | None = None) -> Call[Page[SubjectInfo]]:
    """Returns a page of a gallery's subjects, in the order of their names.

    Args:
        gallery: its name.
        limit: most subjects on the page, 1 to 500.
        after: ``next`` of the page before.
    """
    query = {"limit": limit, "after": after}
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
