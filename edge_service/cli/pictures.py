"""Which pictures a folder holds, and of whom."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from shared.errors import BadRequest
from shared.names import SUBJECT_PATTERN

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_NAME = re.compile(SUBJECT_PATTERN)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture file and the subject that it shows."""

    subject: str
    path: Path

    @property
    def is_named_well(self) -> bool:
        """Whether a subject may have this name. None is made up from it: two people could end as one."""
        return _NAME.fullmatch(self.subject) is not None


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
