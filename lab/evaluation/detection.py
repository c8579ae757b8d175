"""``python -m lab.evaluation.detection``: misses, false faces and cost of the edge's face detection.

Pictures are made from LFW's aligned crops: each is scaled, put into a frame, and the whole is turned by 0 to 3 quarter
turns. A face's height is 0.93 of its crop's side, which is the median height of YuNet's box on the crops; a face of the
frame's whole height therefore reaches over it. "Before" is the search with ``search_further`` switched off.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from edge_service.models.store import locate
from edge_service.settings import DetectionSettings, InferenceSettings, PictureLimits
from edge_service.vision.align import SIDE, TEMPLATE
from edge_service.vision.decode import Pixels, decode
from edge_service.vision.detect import Detection, FaceDetector
from edge_service.vision.sessions import OrtSession
from lab.console_table import measurements
from lab.data.lfw import Lfw
from shared.command import run

# The share of an aligned crop that YuNet's box has in the median: height and width.
FACE_HEIGHT, FACE_WIDTH = 0.93, 0.71
LEAST_FACE: Final = 40.0  # pixels
LEAST_SHARE: Final = 0.05  # of the frame's height
FRAME_SIDES: Final = (112, 6000)  # longest side, pixels
_SHAPES: Final = ((1, 1), (4, 3), (3, 4), (16, 9), (9, 16))
BACKGROUNDS: Final = ("flat", "gradient", "blur", "noise", "room")
# How far the landmarks may lie from where the crop has them, in the mean, as a share of the crop's side.
_NEAR: Final = 0.15
_FILLING: Final = 0.15  # share of the pictures whose face is as high as the frame
_PICTURES: Final = Path(__file__).parents[2] / "tests" / "pictures"
# Parts of the sample pictures without a face: left, top, right, bottom.
_ROOMS: Final = {
    "obama/standing.jpg": ((0, 0, 550, 900), (950, 0, 1434, 900)),
    "biden/standing.jpg": ((0, 0, 350, 600), (750, 0, 970, 700)),
    "collins/portrait.png": ((300, 0, 512, 180),),
}
_SHARES: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.01)
_SIZES: Final = (112, 320, 640, 1280, 2560, 6001)

app = typer.Typer()


@dataclass(frozen=True, slots=True, eq=False)
class Composite:
    """A picture that is made around a face.

    Attributes:
        pixels: (h, w, 3) uint8 RGB.
        landmarks: (5, 2) float64, where the face's landmarks are.
        side: of the face's crop, in pixels.
        share: the face's height over that of the frame before it was turned.
        quarter_turns: counterclockwise, that make the picture upright again.
    """

    pixels: Pixels
    landmarks: NDArray[np.float64]
    side: float
    share: float
    quarter_turns: int

    def is_found(self, found: Detection) -> bool:
        """Whether the face was found where it is, and the right way up."""
        for face in found.faces:
            off = np.linalg.norm(face.landmarks - self.landmarks, axis=1).mean()
            if face.upright and face.quarter_turns == self.quarter_turns and off <= _NEAR * self.side:
                return True
        return False


def composite(face: Pixels, rng: np.random.Generator) -> Composite:
    """A picture with this crop, (112, 112, 3) uint8 RGB, at a random size and place, on a random background."""
    width, height = _frame(rng)
    least = min(max(LEAST_FACE / height, LEAST_SHARE), 1.0)
    share = 1.0 if rng.random() < _FILLING else float(np.exp(rng.uniform(np.log(least), 0)))
    side = max(2, round(min(share * height / FACE_HEIGHT, width / FACE_WIDTH)))
    scaled = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA if side < SIDE else cv2.INTER_CUBIC)
    # A crop that is larger than the frame reaches over it on both sides.
    x, y = (int(rng.integers(0, room + 1)) if room >= 0 else room // 2 for room in (width - side, height - side))
    frame = background(width, height, str(rng.choice(BACKGROUNDS)), rng)
    left, top = max(0, x), max(0, y)
    part = scaled[top - y :, left - x :][: height - top, : width - left]
    frame[top : top + part.shape[0], left : left + part.shape[1]] = part
    points = TEMPLATE * (side / SIDE) + (x, y)
    turns = int(rng.integers(4))
    for _ in range(turns):  # a quarter turn counterclockwise
        frame = np.ascontiguousarray(np.rot90(frame))
        points = np.stack([points[:, 1], frame.shape[0] - 1 - points[:, 0]], axis=1)
    return Composite(frame, points, side, side * FACE_HEIGHT / height, -turns % 4)


def background(width: int, height: int, kind: str, rng: np.random.Generator) -> Pixels:
    """A picture in which nobody is: (height, width, 3) uint8 RGB."""
    if kind == "room":
        name = str(rng.choice(sorted(_ROOMS)))
        left, top, right, bottom = _ROOMS[name][rng.integers(len(_ROOMS[name]))]
        small = decode((_PICTURES / name).read_bytes(), PictureLimits())[top:bottom, left:right]
    elif kind == "noise":
        grain = max(int(rng.integers(1, 5)), -(-max(width, height) // 1500))
        small = rng.integers(0, 256, (-(-height // grain), -(-width // grain), 3), dtype=np.uint8)
    else:
        least, most = {"flat": (1, 2), "gradient": (2, 3), "blur": (3, 24)}[kind]
        small = rng.integers(0, 256, (*rng.integers(least, most, 2), 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def shuffled(face: Pixels, rng: np.random.Generator) -> Pixels:
    """A crop's blocks of 14 x 14 pixels in random order, scaled to a frame: a face's texture, and no face."""
    blocks = face.reshape(8, 14, 8, 14, 3).transpose(0, 2, 1, 3, 4).reshape(64, 14, 14, 3)[rng.permutation(64)]
    mixed = blocks.reshape(8, 8, 14, 14, 3).transpose(0, 2, 1, 3, 4).reshape(SIDE, SIDE, 3)
    return np.asarray(cv2.resize(mixed, _frame(rng), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _frame(rng: np.random.Generator) -> tuple[int, int]:
    longest = np.exp(rng.uniform(*np.log(FRAME_SIDES)))
    shape = _SHAPES[rng.integers(len(_SHAPES))]
    width, height = (max(int(LEAST_FACE), round(longest * part / max(shape))) for part in shape)
    return width, height


@dataclass(slots=True)
class Tally:
    """What both searches found in one picture, and the CPU time of each in seconds."""

    found: tuple[Detection, Detection]
    seconds: tuple[float, float]


def detectors() -> tuple[FaceDetector, FaceDetector]:
    """The search before, and now; both on one thread."""
    session = OrtSession(locate("face-detector"), InferenceSettings(threads=1))
    before, now = (FaceDetector(session, DetectionSettings(search_further=further)) for further in (False, True))
    return before, now


def tally(both: tuple[FaceDetector, FaceDetector], picture: Pixels) -> Tally:
    """Searches a picture in both ways."""
    (before, first), (now, second) = (_timed(detector, picture) for detector in both)
    return Tally((before, now), (first, second))


def _timed(detector: FaceDetector, picture: Pixels) -> tuple[Detection, float]:
    start = time.process_time()
    found = detector.find(picture)
    return found, time.process_time() - start


@app.command()
def main(
    data: Annotated[Path, typer.Option(envvar="PATRONUS_FACE_DATA", help="Folder with lfw112.tar and lfw_pairs.txt.")],
    pictures: Annotated[int, typer.Option(min=1, help="Pictures with a face.")] = 400,
    faceless: Annotated[int, typer.Option(min=1, help="Pictures without one.")] = 200,
    seed: int = 0,
) -> None:
    """Measure the search for faces, before and now."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    cv2.setNumThreads(1)
    rng, lfw, both = np.random.default_rng(seed), Lfw(data), detectors()
    names = list(rng.choice(lfw.names(), pictures + faceless, replace=False))
    crops = lfw.faces(names)
    made: list[tuple[Composite, Tally]] = []
    for crop in crops[:pictures]:
        one = composite(crop, rng)
        counted = tally(both, one.pixels)
        # Its size is kept, and not its pixels.
        made.append((replace(one, pixels=np.empty((*one.pixels.shape[:2], 0), np.uint8)), counted))
    console = Console(highlight=False)
    _show_misses(console, made)
    empty = []
    for at, crop in enumerate(crops[pictures:]):
        kind = (*BACKGROUNDS, "shuffled")[at % 6]
        picture = shuffled(crop, rng) if kind == "shuffled" else background(*_frame(rng), kind, rng)
        empty.append(tally(both, picture))
    falsely = [sum(any(face.upright for face in one.found[way].faces) for one in empty) for way in (0, 1)]
    console.print(f"faceless pictures with a face: {falsely[0]} before, {falsely[1]} now, of {len(empty)}")
    _show_cost(console, [one for _, one in made], empty)


