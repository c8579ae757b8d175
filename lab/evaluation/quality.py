"""``python -m lab.evaluation.quality``: what poor pictures cost in matching; the quality levels follow from it.

The second picture of LFW's genuine pairs is made smaller, blurred or darkened; the first stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer

from edge_service.models.store import locate
from edge_service.settings import DetectionSettings, InferenceSettings
from edge_service.vision.decode import Pixels
from edge_service.vision.detect import FaceDetector
from edge_service.vision.embed import SFACE, Embedder
from edge_service.vision.quality import measure
from edge_service.vision.sessions import OrtSession
from lab.data.lfw import Lfw
from shared.command import run

app = typer.Typer()
Degrade = Callable[[Pixels], Pixels]


def _smaller(side: int) -> Degrade:
    def made(face: Pixels) -> Pixels:
        small = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(small, face.shape[1::-1], interpolation=cv2.INTER_LINEAR), dtype=np.uint8)

    return made


def _blurred(sigma: float) -> Degrade:
    return lambda face: np.asarray(cv2.GaussianBlur(face, (0, 0), sigma), dtype=np.uint8)


def _darker(gain: float) -> Degrade:
    return lambda face: np.asarray(face * gain, dtype=np.uint8)


DEGRADATIONS: dict[str, Degrade] = {
    "as it is": lambda face: face,
    **{f"at {side} of 112 px": _smaller(side) for side in (64, 48, 40, 32, 24, 16)},
    **{f"blur, sigma {sigma:g} px": _blurred(sigma) for sigma in (1, 2, 3, 4, 6)},
    **{f"light x {gain:g}": _darker(gain) for gain in (0.5, 0.25, 0.12, 0.06)},
}


@app.command()
def main(
    lfw: Annotated[Path, typer.Option(envvar="PATRONUS_FACE_DATA", help="Folder with lfw112.tar and lfw_pairs.txt.")],
    pairs: Annotated[int, typer.Option(min=50, max=3000)] = 400,
) -> None:
    """Print a line a degradation: TAR at tau, and the medians that the levels are set by."""
    data = Lfw(lfw)
    genuine = [pair for pair in data.pairs() if pair.genuine]
    chosen = [genuine[at] for at in np.linspace(0, len(genuine) - 1, pairs).astype(int)]
    settings = InferenceSettings()
    embedder = Embedder(OrtSession(locate("face-embedder"), settings))
    detector = FaceDetector(OrtSession(locate("face-detector"), settings), DetectionSettings())
    first = embedder.embed(data.faces([pair.first for pair in chosen])).unit
    second = data.faces([pair.second for pair in chosen])
    # Where a face is, is looked for on the picture before it is degraded.
    boxes = [detector.detect(face) for face in second]
    typer.echo(f"{'second picture':20} {'TAR':>6} {'face px':>8} {'sharpness p5/p50':>18} {'light p50':>10}")
    for name, degrade in DEGRADATIONS.items():
        faces = np.stack([degrade(face) for face in second])
        scores = np.sum(first * embedder.embed(faces).unit, axis=1)
        shrunk = int(name.split()[1]) / 112 if " of 112 px" in name else 1.0
        found = [measure(where[0], face) for where, face in zip(boxes, faces, strict=True) if where]
        pixels = np.median([quality.face_size_px for quality in found]) * shrunk
        low, mid = np.percentile([quality.sharpness for quality in found], [5, 50])
        light = np.median([quality.brightness for quality in found])
        tar = np.mean(scores >= SFACE.known_threshold.cosine)
        typer.echo(f"{name:20} {tar:6.3f} {pixels:8.0f} {low:9.3f}/{mid:8.3f} {light:10.0f}")
    seen = [at for at, where in enumerate(boxes) if where]
    offsets = np.array([measure(boxes[at][0], second[at]).nose_offset for at in seen])
    scores = np.sum(first[seen] * embedder.embed(second[seen]).unit, axis=1)
    edges = np.percentile(offsets, [0, 50, 80, 90, 95, 100])
    for low, high in pairwise(edges):
        inside = (offsets >= low) & (offsets <= high)
        tar = np.mean(scores[inside] >= SFACE.known_threshold.cosine)
        typer.echo(f"nose offset {low:.2f} to {high:.2f}: TAR {tar:.3f}, mean cosine {scores[inside].mean():.3f}")


if __name__ == "__main__":
    run(app)
