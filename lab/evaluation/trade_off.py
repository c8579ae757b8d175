"""What a profile costs and what it buys, measured on people that no trained part has seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lab.attacks.reconstruction import Judge, Outcome, Share, attack
from lab.data.embedders import Encoder, unit
from lab.data.splits import TEST, Labelled
from lab.evaluation.matching import one_pair_a_person
from lab.evaluation.verification import all_impostors, ten_fold_accuracy

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A matcher at its unchanged threshold.

    Attributes:
        tar: share of genuine pairs accepted.
        fmr: share of all pairs of different people accepted.
        ten_fold: mean accuracy over LFW's folds, where the people are LFW's.
        tar_at_fmr_1e3: share of genuine pairs accepted where FMR is 1e-3.
        tar_at_fmr_1e4: the same at 1e-4.
        genuine: how many genuine pairs.
        impostor: how many impostor pairs.
    """

    tar: Share
    fmr: float
    ten_fold: float | None
    tar_at_fmr_1e3: float
    tar_at_fmr_1e4: float
    genuine: int
    impostor: int


def accuracy(labelled: Labelled, probes: Rows, gallery: Rows, rows: NDArray[np.int64], tau: float) -> Accuracy:
    """Measures a matcher on some rows.

    Args:
        labelled: the people.
        probes: (n, d) float32, unit rows, of all faces.
        gallery: the same faces as the gallery holds them; the same array where both sides are protected alike.
        rows: which faces take part.
        tau: cosine.
    """
    inside = np.zeros(len(labelled.unit), dtype=bool)
    inside[rows] = True
    pairs = labelled.pairs[inside[labelled.pairs].all(axis=1)]
    both = [_cosine(probes[pairs[:, 0]], gallery[pairs[:, 1]])]
    if gallery is not probes:
        both.append(_cosine(probes[pairs[:, 1]], gallery[pairs[:, 0]]))
    scores = np.concatenate(both)
    whose = np.tile(labelled.people[pairs[:, 0]], len(both))
    other = None if gallery is probes else np.ascontiguousarray(gallery[rows])
    impostors = all_impostors(np.ascontiguousarray(probes[rows]), labelled.people[rows], other)
    return Accuracy(
        tar=Share.of((scores >= tau).astype(np.float64), whose),
        fmr=impostors.fmr(tau),
        ten_fold=_ten_fold(labelled, probes, gallery, inside),
        tar_at_fmr_1e3=float(np.mean(scores >= impostors.threshold_at(1e-3))),
        tar_at_fmr_1e4=float(np.mean(scores >= impostors.threshold_at(1e-4))),
        genuine=len(pairs),
        impostor=impostors.pairs,
    )


def _cosine(first: Rows, second: Rows) -> NDArray[np.float64]:
    return np.asarray(np.sum(first.astype(np.float64) * second, axis=1))


def _ten_fold(labelled: Labelled, probes: Rows, gallery: Rows, inside: NDArray[np.bool_]) -> float | None:
    if labelled.protocol is None:
        return None
    row = {name: at for at, name in enumerate(labelled.images.names)}
    pairs = [(row[pair.first], row[pair.second], pair.genuine, pair.fold) for pair in labelled.protocol]
    first, second, genuine, folds = (np.array(column) for column in zip(*pairs, strict=True))
    kept = inside[first] & inside[second]
    scores = _cosine(probes[first[kept]], gallery[second[kept]])
    return ten_fold_accuracy(scores, genuine[kept], folds[kept]).mean


@dataclass(frozen=True, slots=True, eq=False)
class Cases:
    """Pictures to attack: one a person, and another picture of the same person.

    Attributes:
        attacked: (k,) rows.
        other: (k,) rows.
    """

    attacked: NDArray[np.int64]
    other: NDArray[np.int64]


def cases(labelled: Labelled, most: int | None, *, seed: int = 0) -> Cases:
    """One genuine pair a person among those who test, in random order.

    Args:
        labelled: the people.
        most: how many at most; None: all.
        seed: of the order.
    """
    pairs = labelled.pairs_of(TEST)
    whose = labelled.people[pairs[:, 0]]
    chosen = pairs[one_pair_a_person(whose, whose, seed=seed, most=most)]
    return Cases(chosen[:, 0], chosen[:, 1])


def judge(encoder: Encoder, tau: float, clean: Rows, chosen: Cases) -> Judge:
    """An embedder as the judge of rebuilt faces.

    Args:
        encoder: what runs it.
        tau: cosine at which it accepts.
        clean: (n, d) float32, unit rows: its embeddings of all labelled faces.
        chosen: the cases.
    """
    return Judge(lambda faces: unit(encoder.embed(faces)), tau, clean[chosen.attacked], clean[chosen.other])


def reconstruction(
    decoder: nn.Module, labelled: Labelled, templates: Rows, chosen: Cases, judges: Mapping[str, Judge]
) -> Outcome:
    """What a decoder makes of the cases' templates: of (n, d) templates of all labelled faces, those attacked."""
    rows = chosen.attacked
    pixels = labelled.images.pixels[rows]
    return attack(decoder, np.ascontiguousarray(templates[rows]), pixels, labelled.people[rows], judges)


def floors(decoder: nn.Module, labelled: Labelled, clean: Rows, chosen: Cases, judges: Mapping[str, Judge]) -> Outcome:
    """What the same decoder makes of the clean template of somebody else: what no protection needs to go below."""
    rows = chosen.attacked
    stranger = np.roll(rows, len(rows) // 2)
    pixels = labelled.images.pixels[rows]
    return attack(decoder, np.ascontiguousarray(clean[stranger]), pixels, labelled.people[rows], judges)


def as_json(value: Accuracy | Outcome) -> dict[str, Any]:
    """For a file."""
    return asdict(value)