def _show_misses(console: Console, made: list[tuple[Composite, Tally]]) -> None:
    missed = np.array([[not one.is_found(found) for found in counted.found] for one, counted in made])
    longest = np.array([max(one.pixels.shape[:2]) for one, _ in made])
    shares = np.array([one.share for one, _ in made])
    turns = np.array([one.quarter_turns for one, _ in made])
    rows = []
    for low, high in pairwise(_SIZES):
        inside = (longest >= low) & (longest < high)
        cells = [inside & (shares > start) & (shares <= end) for start, end in pairwise(_SHARES)]
        rows.append((f"{low}-{high - 1}", *(_count(missed[cell]) for cell in [*cells, inside])))
    heads = ("side, px", *(f"to {100 * share:.0f} %" for share in _SHARES[1:]), "all")
    caption = "faces missed before > now / pictures; columns: the face's height over the frame's"
    console.print(measurements("What the search misses", heads, rows, caption))
    for quarter in range(4):
        console.print(f"lying by {90 * quarter:3} degrees: {_count(missed[turns == quarter])}")
    console.print(f"all: {_count(missed)}")


def _count(missed: NDArray[np.bool_]) -> str:
    before, now = missed.sum(axis=0)
    return f"{before}>{now}/{len(missed)}" if len(missed) else "-"


def _show_cost(console: Console, made: list[Tally], empty: list[Tally]) -> None:
    """CPU time where the first search finds a face, where the second has to search on, and the most of all."""
    easy = np.array([one.seconds for one in made if one.found[0].any_upright])
    hard = np.array([one.seconds for one in made if not one.found[0].any_upright])
    for what, seconds in (("found before", easy), ("not found before", hard)):
        if len(seconds):
            middle, ratio = 1000 * np.median(seconds, axis=0), seconds[:, 1].sum() / seconds[:, 0].sum()
            console.print(f"{what}: {middle[0]:.0f} ms of CPU before, {middle[1]:.0f} now; all together x {ratio:.3f}")
    most = 1000 * np.max([one.seconds for one in [*made, *empty]], axis=0)
    console.print(f"the dearest picture: {most[0]:.0f} ms of CPU before, {most[1]:.0f} now")


if __name__ == "__main__":
    run(app)
