"""Enrolls many pictures, with progress, a summary of refusals, and subjects who have the same face."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from unicodedata import normalize

from edge_service.cli.output import DISAGREES, ELSEWHERE, MOVED_AWAY, UNDER_ANOTHER_NAME, plain
from edge_service.cli.session import Session
from shared.client.call import check_name
from shared.command import counted
from shared.errors import BadRequest, PatronusError
from shared.names import QualityFilter, is_subject_name
from shared.wire.edge import EnrolledFace, EnrollFacesAnswer

_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".avif", ".heic"})
_BAD_NAME = (
    "A subject cannot have this name; use 1 to 128 characters, no slash or control character, no blank at an end."
)
# Of genuine comparisons: a smaller gain by another picture is not worth a sentence.
_LEAST_GAIN: Final = 0.002
# Statuses that every further picture would be refused with.
_STOPS: Final = frozenset({401, 403, 404, 409, 429, 502, 503})
# Another reason for such a status that is of one picture alone.
_OF_ANOTHER: Final = "belongs_to_another"
_HOW: Final = {"now": "enrolled as", "before": "is enrolled already as", "no": "would be enrolled as"}
# Pairs of subjects that are named.
_MOST_NAMED: Final = 20

OnConflict = Literal["store", "refuse"]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture file and the subject that it shows."""

    subject: str
    path: Path


def pictures_of(subject: str, paths: list[Path]) -> list[Picture]:
    """The pictures of one subject: files, and picture files of folders, sorted by name.

    Raises:
        BadRequest: a path is not there, or a folder holds no picture.
    """
    found = []
    for path in paths:
        if not path.exists():
            raise BadRequest(f"{path}: cannot be read (No such file or directory).")
        inside = _in_folder(path) if path.is_dir() else [path]
        if not inside:
            raise BadRequest(f"{path}: holds no JPEG, PNG or WebP picture.")
        found += [Picture(subject, each) for each in inside]
    return found


def people_in(folder: Path, *, named_files: bool = False) -> list[Picture]:
    """The pictures of many subjects: ``FOLDER/SUBJECT/PICTURE``.

    Args:
        folder: of folders of pictures.
        named_files: whether a picture in the folder itself is of the subject that its file is named after. Otherwise
            it is refused: the files of one person would become as many people.

    Raises:
        BadRequest: not a folder, nothing in it, or pictures at another level; one that is deeper would be enrolled
            under the name of a group of people.
    """
    if not folder.is_dir():
        raise BadRequest(f"{folder}: is not a folder.")
    found = [Picture(path.stem, path) for path in _in_folder(folder, deep=False)]
    if found and not named_files:
        raise BadRequest(
            f"{folder}: holds pictures itself, where FOLDER/SUBJECT/PICTURE is wanted; give the folder above it, name "
            "the subject before it, or let --named-files make a subject of each file's name.",
            reason="wrong_layout",
        )
    for inside in sorted(path for path in folder.iterdir() if path.is_dir()):
        pictures = _in_folder(inside)
        if deeper := next((path for path in pictures if path.parent != inside), None):
            raise BadRequest(
                f"{deeper}: lies deeper than FOLDER/SUBJECT/PICTURE; give a folder whose folders are the subjects, or "
                "name the subject before the folder.",
                reason="wrong_layout",
            )
        found += [Picture(inside.name, path) for path in pictures]
    if not found:
        raise BadRequest(f"{folder}: holds no folders of pictures; FOLDER/SUBJECT/PICTURE is wanted.")
    return found


def _in_folder(folder: Path, *, deep: bool = True) -> list[Path]:
    paths = folder.rglob("*") if deep else folder.iterdir()
    return sorted(path for path in paths if path.is_file() and path.suffix.lower() in _SUFFIXES)


