"""Sets of aligned faces for the lab: one's own folder of pictures, a tar of aligned faces, or LFW with its pairs.

Faces of ordinary pictures are found and aligned by the edge's own code, so the lab sees what the edge sees.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tarfile
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_service.models.files import sha256_of_file
from edge_service.models.store import locate
from edge_service.settings import EdgeSettings, PictureLimits
from edge_service.vision.align import SIDE
from edge_service.vision.decode import Pixels, decode
from edge_service.vision.embed import SFACE
from edge_service.vision.quality import level_for
from edge_service.vision.reader import FaceReader, single_face
from lab.data.alignment import SAMPLE, Mending, mending_of
from lab.data.image_store import DEFAULT, digest_of, written_whole
from lab.progress import progress
from shared.errors import FaceRefused, PatronusError, SetupError
from shared.metrics import Metrics

# Goes up when the same source would give other pixels, names or people: what is in the cache is then made anew.
FORMAT: Final = 3
# Pictures that decide whether a folder is aligned already.
_CHECKED: Final = 20
_NAMED: Final = 10  # of the skipped pictures
_SHAPE: Final = (SIDE, SIDE, 3)

_log = logging.getLogger(__name__)
_Member = TypeVar("_Member")


@dataclass(frozen=True, slots=True)
class Skipped:
    """Pictures that are not in the set.

    Attributes:
        counts: how many, by reason: ``no_face``, ``several_faces``, ``unreadable``, ``not_aligned``, or one of the
            edge's reasons to refuse a poor face.
        names: the first ten of them, relative to the source.
    """

    counts: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def add(self, name: str, reason: str) -> None:
        """Counts one more."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if len(self.names) < _NAMED:
            self.names.append(name)

    def __str__(self) -> str:
        if not self.counts:
            return "none skipped"
        counts = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in sorted(self.counts.items()))
        more = ", ..." if sum(self.counts.values()) > len(self.names) else ""
        return f"skipped: {counts} ({', '.join(self.names)}{more})"


@dataclass(frozen=True, slots=True, eq=False)
class FaceImages:
    """Aligned faces.

    Attributes:
        names: (n,) str, unique, relative to the source.
        people: (n,) object: str, or None where it is not known who that is.
        pixels: (n, 112, 112, 3) uint8 RGB; may be mapped from a file, and is then read-only.
        digest: hex SHA-256 of what the set was made from.
        skipped: what of the source is not in the set.
    """

    names: NDArray[np.object_]
    people: NDArray[np.object_]
    pixels: NDArray[np.uint8]
    digest: str
    skipped: Skipped = field(default_factory=Skipped)

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, rows: NDArray[np.integer[Any]] | NDArray[np.bool_]) -> FaceImages:
        """Some of the faces, by row numbers or by a mask; the pixels are copied."""
        at = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows.astype(np.int64)
        digest = hashlib.sha256(self.digest.encode() + at.astype("<i8").tobytes()).hexdigest()
        return FaceImages(self.names[at], self.people[at], np.asarray(self.pixels[at]), digest)


def split_people(
    people: Sequence[str] | NDArray[np.object_], fractions: Sequence[float], seed: int
) -> NDArray[np.int64]:
    """Assigns each image to a part, with no person in two of them: (n,) int64, 0 to the number of fractions.

    A person's part depends on the person's name and the seed alone.

    Args:
        people: who is on each image.
        fractions: the expected size of each part; their sum is 1.
        seed: of the split.
    """
    places = {person: _uniform(person, seed) for person in set(people)}
    part = np.searchsorted(np.cumsum(fractions), [places[person] for person in people], side="right")
    return np.minimum(part, len(fractions) - 1).astype(np.int64)


def _uniform(person: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}/{unicodedata.normalize('NFC', f'person/{person}')}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2.0**48


def read_images(source: Path, *, cache: Path = DEFAULT, at_least: int = 1, fills: bool = True) -> FaceImages:
    """The faces of a folder or a tar; see ``read_folder`` and ``read_tar``.

    Raises:
        SetupError: it is neither, or has too few faces.
    """
    if source.is_dir():
        return read_folder(source, cache=cache, at_least=at_least, fills=fills)
    return read_tar(source, cache=cache, at_least=at_least, fills=fills)


