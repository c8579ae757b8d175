"""What an attacker gets: faces rebuilt from templates, judged by a matcher and by eye.

Type I: the rebuilt face is accepted as the person on the very picture it came from. Type II: as the person on another
picture, which is what would open a door (Mai et al., TPAMI 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import nn

from lab.data.embedders import Encoder, unit
from lab.data.matching import one_pair_a_person
from lab.data.pixels import resized
from lab.data.splits import TEST, Labelled
from lab.data.verification import Rows, Share
from lab.defence.decoders import rebuilt, shrunk

Unit = NDArray[np.float32]
_SIDE: Final = 112
_CHUNK: Final = 256
# Of a picture that is the same bit by bit, for its PSNR to be a number: 100 dB.
_LEAST_ERROR: Final = 1e-10
# Faces whose perceptual distance is taken: it costs more than all the rest.
_PERCEIVED: Final = 150


@dataclass(frozen=True, slots=True)
class Judge:
    """An embedder that rebuilt faces are shown to.

    Attributes:
        embed: (n, 112, 112, 3) uint8 RGB to (n, d) unit rows.
        tau: cosine at which it accepts.
        same: (n, d) its embeddings of the pictures that were attacked.
        other: (n, d) its embeddings of another picture of each person.
    """

    embed: Callable[[NDArray[np.uint8]], Unit]
    tau: float
    same: Unit
    other: Unit


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attack; by the judges' names where there are several.

    Attributes:
        ssim: structural similarity to the picture, scikit-image's, at the decoder's own resolution.
        mse: mean squared difference of pixels in 0..1.
        psnr: peak signal-to-noise ratio in dB.
        cosine: between the rebuilt face and the attacked picture.
        type_1: share accepted against the attacked picture.
        type_2: share accepted against other photo of the person.
        stranger: what ``type_2`` is by chance: the mean share of other people, of those attacked, as whom a rebuilt
            face is accepted. An attack that has learned nothing of the person gets no more; a face that resembles
            many is accepted as some of them.
        perceptual: distance as people see it, where somebody looked, of 150 faces at most; see ``Perception``.
        found: share in which a face was found, where somebody looked; the others count as not accepted.
    """

    ssim: Share
    mse: Share
    psnr: Share
    cosine: dict[str, Share]
    type_1: dict[str, Share]
    type_2: dict[str, Share]
    stranger: dict[str, Share]
    perceptual: Share | None = None
    found: Share | None = None