class PictureEnrollment:
    """Enrolls pictures into a gallery one by one, and says what became of them.

    Args:
        session: with the edge.
        gallery: its name.
        quality: least quality of a face; None: as the edge is set.
        dry_run: whether to store nothing, and say what would be stored.
        on_conflict: ``refuse``: pictures that are nearer to another subject, whom they match.

    Raises:
        BadRequest: no gallery can have this name.
    """

    def __init__(
        self,
        session: Session,
        gallery: str,
        quality: QualityFilter | None = None,
        *,
        dry_run: bool = False,
        on_conflict: OnConflict = "store",
    ) -> None:
        check_name("gallery", gallery)
        self._session = session
        self._out = session.out
        self._gallery = gallery
        self._quality = quality
        self._dry_run = dry_run
        self._on_conflict = on_conflict
        self._stored: Counter[str] = Counter()
        self._last: dict[str, EnrollFacesAnswer] = {}
        self._taken = 0
        # Enrolled before, and moved to another name since.
        self._elsewhere = 0
        self._unsearched = 0
        self._same: dict[tuple[str, ...], float] = {}

    def run(self, pictures: list[Picture]) -> bool:
        """Enrolls them, sums up, and names subjects who have the face of another one.

        Returns:
            Whether every one was taken, or is enrolled under another name by now.

        Raises:
            PatronusError: the edge would refuse every picture: no such gallery, no right to enroll, or no cloud.
            ServiceUnreachable: no edge answers.
        """
        self._tell_alike(pictures)
        # As the edge calls them: some systems write the names of files in another form of Unicode.
        pictures = [Picture(normalize("NFC", picture.subject), picture.path) for picture in pictures]
        with self._out.progress(shown=len(pictures) > 1) as progress:
            for picture in progress.track(pictures, description="enrolling"):
                try:
                    self._enroll(picture)
                except PatronusError as error:
                    if _would_refuse_all(error):
                        raise
                    self._refused(picture, error)
        if len(pictures) > 1:
            self._tell(self._summary(len(pictures)))
        if self._dry_run and len(self._last) > 1 and not self._is_verify_only():
            self._tell("The pictures were compared with subjects who are enrolled, and not with one another.")
        helped = [subject for subject in self._last if (_gain(self._last[subject]) or 0) >= _LEAST_GAIN]
        if helped and not self._dry_run:
            self._tell(_advice(helped, self._last))
        self._tell_same_faces()
        return self._taken + self._elsewhere == len(pictures)

    def _tell_alike(self, pictures: list[Picture]) -> None:
        """Names folders whose names are one name to the edge, though they look alike at most."""
        written: dict[str, set[str]] = {}
        for picture in pictures:
            written.setdefault(normalize("NFC", picture.subject), set()).add(picture.subject)
        alike = [subject for subject, forms in written.items() if len(forms) > 1]
        if alike:
            names = ", ".join(alike[:_MOST_NAMED]) + (
                f" and {len(alike) - _MOST_NAMED} more" * (len(alike) > _MOST_NAMED)
            )
            self._out.warn(
                f"Several folders are one subject, since their names differ by Unicode's form alone: {names}."
            )

    def _enroll(self, picture: Picture) -> None:
        # No name is derived from a bad one: two people could end as one.
        if not is_subject_name(picture.subject):
            raise BadRequest(_BAD_NAME, reason="bad_name")
        answer = self._session.patient_client.enroll_faces(
            self._gallery,
            picture.subject,
            picture.path,
            quality_filter=self._quality,
            dry_run=self._dry_run,
            on_conflict=self._on_conflict,
        )
        [face] = answer.faces
        self._taken += 1
        self._stored[picture.subject] += face.stored != "before"
        self._last[picture.subject] = answer
        self._note_same_faces(picture.subject, face)
        result = {"subject": picture.subject, "path": str(picture.path), "enrolled": face.stored != "no"}
        of_subject = answer.model_dump(mode="json", include={"faces_enrolled", "another_picture"})
        sentence = f"{picture.path}: {_HOW[face.stored]} {picture.subject}"
        self._out.result({**result, **plain(face), **of_subject}, sentence)
        if face.agrees is False:
            self._out.warn(f"{picture.path}: {DISAGREES}")

    def _refused(self, picture: Picture, error: PatronusError) -> None:
        self._elsewhere += error.reason == MOVED_AWAY
        problem = error.problem or {"detail": error.detail, "reason": error.reason}
        sentence = f"{picture.path}: {_detail(error).removeprefix(f'{picture.path}: ')}"
        label = {"subject": picture.subject, "path": str(picture.path), "enrolled": False}
        self._out.refused({**label, **problem}, sentence)

    def _note_same_faces(self, subject: str, face: EnrolledFace) -> None:
        self._unsearched += face.also_matches is None
        for other in face.also_matches or []:
            pair = tuple(sorted((subject, other.subject)))
            self._same[pair] = max(other.similarity, self._same.get(pair, -1.0))

    def _tell(self, sentence: str) -> None:
        self._out.tell(sentence)

    def _summary(self, pictures: int) -> str:
        """One sentence about all pictures."""
        of_subjects = counted(len(self._stored), "subject")
        stored, taken = self._stored.total(), self._taken
        if taken == pictures and not stored:
            return f"Nothing was stored: all {pictures} pictures, of {of_subjects}, were enrolled already."
        done = "Nothing was stored. Would enroll" if self._dry_run else "Enrolled"
        notes = [f"{done} {stored} of {pictures} pictures, of {of_subjects}"]
        if before := taken - stored:
            notes.append(counted(before, "was enrolled already", "were enrolled already"))
        if self._elsewhere:
            notes.append(counted(self._elsewhere, *UNDER_ANOTHER_NAME))
        if refused := pictures - taken - self._elsewhere:
            notes.append(counted(refused, "was refused", "were refused"))
        return "; ".join(notes) + "."

    def _tell_same_faces(self) -> None:
        """Names subjects whom the face of another one matches, or says that they were not looked for."""
        if self._same:
            ordered = sorted(self._same.items(), key=lambda each: -each[1])
            more = f" and {len(ordered) - _MOST_NAMED} more pairs" if len(ordered) > _MOST_NAMED else ""
            pairs = [f"{' and '.join(pair)} ({similarity:.3f})" for pair, similarity in ordered]
            self._out.warn(f"Perhaps one person under two names: {', '.join(pairs[:_MOST_NAMED])}{more}.")
        if self._unsearched and len(self._last) > 1 and not self._is_verify_only():
            of = counted(self._taken, "picture")
            self._out.warn(
                f"Whether two subjects have the same face was not looked for with {self._unsearched} of {of}: the API "
                "key may not match, or not so often, or the cloud did not search."
            )

    def _is_verify_only(self) -> bool:
        return self._session.patient_client.get_gallery(self._gallery).verify_only