def read_folder(
    folder: Path, *, cache: Path = DEFAULT, aligned: bool | None = None, at_least: int = 1, fills: bool = True
) -> FaceImages:
    """The faces of a folder of pictures.

    A sub-folder is a person, with all that lies below it; nobody knows who is on pictures at the top. Hidden files are
    passed over. A picture must show one face that the edge would take as a probe.

    Args:
        folder: JPEG, PNG or WebP pictures.
        cache: where the faces are kept for the next run.
        aligned: whether the pictures are aligned faces of 112 x 112; None: if the first 20 by name are of that size.
        at_least: how many faces are needed.
        fills: whether black borders of aligned faces may be filled; false to measure matching, see ``alignment``.

    Raises:
        SetupError: no such folder, or too few faces in it.
    """
    if not folder.is_dir():
        raise SetupError(f"{folder} is not a folder; name one that holds pictures.")
    files = sorted(_files(folder))
    if aligned is None:
        aligned = _are_aligned(folder, files)
        if files:
            rule = f"the first {min(_CHECKED, len(files))} pictures are {'all' if aligned else 'not all'} 112 x 112"
            _log.info("%s: %s, so faces are %s", folder, rule, "taken as aligned" if aligned else "found and aligned")
    stamps = [(name, *_stamp(folder / name)) for name in files]
    digest = digest_of("folder", FORMAT, aligned, locate("face-detector").sha256, stamps, *_unfilled(fills))
    cached = _load(cache, digest)
    if cached is None:
        reader = None if aligned else FaceReader(EdgeSettings(embedder=SFACE.name), Metrics("lab"))
        read = [(name, _person(name), folder / name) for name in files]
        found = _from_files(iter(read), reader)
        if aligned:
            found = _mended(found, _mending(_from_files(iter(_sampled(read)), None), str(folder), fills=fills))
        cached = _decode(cache, digest, found, len(files))
    return _enough(cached, str(folder), at_least)


def read_tar(path: Path, *, cache: Path = DEFAULT, at_least: int = 1, fills: bool = True) -> FaceImages:
    """The faces of a tar of aligned 112 x 112 pictures, mended as a whole where they need it; see ``alignment``.

    A folder is a person, below the one folder that all members may share.

    Args:
        path: the tar, of plain files and folders alone.
        cache: where the faces are kept for the next run.
        at_least: how many faces are needed.
        fills: whether black borders may be filled; false to measure matching, see ``alignment``.

    Raises:
        SetupError: no such file, not a tar, a member that is neither file nor folder, or too few faces.
    """
    content = sha256_of_file(path)
    if content is None:
        raise SetupError(f"{path} is missing; name a folder of pictures or a tar of aligned faces.")
    digest = digest_of("tar", FORMAT, locate("face-detector").sha256, content, *_unfilled(fills))
    cached = _load(cache, digest)
    if cached is None:
        try:
            with tarfile.open(path) as tar:
                members = _members(tar, path)
                mending = _mending(_from_tar(tar, _sampled(members)), str(path), fills=fills)
                cached = _decode(cache, digest, _mended(_from_tar(tar, members), mending), len(members))
        except tarfile.TarError as problem:
            raise SetupError(f"{path} is not a tar, or is cut off; make or copy it again.") from problem
    return _enough(cached, str(path), at_least)


def _files(folder: Path) -> Iterator[str]:
    """Every file that is not hidden, relative and with slashes; links to folders are not followed."""
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(here, name).is_file():
                yield Path(here, name).relative_to(folder).as_posix()


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _person(name: str) -> str | None:
    """The first folder on the way to a file."""
    parts = PurePosixPath(name).parts
    return parts[0] if len(parts) > 1 else None


def _are_aligned(folder: Path, files: list[str]) -> bool:
    checked = _from_files(((name, None, folder / name) for name in files[:_CHECKED]), None)
    kinds = {face if isinstance(face, str) else "aligned" for _, _, face in checked}
    return "aligned" in kinds and "not_aligned" not in kinds


def _bytes(path: Path, limits: PictureLimits) -> bytes:
    """No more of a file than tells that it is over the limit."""
    try:
        with path.open("rb") as file:
            return file.read(limits.max_bytes + 1)
    except OSError:
        return b""  # refused by the decoder, and so counted


_Found = tuple[str, str | None, Pixels | str]  # name, person, and the face or why there is none


def _from_files(files: Iterator[tuple[str, str | None, Path]], reader: FaceReader | None) -> Iterator[_Found]:
    limits = PictureLimits()
    for name, person, path in files:
        data = _bytes(path, limits)
        yield name, person, _aligned(data, limits) if reader is None else _face(data, reader)


