"""Which pictures a folder holds, and of whom."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from shared.errors import BadRequest

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._@-]+")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture file and the subject that it shows."""

    subject: str
    path: Path


def pictures_of(subject: str, paths: list[Path]) -> list[Picture]:
    """The pictures of one subject: the files, and all picture files of the folders, in the order of their names.

    Raises:
        BadRequest: a path is not there, or a folder holds no picture.
    """
    found = []
    for path in paths:
        if not path.exists():
            raise BadRequest(f"{path}: there is no such file or folder.")
        inside = _in_folder(path) if path.is_dir() else [path]
        if not inside:
            raise BadRequest(f"{path}: holds no JPEG, PNG or WebP picture.")
        found += [Picture(subject, each) for each in inside]
    return found


def people_in(folder: Path) -> list[Picture]:
    """The pictures of many subjects: ``FOLDER/SUBJECT/*.jpg``, or ``FOLDER/SUBJECT.jpg``.

    Characters that a subject's name may not have become hyphens.

    Raises:
        BadRequest: not a folder, nothing in it, or a name with no usable character.
    """
    if not folder.is_dir():
        raise BadRequest(f"{folder}: is not a folder.")
    found = [Picture(_subject(path.stem), path) for path in _in_folder(folder, deep=False)]
    for inside in sorted(path for path in folder.iterdir() if path.is_dir()):
        found += [Picture(_subject(inside.name), path) for path in _in_folder(inside)]
    if not found:
        raise BadRequest(f"{folder}: holds neither pictures nor folders of pictures.")
    return found


def _in_folder(folder: Path, *, deep: bool = True) -> list[Path]:
    paths = folder.rglob("*") if deep else folder.iterdir()
    return sorted(path for path in paths if path.is_file() and path.suffix.lower() in _SUFFIXES)


def _subject(name: str) -> str:
    made = _NOT_IN_A_NAME.sub("-", name).lstrip("._@-")[:128]
    if not made:
        raise BadRequest(f"{name}: no subject's name can be made of this; use letters, digits or ._@-")
    return made
