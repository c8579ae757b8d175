"""A trained network becomes a profile that the edge runs: ONNX, document and model card, checked before it is kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final

import numpy as np
import torch

from edge_service.privacy.profiles import PatronusStep, ProfileDocument, SealStep, write_profile
from edge_service.privacy.profiles.load import Profile
from edge_service.vision.sessions import OrtGraph
from lab.cohort import digest
from lab.export import to_onnx
from lab.network import PatronusNetwork
from lab.parts import TEST, Labelled
from lab.protecting import protect
from lab.recipe import Recipe
from lab.runs import Run
from lab.verification import all_impostors
from shared.errors import SetupError
from shared.wire.common import Threshold

# Largest difference of any coordinate between torch and ONNX Runtime.
PARITY: Final = 1e-5
# A slope over this is there to give all of phi_max to whoever has any margin.
_STEEP: Final = 10.0
# Of the rule of three, as in calibration.
_CONFIDENCE: Final = 0.95
# Raw lengths outside this multiple of the shortest and longest that were seen are another embedder's.
_LENGTHS: Final = (0.5, 2.0)


def publish(run: Run, folder: Path, *, replace: bool) -> Profile:
    """Writes the profile of a finished training.

    Args:
        run: trained and calibrated; its figures go into the profile where it was evaluated.
        folder: of profiles.
        replace: whether a profile of this name may be replaced.

    Raises:
        SetupError: the training is not calibrated, or torch and ONNX Runtime differ.
        Conflict: there is a profile of this name.
    """
    calibration = run.read("calibration.json")
    if calibration is None:
        raise SetupError(f"{run.folder} is not calibrated; run patronus lab calibrate --out {run.folder}.")
    if calibration["phi_max"] <= 0:
        raise SetupError(
            f"Calibration of {run.folder} allowed no perturbation at all, so a profile of it would protect nothing; "
            f"{_advice(run.recipe, calibration['people'])}."
        )
    material = run.material()
    fitted = run.fitted(material)
    network = run.network(fitted)
    graph = to_onnx(network)
    check_parity(network, graph, material.labelled)
    lengths = np.linalg.norm(material.labelled.raw.astype(np.float64), axis=1)
    recipe = run.recipe
    evaluation = run.read("evaluation.json") or {}
    document = ProfileDocument(
        name=recipe.name,
        summary=recipe.summary,
        embedder=material.encoder.name,
        embedder_sha256=material.encoder.sha256,
        steps=[
            PatronusStep(
                sha256=hashlib.sha256(graph).hexdigest(),
                dim=network.size.dim,
                seed_dim=network.size.seed_dim,
                layers=["erase", "perturb"] if network.size.erases else ["perturb"],
                input_norm=[float(lengths.min() * _LENGTHS[0]), float(lengths.max() * _LENGTHS[1])],
                phi_max=min(float(network.phi_max) + 1e-6, np.pi / 2),
            ),
            *([SealStep()] if recipe.seal else []),
        ],
        threshold=Threshold(cosine=recipe.tau, fmr=_fmr(network, material.labelled, recipe)),
        budgets={key: value for key, value in calibration.items() if key != "curve"},
        cohort_sha256=digest(fitted.cohort),
        figures=evaluation,
    )
    return write_profile(folder, document, graph, card(recipe, run, document), replace=replace)


def check_parity(network: PatronusNetwork, graph: bytes, labelled: Labelled) -> float:
    """The largest difference between torch and ONNX Runtime on faces that test.

    Raises:
        SetupError: it is over 1e-5.
    """
    rows = labelled.rows(TEST)[:512]
    random = np.random.default_rng(0)
    dim = network.size.dim
    seal = np.linalg.qr(random.standard_normal((dim, dim)))[0].astype(np.float32)
    inputs = {
        "x": labelled.raw[rows].astype(np.float32),
        "seed": random.standard_normal((len(rows), network.size.seed_dim)).astype(np.float32),
        "phi_limit": np.full(len(rows), np.pi, dtype=np.float32),
        "seal": seal,
    }
    session = OrtGraph(graph, "the exported network")
    found = dict(zip(session.output_names, session.run(inputs), strict=True))
    with torch.no_grad():
        turned = network(*(torch.from_numpy(value) for value in inputs.values()))
    # A steep limit magnifies the rounding of arccos: where it is neither 0 nor phi_max, two right answers differ.
    limit = turned.limit.numpy()
    compared = (limit <= 0) | (limit >= float(network.phi_max)) | (float(network.slope) <= _STEEP)
    differences = [
        np.abs(found["template"] - turned.template.numpy()).max(axis=1)[compared],
        np.abs(found["angle"] - turned.angle.numpy())[compared],
    ]
    worst = float(np.max(differences)) if compared.any() else np.inf
    if not worst <= PARITY:
        raise SetupError(f"The exported network differs from the trained one by {worst:.1e}; it is not published.")
    return worst


def _advice(recipe: Recipe, people: int) -> str:
    """What may help where calibration allowed nothing."""
    needed = int(np.ceil(-np.log(1 - _CONFIDENCE) / recipe.fnmr_rise))
    if people < needed:
        return (
            f"{people} people calibrated it, and it takes about {needed} to show that FNMR rises by at most "
            f"{recipe.fnmr_rise:.1%}: add people, and train again"
        )
    return "train again in another folder, longer or with a smaller --phi-max"


def _fmr(network: PatronusNetwork, labelled: Labelled, recipe: Recipe) -> float:
    """FMR at tau of protected templates of people who test; where nobody was mistaken, its upper bound."""
    rows = labelled.rows(TEST)
    protected = np.ascontiguousarray(protect(network, labelled.unit).templates[rows])
    gallery = None if recipe.sides == "both" else np.ascontiguousarray(labelled.unit[rows])
    found = all_impostors(protected, labelled.people[rows], gallery)
    return max(found.fmr(recipe.tau), -float(np.log(1 - _CONFIDENCE)) / found.pairs)


def card(recipe: Recipe, run: Run, document: ProfileDocument) -> bytes:
    """The model card: what it is, what it was made from, what it is for, and what it does not do."""
    step = document.patronus
    assert step is not None
    layers = ", ".join([*step.layers, *(["seal"] if recipe.seal else [])])
    sides = "probe and gallery protected" if recipe.sides == "both" else "protected probe against clean gallery"
    text = f"""# Model card: protection profile `{document.name}`

