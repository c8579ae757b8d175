"""The faces that ``patronus lab measure`` measures on, read once and protected in each way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from edge_service.protection.keys import PUBLIC_KEY
from edge_service.protection.profiles.files import Profile
from edge_service.protection.protect import Protector
from lab.data.embedders import Encoder, unit
from lab.data.lfw import PAIRS
from lab.data.splits import TEST, read_labelled, read_raw_people
from lab.data.verification import Ints, Rows
from lab.evaluation.demographic_figures import read_with_labels
from lab.evaluation.demographics import Labels
from lab.evaluation.subjects.scores import Population

# What further people are called.
MORE: Final = "wild"
# Unit rows to their templates: as probes, and as enrolled; the same array where both are protected alike.
Protect = Callable[[Rows], tuple[Rows, Rows]]


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """What is measured on.

    Attributes:
        people: LFW, or a folder or tar with a sub-folder a person.
        more: people with many pictures each; None: there are none.
        images: pictures named AGE_SEX_GROUP_NUMBER.jpg, as UTKFace's are; None: there are none.
        cache: for faces and embeddings.
    """

    people: Path
    more: Path | None
    images: Path | None
    cache: Path

    def names(self) -> dict[str, str]:
        """What each is called: its folder or file, for its path is nobody's business."""
        given = {"people": self.people, "more_people": self.more, "images": self.images}
        return {what: path.resolve().name for what, path in given.items() if path is not None}


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """All faces under a protection.

    Attributes:
        everyone: the labelled people.
        unseen: those of them whom no training has seen, and their genuine pairs.
        pairs: (g, 2) genuine pairs, rows of the unseen.
        more: people with many pictures each.
        strangers: probes of people of whom none is enrolled, and the same as they would be enrolled.
        labels: of the strangers.
    """

    everyone: Population
    unseen: Population
    pairs: Ints
    more: Population | None
    strangers: tuple[Rows, Rows] | None
    labels: Labels | None

    def populations(self) -> list[Population]:
        """Everyone who is labelled."""
        return [self.everyone, *([] if self.more is None else [self.more])]

    def probes(self) -> dict[str, Rows]:
        """The strangers by name."""
        return {} if self.strangers is None else {"utk": self.strangers[0]}


def protection(profile: Profile) -> Protect:
    """Unit rows to their templates as probes and as enrolled, unsealed: the seal keeps every score."""
    protector = Protector(profile)

    def protect(rows: Rows) -> tuple[Rows, Rows]:
        if profile.document.patronus is None:
            return rows, rows
        made = protector.templates(rows, PUBLIC_KEY, sealed=False).templates
        return made, made if profile.seals else rows

    return protect


def read_faces(sources: Sources, encoder: Encoder, protects: Mapping[str, Protect]) -> dict[str, Faces]:
    """Reads and embeds all faces once, and protects them in each way.

    Raises:
        SetupError: a source is missing, or has too few faces or labels.
        TooFewPeople: too few people have two pictures.
    """
    labelled = read_labelled(sources.people, encoder, sources.cache, fits=False)
    name = "lfw" if (sources.people / PAIRS).is_file() else "people"
    test = labelled.rows(TEST)
    place = np.full(len(labelled.people), -1)
    place[test] = np.arange(len(test))
    pairs = place[labelled.pairs_of(TEST)]
    more = None if sources.more is None else read_raw_people(sources.more, encoder, sources.cache)
    strangers = None if sources.images is None else read_with_labels(sources.images, encoder, sources.cache)
    found = {}
    for kind, protect in protects.items():
        everyone = _population(name, labelled.raw, labelled.people, protect)
        found[kind] = Faces(
            everyone,
            everyone.only(test, f"{name}_unseen"),
            pairs,
            None if more is None else _population(MORE, *more, protect),
            None if strangers is None else protect(strangers.unit),
            None if strangers is None else strangers.labels,
        )
    return found


def _population(name: str, raw: Rows, people: Ints, protect: Protect) -> Population:
    _, index = np.unique(people, return_inverse=True)
    probes, gallery = protect(unit(raw))
    return Population(name, probes, gallery, index.astype(np.int64), np.linalg.norm(raw.astype(np.float64), axis=1))
