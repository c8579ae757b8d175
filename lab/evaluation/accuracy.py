"""Accuracy of a matcher on labelled faces; ``python -m lab.evaluation.accuracy`` measures a served embedder on LFW.

Faces go through the edge's own embedding and protection code, in ONNX Runtime, as in service. An embedder with another
alignment than ArcFace's template gets the same crops, moved; what lies beyond their edge is missing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from edge_service.models.store import locate
from edge_service.protection.keys import GalleryKey
from edge_service.protection.profiles.document import ANY_EMBEDDER
from edge_service.protection.profiles.files import load_profile
from edge_service.protection.protect import Protector
from edge_service.settings import InferenceSettings
from edge_service.vision.embed import SFACE, Embedder, spec_named
from edge_service.vision.sessions import OrtSession
from lab.data.alignment import SAMPLE, Mending, mending_of
from lab.data.embedders import aligned_to
from lab.data.lfw import Lfw, Pair, person
from lab.data.splits import Labelled
from lab.data.verification import Rows, Share, all_impostors, bootstrap_over_people, ten_fold_accuracy
from lab.progress import progress
from shared.command import run
from shared.errors import SetupError

_CHUNK = 64
app = typer.Typer()


def _columns(
    pairs: list[Pair], names: Iterable[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Of each pair, where its two pictures stand among the names, whether it is genuine, and its fold: (n,) each."""
    row = {name: position for position, name in enumerate(names)}
    columns = zip(*((row[pair.first], row[pair.second], pair.genuine, pair.fold) for pair in pairs), strict=True)
    first, second, genuine, folds = (np.array(column) for column in columns)
    return first, second, genuine, folds


def protocol_scores(
    pairs: list[Pair], names: list[str], rows: Rows, *, distance: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """The cosine of each pair, whether it is genuine, and its fold.

    With ``distance``, the Euclidean distance of raw embeddings, negative, so that larger is more alike.
    """
    first, second, genuine, folds = _columns(pairs, names)
    scores = _cosine(rows[first], rows[second])
    if distance:
        scores = np.asarray(-np.linalg.norm(rows[first].astype(np.float64) - rows[second], axis=1))
    return scores, genuine, folds


def measure(rows: Rows, names: list[str], pairs: list[Pair], tau: float) -> dict[str, float]:
    """All figures of one embedder, or of one protection of it, at the threshold tau and at others."""
    scores, genuine, folds = protocol_scores(pairs, names, rows)
    mean, deviation = ten_fold_accuracy(scores, genuine, folds)
    _, people = np.unique([person(name) for name in names], return_inverse=True)
    impostors = all_impostors(rows, people)
    at_1e3, at_1e4 = impostors.threshold_at(1e-3), impostors.threshold_at(1e-4)
    _, whose = np.unique([person(pair.first) for pair in pairs if pair.genuine], return_inverse=True)
    low, high = bootstrap_over_people((scores[genuine] >= tau).astype(np.float64), whose)
    return {
        "ten_fold_accuracy": mean,
        "ten_fold_deviation": deviation,
        "genuine_mean": float(scores[genuine].mean()),
        "impostor_pairs": impostors.pairs,
        "tau": tau,
        "fmr_at_tau": impostors.fmr(tau),
        "tar_at_tau": float(np.mean(scores[genuine] >= tau)),
        "tar_at_tau_low": low,
        "tar_at_tau_high": high,
        "tau_at_fmr_1e-3": at_1e3,
        "tar_at_fmr_1e-3": float(np.mean(scores[genuine] >= at_1e3)),
        "tau_at_fmr_1e-4": at_1e4,
        "tar_at_fmr_1e-4": float(np.mean(scores[genuine] >= at_1e4)),
    }


@app.command()
def main(
    lfw: Annotated[Path, typer.Option(envvar="PATRONUS_FACE_DATA", help="Folder with lfw112.tar and lfw_pairs.txt.")],
    embedder: Annotated[str, typer.Option(help="As in the model manifest.")] = SFACE.name,
    profile: Annotated[str, typer.Option(help="Of protection; seal for any embedder.")] = "default-2",
    as_packaged: Annotated[bool, typer.Option(help="Leave crops that stand beside the template there.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")] = None,
) -> None:
    """Measure an embedder, as it is and protected, on all of LFW."""
    data = Lfw(lfw)
    names = data.names()
    spec = spec_named(embedder)
    chosen = load_profile(profile)
    if chosen.document.embedder not in (ANY_EMBEDDER, spec.name):
        raise SetupError(f"The profile {profile} is for {chosen.document.embedder}; name another one with --profile.")
    network = Embedder(OrtSession(locate("face-embedder", name=spec.name), InferenceSettings()), spec)
    start = time.perf_counter()
    faces = data.faces(names)
    mending = Mending() if as_packaged else mending_of(faces[:: max(1, len(faces) // SAMPLE)])
    aligned = aligned_to(np.stack([mending(face) for face in faces]), spec.alignment)
    starts = range(0, len(aligned), _CHUNK)
    chunks = progress(starts, "embedding", len(starts), weight=_CHUNK)
    made = [network.embed(aligned[at : at + _CHUNK]) for at in chunks]
    taken = time.perf_counter() - start
    pairs = data.pairs()
    key = GalleryKey("accuracy", bytes(32)).epoch("0" * 16)
    # The edge's own bits: from them follows the seed of each template.
    clean, norms = np.concatenate([each.unit for each in made]), np.concatenate([each.norms for each in made])
    protected = Protector(chosen).templates(clean, key, sealed=chosen.seals)
    tau = (chosen.document.threshold or spec.known_threshold).cosine
    found = {"clean": measure(clean, names, pairs, tau), profile: measure(protected.templates, names, pairs, tau)}
    typer.echo(f"{'':20} {'clean':>14} {profile:>14}")
    for name, value in found["clean"].items():
        typer.echo(f"{name:20} {value:14.6g} {found[profile][name]:14.6g}")
    mean, deviation = ten_fold_accuracy(*protocol_scores(pairs, names, clean * norms[:, None], distance=True))
    typer.echo(f"10-fold accuracy by the distance of raw embeddings {mean:.6g}, deviation {deviation:.6g}")
    typer.echo(f"{len(names)} pictures, {str(mending) or 'as packaged'}, embedded in {taken:.0f} s")
    if out is not None:
        out.write_text(json.dumps(found, indent=1) + "\n")


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
    first, second, genuine, folds = _columns(labelled.protocol, labelled.images.names)
    kept = inside[first] & inside[second]
    scores = _cosine(probes[first[kept]], gallery[second[kept]])
    return ten_fold_accuracy(scores, genuine[kept], folds[kept])[0]


if __name__ == "__main__":
    run(app)
