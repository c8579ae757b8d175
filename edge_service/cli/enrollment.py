"""Enrolls many pictures, with progress and a summary of refusals."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from edge_service.cli.edge_client import Refused
from edge_service.cli.output import DISAGREES
from edge_service.cli.session import Session, gallery_path
from shared.command import counted
from shared.errors import BadRequest
from shared.names import is_subject_name

_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_BAD_NAME = (
    "A subject cannot have this name; use 1 to 128 characters, no slash or control character, no blank at an end."
)
# Of genuine comparisons: a smaller gain by another picture is not worth a sentence.
_LEAST_GAIN: Final = 0.002
# Statuses that every further picture would be refused with.
_STOPS: Final = frozenset({401, 403, 404, 409, 502, 503})


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


def enroll_all(session: Session, gallery: str, pictures: list[Picture], quality: str | None) -> bool:
    """Enrolls pictures one by one.

    Returns:
        Whether every one was taken.

    Raises:
        Refused: the edge would refuse every picture: no such gallery, no right to enroll, or no cloud.
        SetupError: no edge answers.
    """
    path, client, out = gallery_path(gallery), session.client, session.out
    refused = 0
    enrolled: Counter[str] = Counter()
    last: dict[str, dict[str, Any]] = {}
    with out.progress(shown=len(pictures) > 1) as progress:
        for picture in progress.track(pictures, description="enrolling"):
            label = {"subject": picture.subject, "path": str(picture.path)}
            try:
                # No name is derived from a bad one: two people could end as one.
                if not is_subject_name(picture.subject):
                    raise BadRequest(_BAD_NAME, reason="bad_name")
                faces = f"{path}/subjects/{quote(picture.subject, safe='')}/faces"
                answer = client.send_picture(faces, picture.path, quality_filter=quality)
            except (Refused, BadRequest) as error:
                problem = getattr(error, "problem", {"detail": error.detail, "reason": error.reason})
                if problem.get("status") in _STOPS:
                    raise
                refused += 1
                sentence = f"{picture.path}: {error.detail.removeprefix(f'{picture.path}: ')}"
                out.refused({**label, "enrolled": False, **problem}, sentence)
            else:
                face = answer["faces"][0]
                enrolled[picture.subject] += face["stored"] == "now"
                how = "enrolled as" if face["stored"] == "now" else "is enrolled already as"
                last[picture.subject] = of_subject = {
                    name: answer[name] for name in ("faces_enrolled", "another_picture")
                }
                sentence = f"{picture.path}: {how} {picture.subject}"
                out.result({**label, "enrolled": True, **face, **of_subject}, sentence)
                if face["agrees"] is False:
                    out.warn(f"{picture.path}: {DISAGREES}")
    if len(pictures) > 1:
        notes = [f"Enrolled {enrolled.total()} of {len(pictures)} pictures, of {counted(len(enrolled), 'subject')}"]
        before = len(pictures) - refused - enrolled.total()
        if before:
            notes.append(counted(before, "was enrolled already", "were enrolled already"))
        if refused:
            notes.append(counted(refused, "was refused", "were refused"))
        out.people.print("; ".join(notes) + ".", markup=False, soft_wrap=True)
    helped = [subject for subject in last if (_gain(last[subject]) or 0) >= _LEAST_GAIN]
    if helped:
        out.people.print(_advice(helped, last), markup=False, soft_wrap=True)
    return not refused


def _gain(of_subject: dict[str, Any]) -> float | None:
    """By how much another picture raises the share of accepted genuine comparisons."""
    shares = of_subject["another_picture"]
    return None if shares is None else shares["accepted_with_one_more"] - shares["accepted_now"]


def _advice(helped: list[str], last: dict[str, dict[str, Any]]) -> str:
    if len(last) > 1:
        return f"Another picture would help {len(helped)} of {len(last)} subjects."
    [of_subject] = last.values()
    shares = of_subject["another_picture"]
    return (
        f"{helped[0]} has {counted(of_subject['faces_enrolled'], 'face')}. With one more, "
        f"{100 * shares['accepted_with_one_more']:.1f}% of their comparisons are accepted instead of "
        f"{100 * shares['accepted_now']:.1f}%, as measured for the profile."
    )
