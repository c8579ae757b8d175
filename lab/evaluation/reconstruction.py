"""What an attacker gets: faces rebuilt from templates, judged by a matcher and by eye.

Type I: the rebuilt face is accepted as the person on the very picture it came from. Type II: as the person on another
picture, which is what would open a door (Mai et al., TPAMI 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import nn

from lab.data.embedders import Encoder, embed_images, open_encoder, unit
from lab.data.matching import one_pair_a_person
from lab.data.pixels import resized
from lab.data.splits import TEST, Labelled
from lab.data.verification import Rows, Share, all_impostors
from lab.defence.decoders import rebuilt, shrunk
from lab.evaluation.perceptual import FacePerception
from shared.errors import SetupError

TARGET: Final = "target"  # name of the target embedder among the judges
# False match rate at which an embedder judges whose threshold nobody gave.
_JUDGED_AT: Final = 1e-3
# Shares that a judge accepts if it can tell people apart at all.
_MOST_STRANGERS: Final = 0.05
_LEAST_GENUINE: Final = 0.2
_SIDE: Final = 112
_CHUNK: Final = 256
# Of a picture that is the same bit by bit, for its PSNR to be a number: 100 dB.
_LEAST_ERROR: Final = 1e-10
# Faces whose perceptual distance is taken: it costs more than all the rest.
_PERCEIVED: Final = 150


@dataclass(frozen=True, slots=True)
class Judge:
    """An embedder that rebuilt faces are matched with.

    Attributes:
        embed: (n, 112, 112, 3) uint8 RGB to (n, d) unit rows.
        tau: cosine at which it accepts.
        clean: (n, d) its embeddings of all labelled faces.
    """

    embed: Callable[[NDArray[np.uint8]], Rows]
    tau: float
    clean: Rows


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
        perceptual: distance as people see it, where somebody looked, of 150 faces at most; see ``FacePerception``.
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


@dataclass(slots=True, kw_only=True)
class Cases:
    """Pictures that are attacked, and the judges of faces rebuilt from their templates.

    Attributes:
        labelled: people; those who test are attacked.
        attacked: (k,) rows of the pictures attacked, one a person.
        other: (k,) rows of another picture of each of these people.
        judges: by name, the target embedder first.
        perception: measures what a detector and a person see, where given.
    """

    labelled: Labelled
    attacked: NDArray[np.int64]
    other: NDArray[np.int64]
    judges: dict[str, Judge]
    perception: FacePerception | None = None

    def narrowed(self, most: int, *, panel: bool = False) -> Self:
        """The first cases; without ``panel``, judged by the target embedder alone and without perception."""
        judges = self.judges if panel else {TARGET: self.judges[TARGET]}
        perception = self.perception if panel else None
        return replace(
            self, attacked=self.attacked[:most], other=self.other[:most], judges=judges, perception=perception
        )

    def repeated(self, times: int) -> Self:
        """Every case so many times over, one time after the other."""
        return replace(self, attacked=np.tile(self.attacked, times), other=np.tile(self.other, times))

    def of_cases(self, rows: Rows) -> Rows:
        """Of rows of all labelled faces, those of the pictures attacked."""
        return np.ascontiguousarray(rows[self.attacked])

    def strangers(self) -> NDArray[np.int64]:
        """For each case another person's picture: (k,) rows."""
        return np.roll(self.attacked, len(self.attacked) // 2)

    def score(self, decoder: nn.Module, templates: Rows) -> Outcome:
        """Rebuilds faces from the cases' rows of (n, d) templates of all labelled faces, and judges them."""
        return self.judged(rebuilt(decoder, self.of_cases(templates)))

    def judged(self, faces: NDArray[np.float32]) -> Outcome:
        """Judges rebuilt faces (k, 3, s, s) float32 RGB in 0..1, one a case."""
        pixels, people = self.labelled.images.pixels[self.attacked], self.labelled.people[self.attacked]
        truth = shrunk(pixels, faces.shape[-1]).numpy().astype(np.float32) / 255
        alike = np.array(
            [
                structural_similarity(made, true, channel_axis=0, data_range=1.0)  # type: ignore[no-untyped-call]
                for made, true in zip(faces, truth, strict=True)
            ]
        )
        shown = as_pictures(faces)
        seen = np.ones(len(shown), dtype=bool) if self.perception is None else self.perception.faces(shown)
        cosine, first, second, stranger = {}, {}, {}, {}
        others = people[:, None] != people[None, :]
        for name, judge in self.judges.items():
            found, clean = judge.embed(shown).astype(np.float64), judge.clean[self.other]
            same = np.sum(found * judge.clean[self.attacked], axis=1)
            other = np.sum(found * clean, axis=1)
            cosine[name] = Share.of(same, people)
            first[name] = Share.of((seen & (same >= judge.tau)).astype(np.float64), people)
            second[name] = Share.of((seen & (other >= judge.tau)).astype(np.float64), people)
            accepted = (found @ clean.T >= judge.tau) & others
            stranger[name] = Share.of(seen * accepted.sum(axis=1) / np.maximum(others.sum(axis=1), 1), people)
        error = ((faces - truth) ** 2).mean(axis=(1, 2, 3)).astype(np.float64)
        ratio = -10 * np.log10(np.maximum(error, _LEAST_ERROR))
        ssim, mse, psnr = (Share.of(values, people) for values in (alike, error, ratio))
        perceptual = detected = None
        if self.perception is not None:
            distance = self.perception.distance(shown[:_PERCEIVED], pixels[:_PERCEIVED])
            perceptual, detected = Share.of(distance, people[:_PERCEIVED]), Share.of(seen.astype(np.float64), people)
        return Outcome(ssim, mse, psnr, cosine, first, second, stranger, perceptual, detected)


def as_pictures(faces: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(n, 3, s, s) float32 in 0..1 to (n, 112, 112, 3) uint8, the size that embedders take."""
    out = np.empty((len(faces), _SIDE, _SIDE, 3), np.uint8)
    for at in range(0, len(faces), _CHUNK):
        large = resized(torch.from_numpy(faces[at : at + _CHUNK]), _SIDE)
        out[at : at + _CHUNK] = (large * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return out


def attacked_pairs(
    labelled: Labelled, most: int | None, *, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One picture to attack of each person who tests, and another picture of that person: (k,) rows each.

    Args:
        labelled: the people.
        most: how many at most; None: all.
        seed: of the order, which is random.
    """
    pairs = labelled.pairs_of(TEST)
    whose = labelled.people[pairs[:, 0]]
    chosen = pairs[one_pair_a_person(whose, whose, seed=seed, most=most)]
    return chosen[:, 0], chosen[:, 1]


def named_judges(options: Iterable[str], taken: set[str], *, needs_tau: bool) -> list[tuple[Encoder, float | None]]:
    """Opens further judges.

    Args:
        options: ``NAME_OR_PATH=TAU``, or ``NAME_OR_PATH`` where ``needs_tau`` is false.
        taken: names of embedders that judge already.
        needs_tau: whether each must have a threshold.

    Returns:
        each with its threshold; None: to be set at a false match rate of its own.

    Raises:
        SetupError: a judge is not given so, is no embedder, or judges already.
    """
    form = "NAME_OR_PATH=TAU" if needs_tau else "NAME_OR_PATH or NAME_OR_PATH=TAU"
    found: list[tuple[Encoder, float | None]] = []
    for said in options:
        name, given, tau = said.rpartition("=") if "=" in said else (said, "", "")
        try:
            threshold = float(tau) if given or needs_tau else None
        except ValueError:
            threshold = float("nan")
        if not name or (threshold is not None and not -1 < threshold < 1):
            raise SetupError(f"A judge is given as {form}, with TAU a cosine; this is {said!r}.")
        encoder = open_encoder(name)
        if encoder.name in taken:
            raise SetupError(f"{encoder.name} judges already; name each judge once, by a name of its own.")
        taken = taken | {encoder.name}
        found.append((encoder, threshold))
    return found


def judges_of(
    labelled: Labelled, target: Encoder, tau: float, further: Iterable[tuple[Encoder, float | None]], cache: Path
) -> dict[str, Judge]:
    """The judges of rebuilt faces by name: the target embedder at tau, and those of ``named_judges``.

    Raises:
        SetupError: a further judge cannot tell the people apart at its threshold, as where it is fed wrong values.
    """

    def judge(encoder: Encoder, tau: float, clean: Rows) -> Judge:
        return Judge(lambda faces: unit(encoder.embed(faces)), tau, clean)

    found = {TARGET: judge(target, tau, labelled.unit)}
    for encoder, threshold in further:
        clean = unit(embed_images(labelled.images, encoder, cache=cache))
        impostors = all_impostors(clean, labelled.people)
        at = impostors.threshold_at(_JUDGED_AT) if threshold is None else threshold
        first, second = clean[labelled.pairs[:, 0]], clean[labelled.pairs[:, 1]]
        accepted = float(np.mean(np.sum(first * second, axis=1) >= at))
        strangers = impostors.fmr(at)
        if strangers > _MOST_STRANGERS or accepted < _LEAST_GENUINE:
            raise SetupError(
                f"{encoder.name} accepts {strangers:.1%} of strangers and {accepted:.1%} of genuine pairs at "
                f"{at:g}, so it judges nothing; correct its threshold, or the description beside its file "
                "(docs/profiles.md)."
            )
        found[encoder.name] = judge(encoder, at, clean)
    return found
