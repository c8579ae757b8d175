"""``python -m lab.accuracy``: how well the served embedder tells people apart, on LFW.

Faces go through the edge's own embedding code. With a seal the same figures come out again, which is shown too.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from edge_service.models import locate
from edge_service.privacy.keys import GalleryKey
from edge_service.privacy.seal import seal
from edge_service.settings import InferenceSettings
from edge_service.vision.embed import SFACE, Embedder
from edge_service.vision.sessions import OrtSession
from lab.lfw import Lfw, Pair, person
from lab.verification import all_impostors, bootstrap_over_people, ten_fold_accuracy, true_accept_rate
from shared.command import run

_CHUNK = 64
app = typer.Typer()


def embed_names(lfw: Lfw, names: list[str], embedder: Embedder) -> NDArray[np.float32]:
    """Embeddings of pictures: (n, d) float32, unit rows."""
    faces = lfw.faces(names)
    chunks = range(0, len(faces), _CHUNK)
    console = Console(stderr=True)
    return np.concatenate(
        [embedder.embed(faces[at : at + _CHUNK]).unit for at in track(chunks, "embedding", console=console)]
    )


def pair_scores(pairs: list[Pair], names: list[str], unit: NDArray[np.float32]) -> NDArray[np.float64]:
    """The cosine of each pair."""
    row = {name: position for position, name in enumerate(names)}
    first, second = ([row[name] for name in side] for side in zip(*((p.first, p.second) for p in pairs), strict=True))
    scores: NDArray[np.float64] = np.sum(unit[first].astype(np.float64) * unit[second], axis=1)
    return scores


def measure(unit: NDArray[np.float32], names: list[str], pairs: list[Pair]) -> dict[str, float]:
    """All figures of one embedder, or of one protection of it."""
    scores = pair_scores(pairs, names, unit)
    genuine = np.array([pair.genuine for pair in pairs])
    accuracy = ten_fold_accuracy(scores, genuine, np.array([pair.fold for pair in pairs]))
    _, people = np.unique([person(name) for name in names], return_inverse=True)
    impostors = all_impostors(unit, people)
    at_1e3 = impostors.threshold_at(1e-3)
    tau = SFACE.threshold.cosine
    _, whose = np.unique([person(pair.first) for pair in pairs if pair.genuine], return_inverse=True)
    low, high = bootstrap_over_people((scores[genuine] >= tau).astype(np.float64), whose)
    return {
        "ten_fold_accuracy": accuracy.mean,
        "ten_fold_deviation": accuracy.deviation,
        "genuine_mean": float(scores[genuine].mean()),
        "impostor_pairs": impostors.pairs,
        "tau": tau,
        "fmr_at_tau": impostors.fmr(tau),
        "tar_at_tau": true_accept_rate(scores[genuine], tau),
        "tar_at_tau_low": low,
        "tar_at_tau_high": high,
        "tau_at_fmr_1e-3": at_1e3,
        "tar_at_fmr_1e-3": true_accept_rate(scores[genuine], at_1e3),
        "tau_at_fmr_1e-4": impostors.threshold_at(1e-4),
        "tar_at_fmr_1e-4": true_accept_rate(scores[genuine], impostors.threshold_at(1e-4)),
    }


@app.command()
def main(
    lfw: Annotated[Path, typer.Option(envvar="PATRONUS_FACE_DATA", help="Folder with lfw112.tar and lfw_pairs.txt.")],
    out: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")] = None,
) -> None:
    """Measure the embedder, as it is and sealed, on all of LFW."""
    data = Lfw(lfw)
    names = data.names()
    embedder = Embedder(OrtSession(locate("face-embedder"), InferenceSettings()))
    start = time.perf_counter()
    unit = embed_names(data, names, embedder)
    taken = time.perf_counter() - start
    pairs = data.pairs()
    sealed = seal(unit, GalleryKey("accuracy", bytes(32)).epoch("0" * 16))
    found = {"clean": measure(unit, names, pairs), "sealed": measure(sealed, names, pairs)}
    for name, clean in found["clean"].items():
        typer.echo(f"{name:20} {clean:14.6g} {found['sealed'][name]:14.6g}")
    typer.echo(f"{len(names)} pictures embedded in {taken:.0f} s")
    if out is not None:
        out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    run(app)