def _face(data: bytes, reader: FaceReader) -> Pixels | str:
    """The one face of a picture, or why it has none."""
    try:
        return single_face(reader.read(data), level_for("auto", "probe")).aligned
    except FaceRefused as refused:
        return refused.reason or "no_face"
    except (PatronusError, ValueError):
        return "unreadable"


def _aligned(data: bytes, limits: PictureLimits) -> Pixels | str:
    try:
        pixels = decode(data, limits)
    except PatronusError:
        return "unreadable"
    return pixels if pixels.shape == _SHAPE else "not_aligned"


def _members(tar: tarfile.TarFile, path: Path) -> list[tuple[str, tarfile.TarInfo]]:
    """Files with their names below the folder that all share, in order of name."""
    members = []
    for member in tar:
        if not (member.isfile() or member.isdir()):
            raise SetupError(f"{path} has {member.name}, which is neither file nor folder; make a tar of plain files.")
        hidden = any(part.startswith(".") and part != "." for part in PurePosixPath(member.name).parts)
        if member.isfile() and not hidden:
            members.append((PurePosixPath(member.name), member))
    shared = len({name.parts[0] for name, _ in members}) == 1 and all(len(name.parts) > 1 for name, _ in members)
    found = {str(PurePosixPath(*name.parts[1:]) if shared else name): member for name, member in members}
    return sorted(found.items())


def _from_tar(tar: tarfile.TarFile, members: list[tuple[str, tarfile.TarInfo]]) -> Iterator[_Found]:
    limits = PictureLimits()
    for name, member in members:
        file = tar.extractfile(member) if member.size <= limits.max_bytes else None
        yield name, _person(name), "unreadable" if file is None else _aligned(file.read(), limits)


def _sampled(members: Sequence[_Member]) -> list[_Member]:
    """Some of them, from all over."""
    every = max(1, len(members) // SAMPLE)
    return list(members[::every][:SAMPLE])


def _unfilled(fills: bool) -> tuple[str, ...]:
    """A part of the cache's key: none for filled faces, whose key is as it always was."""
    return () if fills else ("unfilled",)


def _mending(found: Iterator[_Found], source: str, *, fills: bool) -> Mending:
    mending = mending_of((face for _, _, face in found if not isinstance(face, str)), fills=fills)
    if str(mending):
        _log.info("%s: faces are %s", source, mending)
    return mending


def _mended(found: Iterator[_Found], mending: Mending) -> Iterator[_Found]:
    for name, person, face in found:
        yield name, person, face if isinstance(face, str) else mending(face)


def _decode(cache: Path, digest: str, found: Iterator[_Found], total: int) -> FaceImages:
    """Writes the faces into the cache as they come, so that a large set needs no memory; the index comes last."""
    names: list[str] = []
    people: list[str | None] = []
    skipped = Skipped()
    pixels, index = _places(cache, digest)
    with written_whole(pixels) as file:
        for name, person, face in progress(found, "reading faces", total):
            if isinstance(face, str):
                skipped.add(name, face)
                continue
            file.write(np.ascontiguousarray(face).tobytes())
            names.append(name)
            people.append(person)
    with written_whole(index) as file:
        known = {"names": names, "people": people, "counts": skipped.counts, "skipped": skipped.names}
        file.write(json.dumps(known).encode())
    loaded = _load(cache, digest)
    if loaded is None:
        raise SetupError(f"The faces cannot be read back from {cache}; name another folder with --cache.")
    return loaded


def _load(cache: Path, digest: str) -> FaceImages | None:
    raw, index = _places(cache, digest)
    try:
        known = json.loads(index.read_bytes())
        names, people = (np.array(known[what], dtype=object) for what in ("names", "people"))
        # An empty file cannot be mapped.
        pixels = np.memmap(raw, np.uint8, "r") if len(names) else np.empty(0, np.uint8)
        faces = np.asarray(pixels.reshape(len(names), *_SHAPE))
        return FaceImages(names, people, faces, digest, Skipped(known["counts"], known["skipped"]))
    except (OSError, ValueError, KeyError):
        return None


def _places(cache: Path, digest: str) -> tuple[Path, Path]:
    stem = cache / "images" / digest[:32]
    return stem.with_suffix(".rgb"), stem.with_suffix(".json")


def _enough(images: FaceImages, source: str, at_least: int) -> FaceImages:
    _log.info("%s: %d faces, %s", source, len(images), images.skipped)
    if len(images) < at_least:
        raise SetupError(
            f"{source} gives {len(images)} faces where at least {at_least} are needed; {images.skipped}.",
            reason="too-few-faces",
            found=len(images),
            needed=at_least,
        )
    return images
