"""Figures of a profile for its documentation. Faces on them are public-domain portraits alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from lab.data.embedders import unit
from lab.data.images import read_folder
from lab.data.torch_embedder import load_torch_embedder
from lab.defence.decoders import rebuilt
from lab.defence.protection import gaussian, protect
from lab.defence.runs import Run
from lab.evaluation.reconstruction import as_pictures
from shared.errors import SetupError

mpl.use("Agg")
_FACES: Final = 4
_DPI: Final = 110


def draw(run: Run, portraits: Path, to: Path) -> list[Path]:
    """Draws all figures of an evaluated training.

    Args:
        run: the training.
        portraits: folder of pictures whose publication nobody minds.
        to: folder for the figures, PNG.

    Raises:
        SetupError: the training was not evaluated.
    """
    found = run.read("evaluation.json")
    if found is None:
        raise SetupError(f"{run.folder} is not evaluated; run patronus lab evaluate --out {run.folder}.")
    to.mkdir(parents=True, exist_ok=True)
    name = run.recipe.name
    made = {
        f"{name}-breach.png": _breach(run, portraits),
        f"{name}-angles.png": _angles(found),
        f"{name}-curve.png": _curve(found, run.recipe.sides == "both"),
    }
    for file, figure in made.items():
        figure.savefig(to / file, dpi=_DPI, bbox_inches="tight", metadata={"Software": None})
        plt.close(figure)
    return [to / file for file in made]


def _breach(run: Run, portraits: Path) -> Any:
    material = run.material()
    network = run.network(run.fitted(material))
    faces = read_folder(portraits, cache=run.cache, at_least=1)
    pixels = np.asarray(faces.pixels[:_FACES])
    clean = unit(material.encoder.embed(pixels))
    decoder = run.attacker(run.recipe.held_out, material, load_torch_embedder(material.encoder.path))
    made = protect(network, clean)
    whole = np.arccos(np.sum(clean.astype(np.float64) * made.templates, axis=1).clip(-1, 1))

    def seen(rows: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        pictures = as_pictures(rebuilt(decoder, rows))
        again = unit(material.encoder.embed(pictures)).astype(np.float64)
        return pictures, np.sum(again * clean, axis=1)

    rows = {
        "picture": (pixels, None),
        "breach of clean embeddings": seen(clean),
        "Gaussian noise, same angle": seen(gaussian(clean, whole)),
        "breach of protected templates": seen(made.templates),
    }
    figure, axes = plt.subplots(len(rows), len(pixels), figsize=(1.7 * len(pixels), 1.85 * len(rows)), squeeze=False)
    for line, (label, (pictures, cosine)) in zip(axes, rows.items(), strict=True):
        for at, axis in enumerate(line):
            axis.imshow(pictures[at])
            axis.set_xticks([])
            axis.set_yticks([])
            if cosine is not None:
                accepted = "accepted" if cosine[at] >= run.recipe.tau else "refused"
                axis.set_xlabel(f"cosine {cosine[at]:.2f}, {accepted}", fontsize=7)
        line[0].set_ylabel(label, fontsize=7)
    figure.suptitle(f"{run.recipe.name}: a decoder of a family held out, no seal", fontsize=9)
    figure.tight_layout()
    return figure


def _angles(found: dict[str, Any]) -> Any:
    angles = found["angle_degrees"]
    figure, axis = plt.subplots(figsize=(5, 2.6))
    axis.stairs(angles["counts"], angles["edges"], fill=True, color="#3b6ea5")
    axis.set_xlabel("degrees by which the erased embedding is perturbed")
    axis.set_ylabel("faces")
    return figure


def _curve(found: dict[str, Any], both: bool) -> Any:
    curve = found["curve"]
    angle = [point["phi_degrees"] for point in curve]
    figure, (left, right, last) = plt.subplots(1, 3, figsize=(11, 3))
    label = "erase + perturb" if both else "perturb"
    left.plot(angle, [100 * (1 - point["fnmr"]) for point in curve], "o-", label=label)
    left.plot(angle, [100 * (1 - point["gaussian_fnmr"]) for point in curve], "s--", label="Gaussian, same angle")
    left.axhline(100 * found["accuracy"]["clean"]["tar"]["value"], color="grey", lw=0.8, label="clean")
    left.set_ylabel("TAR at the unchanged threshold, %")
    right.plot(angle, [1e3 * point["fmr"] for point in curve], "o-", label=label)
    right.plot(angle, [1e3 * point["gaussian_fmr"] for point in curve], "s--", label="Gaussian, same angle")
    right.axhline(1e3 * found["accuracy"]["clean"]["fmr"], color="grey", lw=0.8, label="clean")
    right.set_ylabel("FMR, thousandths")
    for key, style, what in (("type_1", "o-", label), ("gaussian_type_1", "s--", "Gaussian, same angle")):
        last.plot(angle, [100 * point[key] for point in curve], style, label=what)
    last.set_ylabel("rebuilt faces accepted (type I), %")
    for axis in (left, right, last):
        axis.set_xlabel("phi, degrees")
        axis.legend(fontsize=7)
    figure.tight_layout()
    return figure
