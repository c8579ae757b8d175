"""Tries an embedder on sample faces, before an edge serves it.

Five pictures of three people. They show mistakes of the export and of the description, and say nothing of accuracy.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_service.settings import PictureLimits
from edge_service.vision.align import ALIGNMENTS, Alignment, align
from edge_service.vision.decode import decode_pixels, inspect
from edge_service.vision.embedder_files import EmbedderDescription, EmbedderFile, EmbedderSession
from edge_service.vision.sessions import RUNTIME_ERRORS
from shared.errors import SetupError

_SAMPLES: Final = Path(__file__).parent / "samples"
# Coordinates of unit embeddings: batches of other sizes are rounded otherwise, by some 1e-6.
_SAME: Final = 1e-3
# How many times as far apart the mean cosines of one person and of two must be, where a description is refused for
# another one. Measured, right against wrong, of SFace, dlib and w600k_mbf: channels 1.08, 1.22, 1.10; alignment 1.4,
# 5.6, 2.2; mean and scale 5, 1.2, 5 or more. But of 1/255 and of 1/127.5, w600k_mbf prefers the wrong one by 1.02.
_OTHER_CHANNELS: Final = 1.05
_OTHER_ALIGNMENT: Final = 1.2
_OTHER_SCALE: Final = 1.5
# ValueError: rows of different lengths, of a network that takes one face at a time.
_DOES_NOT_RUN: Final[tuple[type[Exception], ...]] = (*RUNTIME_ERRORS, ValueError)
# In ONNX Runtime's words: of the system, and of its arena.
_NO_MEMORY: Final = re.compile("bad_alloc|[Ff]ailed to allocate memory")
_IMAGENET: Final = ((123.675, 116.28, 103.53), (1 / 58.395, 1 / 57.12, 1 / 57.375))
# What networks usually take: mean and scale.
_USUAL: Final = ((0.0, 1.0), (127.5, 1 / 127.5), (0.0, 1 / 255), _IMAGENET)


@dataclass(frozen=True, slots=True)
class Separation:
    """How near an embedder's embeddings of one person are to each other, and those of two people.

    Attributes:
        same: cosines of all pairs of pictures of one person.
        different: cosines of all pairs of pictures of two people.
        length: of the raw embeddings, in the mean.
    """

    same: NDArray[np.float64]
    different: NDArray[np.float64]
    length: float

    @property
    def holds(self) -> bool:
        """Whether each two pictures of one person are nearer than any of two people."""
        return bool(self.same.min() > self.different.max())

    def is_better(self, other: Separation, factor: float) -> bool:
        """Whether people are told apart so much better than by another description."""
        return self.holds and self._apart > factor * other._apart

    @property
    def _apart(self) -> float:
        # Nothing is better than unrelated: no cosine below 0 counts.
        return float(self.same.mean() - np.maximum(self.different, 0).mean())


def check_embedder(file: EmbedderFile) -> Separation:
    """Runs an embedder on the sample faces.

    Args:
        file: whose description says the length of its embeddings.

    Raises:
        SetupError: it does not run or does not give what is described; its embeddings are not finite, all the same, or
            not the same again; it does not tell people apart; or another description suits it better.
    """
    said = file.description
    session, faces, people = file.session(), *sample_faces(said.template)
    rows = _rows(file, session, said.prepared(faces))
    unit = _unit(file, rows)
    if np.ptp(unit, axis=0).max() < _SAME:
        raise SetupError(
            f"{file.path.name} gives the same embedding for every face; check the mean and the scale of its input.",
            reason="constant",
        )
    again = _unit(file, _rows(file, session, said.prepared(faces)))
    alone = [_unit(file, _rows(file, session, said.prepared(faces[at : at + 1]))) for at in range(len(faces))]
    for other, when in ((again, "when it runs again"), (np.concatenate(alone), "alone and among others")):
        if np.abs(other - unit).max() > _SAME:
            raise SetupError(
                f"{file.path.name} gives other embeddings for the same face {when}; export it for inference.",
                reason="not-deterministic",
            )
    found = _separation(rows, people)
    _compare(file, session, found)
    return found


def sample_faces(template: Alignment) -> tuple[NDArray[np.uint8], list[str]]:
    """The sample faces, aligned: (5, side, side, 3) uint8 RGB; and who each is."""
    landmarks = json.loads((_SAMPLES / "landmarks.json").read_bytes())
    pictures = [decode_pixels(inspect((_SAMPLES / name).read_bytes(), PictureLimits())) for name in landmarks]
    points = [np.array(each, np.float32) for each in landmarks.values()]
    faces = [align(picture, each, template) for picture, each in zip(pictures, points, strict=True)]
    return np.stack(faces), [name.partition("_")[0] for name in landmarks]


def _rows(file: EmbedderFile, session: EmbedderSession, blob: NDArray[np.float32]) -> NDArray[np.float32]:
    wanted = (len(blob), file.description.dim)
    try:
        rows = session.rows(blob)
    except _DOES_NOT_RUN as problem:
        if _NO_MEMORY.search(str(problem)):
            raise SetupError(
                f"{file.path.name} needs more memory for {len(blob)} faces of {blob.shape[1:]} than there is here; use "
                "a smaller network, or a machine with more memory.",
                reason="out-of-memory",
            ) from problem
        raise SetupError(
            f"{file.path.name} does not run on {len(blob)} faces of {blob.shape[1:]}; export it with a free batch, or "
            "with a batch of 1.",
            reason="does-not-run",
        ) from problem
    if rows.shape != wanted:
        raise SetupError(
            f"{file.path.name} gives an array of {rows.shape} for {len(blob)} faces where {wanted} is described; "
            "correct the dim, or export it with the embedding as its output and with a free batch.",
            reason="output-differs",
        )
    return rows


def _unit(file: EmbedderFile, rows: NDArray[np.float32]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    for bad, what in ((~np.isfinite(lengths), "numbers that are not finite"), (lengths == 0, "a zero vector")):
        if bad.any():
            raise SetupError(
                f"{file.path.name} gives {what} for a face; check the mean and the scale of its input.",
                reason="not-an-embedding",
            )
    return np.asarray(rows / lengths[:, None], np.float64)


def _separation(rows: NDArray[np.float32], people: list[str]) -> Separation:
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    unit = rows / lengths[:, None]
    pairs = list(combinations(range(len(rows)), 2))
    cosines = np.array([unit[one] @ unit[other] for one, other in pairs], np.float64)
    same = np.array([people[one] == people[other] for one, other in pairs])
    return Separation(cosines[same], cosines[~same], float(lengths.mean()))


def _compare(file: EmbedderFile, session: EmbedderSession, found: Separation) -> None:
    """Refuses a description under which people are not told apart, or clearly worse than under another one."""
    better: list[str] = []
    for other, factor, what in _alternatives(file.description):
        faces, people = sample_faces(other.template)
        rows = _rows(file, session, other.prepared(faces))
        if not np.isfinite(rows).all() or not np.linalg.norm(rows, axis=1).all():
            continue
        one = _separation(rows, people)
        # Embeddings of faces in the wrong colors are shorter, too.
        longer = other.channels == file.description.channels or one.length >= 0.999 * found.length
        if longer and one.is_better(found, factor):
            better.append(what)
    if not found.holds:
        hint = f"with {better[0]} they are not" if better else "check alignment, channels, mean and scale"
        raise SetupError(
            f"Pictures of two people are as near to each other for {file.path.name} (cosine "
            f"{found.different.max():.2f}) as pictures of one ({found.same.min():.2f}); {hint}.",
            reason="people-not-told-apart",
        )
    if better:
        raise SetupError(
            f"{file.path.name} tells the people of the sample faces apart clearly better with {better[0]} than as "
            "described; correct the JSON beside it.",
            reason="another-description-suits",
        )


def _alternatives(said: EmbedderDescription) -> list[tuple[EmbedderDescription, float, str]]:
    """Other descriptions of the same input, how much better each must be, and what it changes."""
    swapped = "BGR" if said.channels == "RGB" else "RGB"
    found = [(said.model_copy(update={"channels": swapped}), _OTHER_CHANNELS, f"channels {swapped}")]
    for name in ALIGNMENTS.keys() - {said.alignment}:
        other = said.model_copy(update={"alignment": name, "side": said.pixels})
        found.append((other, _OTHER_ALIGNMENT, f"the alignment {name}"))
    for mean, scale in _USUAL:
        numbers = {"mean": mean, "scale": scale}
        if said.channels == "BGR" and isinstance(mean, tuple) and isinstance(scale, tuple):
            numbers = {"mean": mean[::-1], "scale": scale[::-1]}
        other = said.model_copy(update=numbers)
        if other.pinned != said.pinned:
            words = ", ".join(f"{name} {np.round(value, 5).tolist()}" for name, value in numbers.items())
            found.append((other, _OTHER_SCALE, words))
    return found