{document.summary}

## What it is

- Layers: {layers}. A network of {_parameters(run):,} numbers that turns face embeddings of {step.dim} dimensions by at
  most {np.rad2deg(step.phi_max):.1f} degrees; ONNX, {step.file}.
- For the embedder `{document.embedder}` alone (file SHA-256 {document.embedder_sha256}), threshold cosine
  {recipe.tau:g}, {sides}.
- Budgets: {json.dumps(document.budgets)}.

## What it was made from

- Decoders and perturbation learned on the pictures of `{Path(recipe.images).name}`; the erase step, score preservation
  and calibration on people of `{Path(recipe.people).name}` who take no part in the test. The profile holds no picture
  and no one's embedding: its cohort of impostors is drawn from a fitted Gaussian (SHA-256 {document.cohort_sha256}).
- The terms of these data are those of their publishers; LFW is a research benchmark and UTKFace is for non-commercial
  research. Whether weights trained on them may be used commercially is for a lawyer to say: train your own on your own
  pictures where that matters (`patronus lab train`).

## What it is for

Making templates of faces from which decoders that learned on unprotected embeddings rebuild neither the picture nor the
person, at an unchanged matching threshold.

## What it does not do

- **It is no secret.** Without the seal, whoever holds this profile can train a decoder on protected templates and
  undoes most of it. Only what erase removes stays removed.
- A template that can be matched tests identity: whoever can run the matcher can search for a face that is accepted.
- Measured on the data sets named here; other cameras, ages and groups differ. The face models have very likely seen
  some of the people in training.

## Figures

The document `profile.json` beside this file holds them all, with intervals over people and each attacker's score on
clean templates.
"""
    return text.encode()


def _parameters(run: Run) -> int:
    state = torch.load(run.folder / "network.pt", weights_only=True)
    return int(sum(value.numel() for value in state.values()))
