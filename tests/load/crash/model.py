"""The expected state of a killed cloud: acknowledged changes, and changes without an answer."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.contract import Contract, EmbedderPin, ProfilePin, SealPin

DIM: Final = 32
TAU: Final = 0.9


class Vectors:
    """A vector for each number, and its template under each epoch of the key.

    Args:
        seed: the same one gives the same vectors and keys.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._keys: dict[int, NDArray[np.float64]] = {}
        self._known: dict[int, NDArray[np.float64]] = {}

    def key(self, epoch: int) -> NDArray[np.float64]:
        """The seal of an epoch: (DIM, DIM) float64, orthogonal."""
        if epoch not in self._keys:
            drawn = np.random.default_rng([self._seed, 1, epoch]).standard_normal((DIM, DIM))
            self._keys[epoch] = np.linalg.qr(drawn)[0]
        return self._keys[epoch]

    def sealed(self, numbers: Iterable[int], epoch: int) -> NDArray[np.float32]:
        """Templates: (n, DIM) float32, unit rows."""
        plain = np.array([self._plain(number) for number in numbers]).reshape(-1, DIM)
        turned: NDArray[np.float32] = (plain @ self.key(epoch).T).astype(np.float32)
        return turned

    def _plain(self, number: int) -> NDArray[np.float64]:
        if number not in self._known:
            drawn = np.random.default_rng([self._seed, 2, number]).standard_normal(DIM)
            self._known[number] = drawn / np.linalg.norm(drawn)
        return self._known[number]

    def envelope(self, number: int, epoch: int) -> dict[str, Any]:
        """A template as it goes over the wire."""
        data = base64.b64encode(self.sealed([number], epoch)[0].astype("<f4").tobytes()).decode()
        return {
            "version": 1,
            "contract": contract_of(epoch).digest(),
            "dim": DIM,
            "dtype": "float32",
            "data": data,
        }


def contract_of(epoch: int) -> Contract:
    """The contract of an epoch; all galleries share their keys, so that a mix-up would match."""
    return Contract(
        dim=DIM,
        embedder=EmbedderPin(name="kills", sha256="0" * 64, preprocessing="none"),
        profile=ProfilePin(name="kills", version=1, sha256="0" * 64),
        seal=SealPin(key_id=f"{epoch:032x}", epoch=f"{epoch:016x}"),
    )


# Callers, and subjects of each: enough to erase some at any time, few enough to list quickly.
CALLERS: Final = 6
SUBJECTS: Final = 6


def subject_of(caller: int, number: int) -> str:
    """The name of a caller's subject."""
    return f"s{caller}-{number}"


@cache
def sealed_names(epoch: int) -> dict[str, str]:
    """What the cloud is told of each subject under an epoch's key, by the subject's name."""
    names = (subject_of(caller, number) for caller in range(CALLERS) for number in range(SUBJECTS))
    digests = ((name, hashlib.sha512(f"{epoch} {name}".encode()).digest()) for name in names)
    return {name: "~" + base64.urlsafe_b64encode(digest).decode().rstrip("=") for name, digest in digests}


@cache
def plain_names(epoch: int) -> dict[str, str]:
    """The reverse: names by what the cloud is told."""
    return {sealed: name for name, sealed in sealed_names(epoch).items()}


@dataclass
class Gallery:
    """The expected gallery: its epoch, and each subject's template ids with the numbers of their vectors."""

    epoch: int = 0
    subjects: dict[str, dict[str, int]] = field(default_factory=dict)

    def numbers(self) -> list[int]:
        """The numbers of all its vectors."""
        return [number for templates in self.subjects.values() for number in templates.values()]


@dataclass(frozen=True)
class Unsure:
    """A change that was not acknowledged: it must be made whole or not at all.

    Attributes:
        what: in words, for the log.
        gallery: whose.
        subject: whose; None where it is about the gallery.
        other: a second subject that it is about, if any.
        made: whether a look at the service finds it made; None where it finds neither.
        accept: writes that it was made into the model.
        deny: writes that it was not.
    """

    what: str
    gallery: str
    subject: str | None
    made: Callable[[Seen], bool | None]
    accept: Callable[[], None]
    deny: Callable[[], None] = lambda: None
    other: str | None = None


@dataclass
class Seen:
    """The state of the service: each gallery's contract digest, and its subjects' template ids."""

    digests: dict[str, str] = field(default_factory=dict)
    subjects: dict[str, dict[str, set[str]]] = field(default_factory=dict)


class Model:
    """What must be stored, and what must not.

    Each caller changes galleries or subjects of its own, and so this, without a lock.

    Args:
        seed: of the vectors.
    """

    def __init__(self, seed: int) -> None:
        self.vectors = Vectors(seed)
        self.galleries: dict[str, Gallery] = {}
        # Gallery and number of each vector that was erased, or never acknowledged and not stored.
        self.gone: list[tuple[str, int]] = []
        self.unsure: list[Unsure] = []
        self.acknowledged = 0

    def enrolled(self, gallery: str, subject: str, templates: dict[str, int]) -> None:
        """Adds templates to a subject."""
        self.galleries[gallery].subjects.setdefault(subject, {}).update(templates)

    def erased(self, gallery: str, subject: str | None = None, uid: str | None = None) -> None:
        """Removes a gallery, a subject or a template."""
        if subject is None:
            self.gone += [(gallery, number) for number in self.galleries.pop(gallery).numbers()]
            return
        subjects = self.galleries[gallery].subjects
        templates = subjects[subject]
        for each in list(templates) if uid is None else [uid]:
            self.gone.append((gallery, templates.pop(each)))
        if not templates:
            del subjects[subject]

    def moved(self, gallery: str, subject: str, to: str, uids: Iterable[str]) -> None:
        """Moves templates to another subject."""
        subjects = self.galleries[gallery].subjects
        for uid in list(uids):
            subjects.setdefault(to, {})[uid] = subjects[subject].pop(uid)
        if not subjects[subject]:
            del subjects[subject]

    def settle(self, seen: Seen) -> list[str]:
        """Settles unsure changes as they were found; returns those found in part, as sentences."""
        halves = []
        for each in self.unsure:
            made = each.made(seen)
            if made is None:
                halves.append(f"neither whole nor absent: {each.what} in {each.gallery}")
            else:
                (each.accept if made else each.deny)()
        self.unsure.clear()
        return halves

    def differences(self, seen: Seen) -> tuple[list[str], list[str], list[str]]:
        """Differences of a state from the model, as sentences: lost, returned, under another key."""
        lost: list[str] = []
        back: list[str] = []
        mixed: list[str] = []
        for name in sorted(self.galleries.keys() | seen.digests.keys()):
            mine, theirs = self.galleries.get(name), seen.subjects.get(name)
            if mine is None or theirs is None:
                (lost if theirs is None else back).append(f"gallery {name}")
                continue
            if seen.digests[name] != contract_of(mine.epoch).digest():
                mixed.append(f"gallery {name} is not under epoch {mine.epoch}")
            for subject in sorted(mine.subjects.keys() | theirs.keys()):
                there, must_be = theirs.get(subject, set()), set(mine.subjects.get(subject, {}))
                if must_be - there:
                    lost.append(f"{len(must_be - there)} templates of {name}/{subject}")
                if there - must_be:
                    back.append(f"{len(there - must_be)} templates of {name}/{subject}")
        return lost, back, mixed
