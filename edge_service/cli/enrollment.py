"""Enrolls many pictures, with progress, a summary of refusals, and subjects who have the same face."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from unicodedata import normalize

from edge_service.cli.output import DISAGREES, plain
from edge_service.cli.session import Session
from shared.client.call import check_name
from shared.command import counted
from shared.errors import BadRequest, Conflict, Forbidden, PatronusError, Retryable, Unprocessable
from shared.names import QualityFilter, is_subject_name
from shared.wire.edge import EnrollFacesAnswer

_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".avif", ".heic"})
_BAD_NAME = (
    "A subject cannot have this name; use 1 to 128 characters, no slash or control character, no blank at an end."
)
# Of genuine comparisons: a smaller gain by another picture is not worth a sentence.
_LEAST_GAIN: Final = 0.002
# Statuses that every further picture would be refused with.
_STOPS: Final = frozenset({401, 403, 404, 409, 429, 502, 503})
# Of one picture alone: it was enrolled under this name, and its face was moved to another subject since.
_MOVED_AWAY: Final = "template_id_taken"
_MOVED: Final = "is enrolled under another name: it was enrolled under this one, and was moved or renamed since."
# Pictures that are searched for among the other subjects: each costs about as much as its enrollment.
_MOST_SEARCHED: Final = 200
_CANDIDATES: Final = 5
# Pairs of subjects that are named.
_MOST_NAMED: Final = 20


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


def people_in(folder: Path) -> list[Picture]:
    """The pictures of many subjects: ``FOLDER/SUBJECT/*.jpg``, or ``FOLDER/SUBJECT.jpg``.

    Raises:
        BadRequest: not a folder, or nothing in it.
    """
    if not folder.is_dir():
        raise BadRequest(f"{folder}: is not a folder.")
    found = [Picture(path.stem, path) for path in _in_folder(folder, deep=False)]
    for inside in sorted(path for path in folder.iterdir() if path.is_dir()):
        found += [Picture(inside.name, path) for path in _in_folder(inside)]
    if not found:
        raise BadRequest(f"{folder}: holds neither pictures nor folders of pictures.")
    return found


def _in_folder(folder: Path, *, deep: bool = True) -> list[Path]:
    paths = folder.rglob("*") if deep else folder.iterdir()
    return sorted(path for path in paths if path.is_file() and path.suffix.lower() in _SUFFIXES)


def enroll_all(session: Session, gallery: str, pictures: list[Picture], quality: QualityFilter | None) -> bool:
    """Enrolls pictures one by one. Of several, it also searches for subjects who have the face of another one.

    Returns:
        Whether every one was taken.

    Raises:
        BadRequest: no gallery can have this name.
        PatronusError: the edge would refuse every picture: no such gallery, no right to enroll, or no cloud.
        ServiceUnreachable: no edge answers.
    """
    check_name("gallery", gallery)
    client, out = session.patient_client, session.out
    # As the edge calls them: some systems write the names of files in another form of Unicode.
    pictures = [Picture(normalize("NFC", picture.subject), picture.path) for picture in pictures]
    taken: list[Picture] = []
    enrolled: Counter[str] = Counter()
    last: dict[str, EnrollFacesAnswer] = {}
    with out.progress(shown=len(pictures) > 1) as progress:
        for picture in progress.track(pictures, description="enrolling"):
            label = {"subject": picture.subject, "path": str(picture.path)}
            try:
                # No name is derived from a bad one: two people could end as one.
                if not is_subject_name(picture.subject):
                    raise BadRequest(_BAD_NAME, reason="bad_name")
                answer = client.enroll_faces(gallery, picture.subject, picture.path, quality_filter=quality)
            except PatronusError as error:
                if _would_refuse_all(error):
                    raise
                problem = error.problem or {"detail": error.detail, "reason": error.reason}
                detail = _MOVED if error.reason == _MOVED_AWAY else error.detail
                sentence = f"{picture.path}: {detail.removeprefix(f'{picture.path}: ')}"
                out.refused({**label, "enrolled": False, **problem}, sentence)
            else:
                taken.append(picture)
                [face] = answer.faces
                enrolled[picture.subject] += face.stored == "now"
                how = "enrolled as" if face.stored == "now" else "is enrolled already as"
                last[picture.subject] = answer
                of_subject = answer.model_dump(mode="json", include={"faces_enrolled", "another_picture"})
                sentence = f"{picture.path}: {how} {picture.subject}"
                out.result({**label, "enrolled": True, **plain(face), **of_subject}, sentence)
                if face.agrees is False:
                    out.warn(f"{picture.path}: {DISAGREES}")
    if len(pictures) > 1:
        summary = _summary(len(pictures), len(taken), enrolled)
        out.people.print(summary, markup=False, soft_wrap=True)
    helped = [subject for subject in last if (_gain(last[subject]) or 0) >= _LEAST_GAIN]
    if helped:
        out.people.print(_advice(helped, last), markup=False, soft_wrap=True)
    if len(taken) > 1:
        _tell_same_faces(session, gallery, taken, quality)
    return len(taken) == len(pictures)


def _would_refuse_all(error: PatronusError) -> bool:
    """Whether every further picture would end in the same way."""
    if error.problem is None:  # of this process: the file is at fault, or no edge answers
        return not isinstance(error, BadRequest)
    return error.status in _STOPS and error.reason != _MOVED_AWAY


def _summary(pictures: int, taken: int, enrolled: Counter[str]) -> str:
    """One sentence about a whole enrollment."""
    of_subjects = counted(len(enrolled), "subject")
    if taken == pictures and not enrolled.total():
        return f"Nothing was stored: all {pictures} pictures, of {of_subjects}, were enrolled already."
    notes = [f"Enrolled {enrolled.total()} of {pictures} pictures, of {of_subjects}"]
    before = taken - enrolled.total()
    if before:
        notes.append(counted(before, "was enrolled already", "were enrolled already"))
    if taken < pictures:
        notes.append(counted(pictures - taken, "was refused", "were refused"))
    return "; ".join(notes) + "."


def _tell_same_faces(session: Session, gallery: str, taken: list[Picture], quality: QualityFilter | None) -> None:
    """Searches the gallery for enrolled pictures, and names subjects whom the face of another one matches.

    One picture of each subject comes first, and no more than some hundred are searched for. A verify-only gallery, and
    a key that may not match, are not searched.
    """
    client, out = session.patient_client, session.out
    chosen = search_order(taken)[:_MOST_SEARCHED]
    found: dict[frozenset[str], tuple[float, Picture, str]] = {}
    with out.progress() as progress:
        for picture in progress.track(chosen, description="looking for the same face under two names"):
            try:
                answer = client.identify_faces(gallery, picture.path, top_k=_CANDIDATES, quality_filter=quality)
            except (Unprocessable, BadRequest):
                continue  # such as a picture that is good enough to be enrolled by the edge, and not to be searched for
            except (Conflict, Forbidden, Retryable) as error:
                if error.reason != "verify_only" and len({one.subject for one in taken}) > 1:
                    out.warn(f"Whether two subjects have the same face was not looked for. {error.detail}")
                break
            for one in [one for face in answer.faces for one in face.candidates]:
                pair = frozenset({picture.subject, one.subject})
                if len(pair) > 1:
                    found.setdefault(pair, (one.similarity, picture, one.subject))
    if not found:
        return
    ordered = sorted(found.values(), key=lambda each: -each[0])
    more = f" and {len(ordered) - _MOST_NAMED} more pairs" if len(ordered) > _MOST_NAMED else ""
    searched = "" if len(chosen) == len(taken) else f" {len(chosen)} of {len(taken)} pictures were searched for."
    pairs = [f"{picture.subject} and {other} ({similarity:.3f})" for similarity, picture, other in ordered]
    out.warn(f"Perhaps one person under two names: {', '.join(pairs[:_MOST_NAMED])}{more}.{searched}")
    if out.as_json:
        for similarity, picture, other in ordered:
            others = [{"subject": other, "similarity": similarity}]
            out.result({"subject": picture.subject, "path": str(picture.path), "also_matches": others}, "")


def search_order(pictures: list[Picture]) -> list[Picture]:
    """Pictures with one of each subject first, then another of each, and so on."""
    seen: Counter[str] = Counter()
    numbered = []
    for picture in pictures:
        numbered.append((seen[picture.subject], picture))
        seen[picture.subject] += 1
    return [picture for _, picture in sorted(numbered, key=lambda each: each[0])]


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
