"""Labeled Faces in the Wild, aligned to 112 x 112, read in place from a tar: ``lfw112/NAME/NAME_0001.jpg``."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from edge_service.settings import PictureLimits
from edge_service.vision.align import SIDE
from edge_service.vision.decode import decode
from lab.data.image_store import DEFAULT
from lab.data.images import FaceImages, read_tar
from shared.errors import SetupError

TAR, PAIRS = "lfw112.tar", "lfw_pairs.txt"


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair of LFW's standard protocol, view 2; pictures are ``NAME/NAME_0001``."""

    first: str
    second: str
    genuine: bool
    fold: int


class Lfw:
    """The data set in a folder.

    Args:
        folder: holds ``lfw112.tar`` and ``lfw_pairs.txt``.

    Raises:
        SetupError: one of them is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._tar, self._pairs = folder / TAR, folder / PAIRS
        for path in (self._tar, self._pairs):
            if not path.is_file():
                raise SetupError(f"{path} is missing; name the folder that holds {TAR} and {PAIRS}.")

    def names(self) -> list[str]:
        """All pictures, ``NAME/NAME_0001``, in order."""
        with tarfile.open(self._tar) as tar:
            return sorted(_name(member) for member in tar.getmembers() if member.isfile())

    def faces(self, names: list[str]) -> NDArray[np.uint8]:
        """Aligned faces: (n, 112, 112, 3) uint8 RGB, in the order of the names."""
        unique, rows = np.unique(names, return_inverse=True)
        at = {name: row for row, name in enumerate(unique)}
        found = np.empty((len(unique), SIDE, SIDE, 3), np.uint8)
        limits = PictureLimits()
        with tarfile.open(self._tar) as tar:
            for member in tar:
                row = at.pop(_name(member), None) if member.isfile() else None
                file = None if row is None else tar.extractfile(member)
                if file is not None:
                    found[row] = decode(file.read(), limits)
        if at:
            raise SetupError(f"{self._tar} lacks {len(at)} pictures, {min(at)} among them; get it again.")
        return found if len(rows) == len(found) and np.array_equal(rows, np.arange(len(rows))) else found[rows]

    def pairs(self) -> list[Pair]:
        """The 6,000 pairs of view 2, in ten folds of 300 genuine and 300 impostor pairs."""
        pairs = []
        try:
            lines = [line.split() for line in self._pairs.read_text().splitlines() if line.strip()]
            folds, each = int(lines[0][0]), int(lines[0][1])
            for position, (name, first, *rest) in enumerate(lines[1:]):
                other, second = rest if len(rest) == 2 else (name, *rest)
                pair = Pair(_picture(name, first), _picture(other, second), len(rest) == 1, position // (2 * each))
                pairs.append(pair)
        except (ValueError, IndexError):
            raise SetupError(f"{self._pairs} is no list of LFW's pairs; get it again.") from None
        if len(pairs) != folds * each * 2:
            raise SetupError(f"{self._pairs} is cut off: it holds {len(pairs)} pairs of {folds * each * 2}.")
        return pairs


def read_lfw(folder: Path, *, cache: Path = DEFAULT) -> tuple[FaceImages, list[Pair]]:
    """Labeled Faces in the Wild, with the pairs of its protocol; images are named as in the pairs, ``NAME/NAME_0001``.

    Args:
        folder: holds ``lfw112.tar`` and ``lfw_pairs.txt``.
        cache: where the faces are kept for the next run.

    Raises:
        SetupError: one of them is missing, or a pair names an image that is not there.
    """
    pairs = Lfw(folder).pairs()
    images = read_tar(folder / TAR, cache=cache)
    names = np.array([str(PurePosixPath(name).with_suffix("")) for name in images.names], dtype=object)
    missing = {name for pair in pairs for name in (pair.first, pair.second)} - set(names)
    if missing:
        raise SetupError(f"{folder / PAIRS} names {len(missing)} images that are not in {TAR}; get both again.")
    return replace(images, names=names), pairs


def person(name: str) -> str:
    """Who is on the picture ``NAME/NAME_0001``."""
    return name.split("/", maxsplit=1)[0]


def _name(member: tarfile.TarInfo) -> str:
    return "/".join(Path(member.name).with_suffix("").parts[-2:])


def _picture(name: str, number: str) -> str:
    return f"{name}/{name}_{int(number):04d}"
