"""The faces of a training, and who may be used for what: nobody is in two parts.

Attackers and perturbation learn on the pictures. Of labelled people, the first part fits the erase step and teaches
score preservation, the second calibrates, the third tests. Further people with many pictures each may help to fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lab.data.embedders import Encoder, embed_images, unit
from lab.data.images import FaceImages, read_images, split_people
from lab.data.lfw import PAIRS, Pair, read_lfw
from lab.data.matching import TooFewPeople, genuine_pairs

FIT, CALIBRATE, TEST = 0, 1, 2
_FRACTIONS: Final = (0.5, 0.2, 0.3)
# Of LFW's ten folds, which share no person. PeopleRows outside all folds help to fit.
_FOLDS: Final = {0: FIT, 1: FIT, 2: CALIBRATE, 3: CALIBRATE}
_FEWEST_PICTURES: Final = 1000
_FEWEST_PEOPLE: Final = 20
# For a person's own spread to say which picture shows somebody else.
_FEWEST_OF_ONE: Final = 5
_FAR: Final = 5.0
_MAD_TO_DEVIATION: Final = 1.4826  # of a normal distribution


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Labelled faces.

    Attributes:
        images: the faces.
        raw: (n, d) float32 embeddings as the embedder gave them.
        unit: (n, d) float32, unit rows.
        people: (n,) int64, who is on each.
        part: (n,) int64, FIT, CALIBRATE or TEST.
        pairs: (g, 2) int64, genuine pairs: the protocol's where there is one.
        protocol: LFW's pairs, where the faces are LFW's.
    """

    images: FaceImages
    raw: NDArray[np.float32]
    unit: NDArray[np.float32]
    people: NDArray[np.int64]
    part: NDArray[np.int64]
    pairs: NDArray[np.int64]
    protocol: list[Pair] | None

    def rows(self, part: int) -> NDArray[np.int64]:
        """The rows of a part."""
        return np.flatnonzero(self.part == part)

    def pairs_of(self, part: int) -> NDArray[np.int64]:
        """Genuine pairs of a part: (g, 2), rows of the whole set."""
        chosen = self.part[self.pairs] == part
        return np.asarray(self.pairs[chosen.all(axis=1)])


@dataclass(frozen=True, slots=True, eq=False)
class PeopleRows:
    """Embeddings of labelled people.

    Attributes:
        unit: (n, d) float32, unit rows.
        people: (n,) int64, who is on each.
    """

    unit: NDArray[np.float32]
    people: NDArray[np.int64]

    def only(self, kept: NDArray[np.bool_]) -> PeopleRows:
        """The rows that a (n,) mask keeps."""
        return PeopleRows(self.unit[kept], self.people[kept])


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """Everything a training needs.

    Attributes:
        encoder: the embedder.
        pictures: faces that attackers learn on.
        learned: (n, d) float32, unit rows, of these.
        labelled: labelled people.
        more: further people with many pictures each, who help to fit; None: there are none.
    """

    encoder: Encoder
    pictures: FaceImages
    learned: NDArray[np.float32]
    labelled: Labelled
    more: PeopleRows | None = None

    def fitting(self) -> list[PeopleRows]:
        """Who fits the erase step and teaches score preservation, by source; the labelled people come first."""
        rows = self.labelled.rows(FIT)
        own = PeopleRows(self.labelled.unit[rows], self.labelled.people[rows])
        return [own] if self.more is None else [own, self.more]


def read_people(source: Path, encoder: Encoder, cache: Path) -> PeopleRows:
    """All labelled people of a folder or tar with a sub-folder each, without pictures under a wrong name.

    Raises:
        SetupError: it is missing, or has too few faces.
        TooFewPeople: under 20 people have two pictures.
    """
    raw, people = read_raw_people(source, encoder, cache)
    rows = PeopleRows(unit(raw), people)
    return rows.only(alike(rows))