class Perception(Protocol):
    """Perception at rebuilt faces as a camera's software and a person would."""

    def faces(self, pictures: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Whether a detector finds a face: (n, 112, 112, 3) uint8 RGB to (n,)."""
        ...

    def distance(self, made: NDArray[np.uint8], true: NDArray[np.uint8]) -> NDArray[np.float64]:
        """A perceptual distance, 0 for the same picture: twice (n, 112, 112, 3) uint8 RGB to (n,)."""
        ...


def attack(
    decoder: nn.Module,
    templates: Unit,
    pixels: NDArray[np.uint8],
    people: NDArray[np.int64],
    judges: Mapping[str, Judge],
    perception: Perception | None = None,
) -> Outcome:
    """Rebuilds faces and judges them.

    Args:
        decoder: an attacker.
        templates: (n, d) float32, what it got.
        pixels: (n, 112, 112, 3) uint8 RGB, the pictures behind the templates.
        people: (n,) who is on each.
        judges: by name.
        perception: perception at them too, where given.
    """
    faces = rebuilt(decoder, templates)
    return judged(faces, pixels, people, judges, perception)


def judged(
    faces: NDArray[np.float32],
    pixels: NDArray[np.uint8],
    people: NDArray[np.int64],
    judges: Mapping[str, Judge],
    perception: Perception | None = None,
) -> Outcome:
    """Judges rebuilt faces: (n, 3, s, s) float32 RGB in 0..1."""
    truth = shrunk(pixels, faces.shape[-1]).numpy().astype(np.float32) / 255
    alike = np.array(
        [
            structural_similarity(made, true, channel_axis=0, data_range=1.0)  # type: ignore[no-untyped-call]
            for made, true in zip(faces, truth, strict=True)
        ]
    )
    shown = as_pictures(faces)
    seen = np.ones(len(shown), dtype=bool) if perception is None else perception.faces(shown)
    cosine, first, second, stranger = {}, {}, {}, {}
    others = people[:, None] != people[None, :]
    for name, judge in judges.items():
        found = judge.embed(shown)
        same = np.sum(found.astype(np.float64) * judge.same, axis=1)
        other = np.sum(found.astype(np.float64) * judge.other, axis=1)
        cosine[name] = Share.of(same, people)
        first[name] = Share.of((seen & (same >= judge.tau)).astype(np.float64), people)
        second[name] = Share.of((seen & (other >= judge.tau)).astype(np.float64), people)
        accepted = (found.astype(np.float64) @ judge.other.T >= judge.tau) & others
        stranger[name] = Share.of(seen * accepted.sum(axis=1) / np.maximum(others.sum(axis=1), 1), people)
    error = ((faces - truth) ** 2).mean(axis=(1, 2, 3)).astype(np.float64)
    ratio = -10 * np.log10(np.maximum(error, _LEAST_ERROR))
    return Outcome(
        Share.of(alike, people),
        Share.of(error, people),
        Share.of(ratio, people),
        cosine,
        first,
        second,
        stranger,
        None
        if perception is None
        else Share.of(perception.distance(shown[:_PERCEIVED], pixels[:_PERCEIVED]), people[:_PERCEIVED]),
        None if perception is None else Share.of(seen.astype(np.float64), people),
    )


def as_pictures(faces: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(n, 3, s, s) float32 in 0..1 to (n, 112, 112, 3) uint8, the size that embedders take."""
    out = np.empty((len(faces), _SIDE, _SIDE, 3), np.uint8)
    for at in range(0, len(faces), _CHUNK):
        large = resized(torch.from_numpy(faces[at : at + _CHUNK]), _SIDE)
        out[at : at + _CHUNK] = (large * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return out


@dataclass(frozen=True, slots=True, eq=False)
class AttackedPairs:
    """Pictures to attack: one a person, and another picture of the same person.

    Attributes:
        attacked: (k,) rows.
        other: (k,) rows.
    """

    attacked: NDArray[np.int64]
    other: NDArray[np.int64]


def attacked_pairs(labelled: Labelled, most: int | None, *, seed: int = 0) -> AttackedPairs:
    """One genuine pair a person among those who test, in random order.

    Args:
        labelled: the people.
        most: how many at most; None: all.
        seed: of the order.
    """
    pairs = labelled.pairs_of(TEST)
    whose = labelled.people[pairs[:, 0]]
    chosen = pairs[one_pair_a_person(whose, whose, seed=seed, most=most)]
    return AttackedPairs(chosen[:, 0], chosen[:, 1])


def judge(encoder: Encoder, tau: float, clean: Rows, chosen: AttackedPairs) -> Judge:
    """An embedder as the judge of rebuilt faces.

    Args:
        encoder: what runs it.
        tau: cosine at which it accepts.
        clean: (n, d) float32, unit rows: its embeddings of all labelled faces.
        chosen: the cases.
    """
    return Judge(lambda faces: unit(encoder.embed(faces)), tau, clean[chosen.attacked], clean[chosen.other])


def reconstruction(
    decoder: nn.Module, labelled: Labelled, templates: Rows, chosen: AttackedPairs, judges: Mapping[str, Judge]
) -> Outcome:
    """What a decoder makes of the cases' templates: of (n, d) templates of all labelled faces, those attacked."""
    rows = chosen.attacked
    pixels = labelled.images.pixels[rows]
    return attack(decoder, np.ascontiguousarray(templates[rows]), pixels, labelled.people[rows], judges)


def floors(
    decoder: nn.Module, labelled: Labelled, clean: Rows, chosen: AttackedPairs, judges: Mapping[str, Judge]
) -> Outcome:
    """What the same decoder makes of the clean template of somebody else: what no protection needs to go below."""
    rows = chosen.attacked
    stranger = np.roll(rows, len(rows) // 2)
    pixels = labelled.images.pixels[rows]
    return attack(decoder, np.ascontiguousarray(clean[stranger]), pixels, labelled.people[rows], judges)