def _would_refuse_all(error: PatronusError) -> bool:
    """Whether every further picture would end in the same way."""
    if error.problem is None:  # of this process: the file is at fault, or no edge answers
        return not isinstance(error, BadRequest)
    return error.status in _STOPS and error.reason not in {MOVED_AWAY, _OF_ANOTHER}


def _detail(error: PatronusError) -> str:
    """What a refusal says, in words of the command line."""
    if error.reason == MOVED_AWAY:
        return ELSEWHERE
    if error.reason == _OF_ANOTHER:
        return f"is nearer to another subject ({error.extra.get('nearest')}) than to this one, and was not stored."
    return error.detail


def _gain(answer: EnrollFacesAnswer) -> float | None:
    """By how much another picture raises the share of accepted genuine comparisons."""
    shares = answer.another_picture
    return None if shares is None else shares.accepted_with_one_more - shares.accepted_now


def _advice(helped: list[str], last: dict[str, EnrollFacesAnswer]) -> str:
    if len(last) > 1:
        return f"Another picture would help {len(helped)} of {len(last)} subjects."
    [answer] = last.values()
    shares = answer.another_picture
    assert shares is not None  # noqa: S101 - else it would not help
    return (
        f"{helped[0]} has {counted(answer.faces_enrolled, 'face')}. With one more, "
        f"{100 * shares.accepted_with_one_more:.1f}% of their comparisons are accepted instead of "
        f"{100 * shares.accepted_now:.1f}%, as measured for the profile."
    )