def read_raw_people(source: Path, encoder: Encoder, cache: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Raw embeddings of all labelled people of a folder or tar with a sub-folder each, and who is on each.

    Returns:
        (n, d) float32 and (n,) int64.

    Raises:
        SetupError: it is missing, or has too few faces.
        TooFewPeople: under 20 people have two pictures.
    """
    images = read_images(source, cache=cache)
    images = images.subset(np.array([person is not None for person in images.people]))
    found = 0
    if len(images):
        _, people, pictures = np.unique(images.people.astype(str), return_inverse=True, return_counts=True)
        found = int(np.count_nonzero(pictures > 1))
    if found < _FEWEST_PEOPLE:
        raise TooFewPeople(
            f"{_FEWEST_PEOPLE} people with two pictures or more are needed, and {source} has {found}; put the pictures "
            "of each person into a sub-folder of its own.",
            needed=_FEWEST_PEOPLE,
        )
    return np.asarray(embed_images(images, encoder, cache=cache)), people.astype(np.int64)


def alike(rows: PeopleRows) -> NDArray[np.bool_]:
    """Which pictures look like the others under the same name: (n,) bool.

    Collections hold a few pictures under a wrong name. A picture is left out where its cosine to the mean of the
    person's others lies more than five deviations under the person's median; the deviation is the robust one, from the
    median distance to the median.
    """
    kept = np.ones(len(rows.people), dtype=bool)
    for one in np.unique(rows.people):
        own = np.flatnonzero(rows.people == one)
        if len(own) < _FEWEST_OF_ONE:
            continue
        unit_rows = rows.unit[own].astype(np.float64)
        others = unit_rows.sum(axis=0) - unit_rows
        cosine = np.sum(unit_rows * others, axis=1) / np.linalg.norm(others, axis=1).clip(min=1e-12)
        middle = np.median(cosine)
        deviation = _MAD_TO_DEVIATION * np.median(np.abs(cosine - middle))
        kept[own] = cosine >= middle - _FAR * deviation
    return kept


def gather(
    images: Path,
    people: Path,
    encoder: Encoder,
    cache: Path,
    *,
    more: Path | None = None,
    pictures: int | None = None,
    paired: bool = False,
    seed: int = 0,
) -> Material:
    """Reads and embeds all faces.

    Args:
        images: folder or tar for attackers; where it is the same as ``people``, its fitting part is used.
        people: folder or tar with sub-folders a person, or a folder with LFW and its pairs.
        encoder: the embedder.
        cache: for faces and embeddings.
        more: folder or tar of further people with many pictures each; None: there are none.
        pictures: at most so many for attackers, drawn at random; None: all.
        paired: of LFW, only pictures in genuine pairs of its protocol, a third of all; no figures by fold then.
        seed: of that draw.

    Raises:
        SetupError: a source is missing, or has too few faces.
        TooFewPeople: too few people for one of the parts.
    """
    labelled = read_labelled(people, encoder, cache, paired=paired)
    if images.resolve() == people.resolve():
        rows = labelled.rows(FIT)
        rows = _drawn(rows, pictures, seed)
        own, learned = labelled.images.subset(rows), labelled.unit[rows]
        if len(rows) < _FEWEST_PICTURES:
            raise TooFewPeople(
                f"Attackers need {_FEWEST_PICTURES} pictures to learn on, half of the people's; there are {len(rows)}.",
                needed=_FEWEST_PICTURES,
            )
    else:
        own = read_images(images, cache=cache, at_least=_FEWEST_PICTURES)
        if pictures is not None and len(own) > pictures:
            own = own.subset(_drawn(np.arange(len(own)), pictures, seed))
        learned = unit(embed_images(own, encoder, cache=cache))
    further = None if more is None else read_people(more, encoder, cache)
    return Material(encoder, own, learned, labelled, further)


def _drawn(rows: NDArray[np.int64], most: int | None, seed: int) -> NDArray[np.int64]:
    if most is None or len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng([seed, 3]).choice(rows, most, replace=False))


def read_labelled(source: Path, encoder: Encoder, cache: Path, *, paired: bool = False, fits: bool = True) -> Labelled:
    """Labelled people in their parts: LFW's by its folds, others at random.

    Args:
        source: LFW with its pairs, or a folder or tar with a sub-folder a person.
        encoder: the embedder.
        cache: for faces and embeddings.
        paired: only pictures in a genuine pair of LFW's protocol.
        fits: whether the first part has to fit the erase step, which takes as many people as dimensions.

    Raises:
        SetupError: it is missing, or has too few faces.
        TooFewPeople: too few people for one of the parts.
    """
    protocol = None
    if (source / PAIRS).is_file():
        images, protocol = read_lfw(source, cache=cache)
        if paired:
            protocol = [pair for pair in protocol if pair.genuine]
            named = {name for pair in protocol for name in (pair.first, pair.second)}
            images = images.subset(np.array([name in named for name in images.names]))
    else:
        images = read_images(source, cache=cache)
        known = np.array([person is not None for person in images.people])
        if not known.all():
            images = images.subset(known)
    _, people = np.unique(images.people.astype(str), return_inverse=True)
    if protocol is None:
        part = split_people(images.people, _FRACTIONS, 0)
        pairs = genuine_pairs(people)
    else:
        part, pairs = _by_fold(images, protocol)
    if not len(images):
        raise TooFewPeople(
            f"Nobody is known in {source}; put the pictures of each person into a sub-folder of its own, of "
            f"{_enough(CALIBRATE, _FEWEST_PEOPLE)} people or more with two pictures each.",
            needed=_enough(CALIBRATE, _FEWEST_PEOPLE),
        )
    raw = np.asarray(embed_images(images, encoder, cache=cache))
    labelled = Labelled(images, raw, unit(raw), people.astype(np.int64), part, pairs, None if paired else protocol)
    needed = {FIT: raw.shape[1] if fits else 0, CALIBRATE: _FEWEST_PEOPLE, TEST: _FEWEST_PEOPLE}
    for number, name in ((FIT, "fit the erase step"), (CALIBRATE, "calibrate"), (TEST, "test")):
        found = len(np.unique(people[labelled.pairs_of(number)[:, 0]]))
        if found < needed[number]:
            whole = needed[number] if protocol else _enough(number, needed[number])
            raise TooFewPeople(
                f"To {name}, {needed[number]} people with two pictures or more are needed, and {source} has {found} in "
                f"that part; about {whole} such people in all will do.",
                needed=whole,
            )
    return labelled


def _enough(part: int, needed: int) -> int:
    """How many people there must be in all, for so many of them in a part."""
    return int(np.ceil(needed / _FRACTIONS[part]))


def _by_fold(images: FaceImages, protocol: list[Pair]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    row = {name: at for at, name in enumerate(images.names)}
    part = {}
    for pair in protocol:
        for name in (pair.first, pair.second):
            part[images.people[row[name]]] = _FOLDS.get(pair.fold, TEST)
    genuine = [(row[pair.first], row[pair.second]) for pair in protocol if pair.genuine]
    return np.array([part.get(person, FIT) for person in images.people]), np.array(genuine, dtype=np.int64)
