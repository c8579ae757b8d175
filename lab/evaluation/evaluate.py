"""``patronus lab evaluate``: all figures of one trained profile, on people that no trained part has seen."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from torch import nn

from lab.data.matching import Comparison
from lab.data.splits import TEST, Labelled
from lab.data.torch_embedder import load_torch_embedder
from lab.data.verification import Rows
from lab.defence.decoders import rebuilt
from lab.defence.network import PatronusNetwork
from lab.defence.pgd import descended
from lab.defence.protection import Protected, gaussian, protect, rotated_back
from lab.defence.runs import Run
from lab.evaluation import demographic_figures
from lab.evaluation.accuracy import Accuracy, accuracy
from lab.evaluation.reconstruction import TARGET, Cases, attacked_pairs, judges_of, named_judges
from lab.evaluation.subjects.folds import cost_in_folds
from shared.errors import SetupError

_CURVE_FACES: Final = 200
_PGD_FACES: Final = 48
_SHARES: Final = (0.25, 0.5, 0.75, 1.0)


def evaluate_run(run: Run, judges: list[str], most: int | None) -> dict[str, Any]:
    """Measures a calibrated training.

    Args:
        run: the training.
        judges: further embedders, ``NAME_OR_PATH=TAU``.
        most: people to attack at most.

    Returns:
        figures, ready for JSON.

    Raises:
        SetupError: it was not trained, or not calibrated, or a judge is none.
    """
    console = Console(stderr=True)
    run.check_trained()
    if run.read("calibration.json") is None:
        raise SetupError(f"{run.folder} is not calibrated; run patronus lab calibrate --out {run.folder}.")
    others = named_judges(judges, {TARGET}, needs_tau=True)
    material = run.material()
    labelled = material.labelled
    recipe = run.recipe
    fitted = run.fitted(material)
    network = run.network(fitted)
    attacked, other = attacked_pairs(labelled, most, seed=recipe.seed)
    panel = judges_of(labelled, material.encoder, recipe.tau, others, run.cache)
    cases = Cases(labelled=labelled, attacked=attacked, other=other, judges=panel)
    protected = protect(network, labelled.unit)
    erased = protect(network, labelled.unit, 0.0).templates
    whole = np.arccos(np.sum(labelled.unit.astype(np.float64) * protected.templates, axis=1).clip(-1, 1))
    variants = {
        "clean": labelled.unit,
        "erase alone": erased,
        "gaussian, same angle": gaussian(labelled.unit, whole, seed=recipe.seed),
        "protected": protected.templates,
    }
    if not network.size.erases:
        del variants["erase alone"]
    if network.size.rotates:
        variants["protected, turned back by who has the profile"] = rotated_back(network, protected.templates)
    console.print("accuracy ...")
    found: dict[str, Any] = {
        "people": len(np.unique(labelled.people[labelled.rows(TEST)])),
        "attacked": len(attacked),
        "angle_degrees": _histogram(protected.angles[labelled.rows(TEST)]),
        "no_margin": float(np.mean(protected.limits <= 0)),
        "accuracy": {name: asdict(value) for name, value in _accuracies(labelled, variants, recipe.tau, run).items()},
    }
    embedder = load_torch_embedder(material.encoder.path, cache=run.cache)
    few = cases.narrowed(_CURVE_FACES)
    tester = run.attacker(recipe.held_out, material, embedder)
    if material.more is not None:
        console.print("further people, in folds ...")
        cost = cost_in_folds(network, material, fitted.way, recipe.tau, recipe.seed)
        found["further_people"] = {"source": Path(str(recipe.more_people)).resolve().name} | cost
    console.print("curve ...")
    found["curve"] = _curve(network, few, run, tester)
    attacks: dict[str, Any] = {}
    for family in dict.fromkeys([*recipe.families, recipe.held_out]):
        decoder = run.attacker(family, material, embedder)
        console.print(f"attacker {family} ...")
        results = {name: asdict(cases.score(decoder, rows)) for name, rows in variants.items()}
        # What the decoder makes of the clean template of somebody else: no protection needs to go below.
        strangers = np.ascontiguousarray(labelled.unit[cases.strangers()])
        results["another person"] = asdict(cases.judged(rebuilt(decoder, strangers)))
        attacks[family + (" (held out)" if family == recipe.held_out else "")] = results
    console.print("gradient descent ...")
    decoder = run.attacker(recipe.families[0], material, embedder)
    found["teacher"] = _pgd_bound(few.narrowed(_PGD_FACES), erased, protected, decoder, tester, embedder)
    mean = labelled.images.pixels[attacked].astype(np.float32).mean(axis=0) / 255
    average = np.broadcast_to(mean.transpose(2, 0, 1), (len(attacked), 3, *mean.shape[:2]))
    attacks["average face"] = {"clean": asdict(cases.judged(np.ascontiguousarray(average)))}
    found["attacks"] = attacks
    if demographic_figures.has_labels(material.pictures.names):
        console.print("false matches by age, sex and group ...")
        found["demographics"] = demographic_figures.measure(
            Path(recipe.images),
            material.encoder,
            recipe.tau,
            lambda rows: protect(network, rows).templates,
            recipe.sides,
            cache=run.cache,
        )
    return found


def _accuracies(labelled: Labelled, variants: dict[str, Rows], tau: float, run: Run) -> dict[str, Accuracy]:
    rows = labelled.rows(TEST)
    whole = np.arange(len(labelled.unit))
    clean, protected, noise = labelled.unit, variants["protected"], variants["gaussian, same angle"]
    both = run.recipe.sides == "both"
    gallery = protected if both else clean
    compared = {"clean": (clean, clean, rows), "protected": (protected, gallery, rows)}
    if both:
        compared["erase alone"] = (variants["erase alone"], variants["erase alone"], rows)
        compared["protected probe, clean gallery"] = (protected, clean, rows)
    compared["gaussian, same angle"] = (noise, noise if both else clean, rows)
    compared["clean, everyone"] = (clean, clean, whole)
    compared["protected, everyone"] = (protected, gallery, whole)
    return {name: accuracy(labelled, *sides, tau) for name, sides in compared.items()}


def _curve(network: PatronusNetwork, few: Cases, run: Run, tester: nn.Module) -> list[dict[str, float]]:
    """Accuracy and privacy over the angle, on people who test: what the attacker held out rebuilds."""
    labelled = few.labelled
    rows = labelled.rows(TEST)
    unit_rows, people = np.ascontiguousarray(labelled.unit[rows]), labelled.people[rows]
    comparison = Comparison(unit_rows, people, run.recipe.tau, sides=run.recipe.sides)
    largest = float(network.phi_max)
    found = []
    for share in (0.0, *_SHARES):
        everyone = protect(network, labelled.unit, share * largest)
        noise = gaussian(labelled.unit, everyone.angles, seed=run.recipe.seed)
        change, blind = (comparison.against(np.ascontiguousarray(made[rows])) for made in (everyone.templates, noise))
        attacked, attacked_blind = (few.score(tester, made) for made in (everyone.templates, noise))
        found.append(
            {
                "phi_degrees": float(np.rad2deg(share * largest)),
                "cosine_to_clean": float(np.sum(everyone.templates[rows] * unit_rows, axis=1).mean()),
                "type_1": attacked.type_1[TARGET].value,
                "type_2": attacked.type_2[TARGET].value,
                "gaussian_type_1": attacked_blind.type_1[TARGET].value,
                "gaussian_type_2": attacked_blind.type_2[TARGET].value,
                "fnmr": change.fnmr.protected,
                "fnmr_rise_upper": change.fnmr.upper,
                "fmr": change.fmr.protected,
                "fmr_rise_upper": change.fmr.upper,
                "gaussian_fnmr": blind.fnmr.protected,
                "gaussian_fmr": blind.fmr.protected,
            }
        )
    return found


def _pgd_bound(
    few: Cases, erased: Rows, protected: Protected, descends: nn.Module, held_out: nn.Module, embedder: nn.Module
) -> dict[str, Any]:
    """How much of the effect of gradient descent, at the same angles, the network has.

    The effect is by how much the cosine between rebuilt and true face falls; the decoder that gradient descent knows is
    one of the loop, the other one is held out.
    """
    rows, unit_rows = few.attacked, few.labelled.unit
    taught = erased.copy()
    taught[rows] = descended(erased[rows], unit_rows[rows], protected.angles[rows], descends, embedder)
    found: dict[str, Any] = {"faces": len(rows)}
    for name, decoder in (("decoder that it knows", descends), ("decoder held out", held_out)):
        outcome = {
            what: few.score(decoder, templates)
            for what, templates in (("before", erased), ("descent", taught), ("network", protected.templates))
        }
        cosine = {what: value.cosine[TARGET].value for what, value in outcome.items()}
        share = (cosine["before"] - cosine["network"]) / max(cosine["before"] - cosine["descent"], 1e-6)
        found[name] = {"cosine": cosine, "share_kept": share}
    return found


def _histogram(angles: Rows) -> dict[str, Any]:
    degrees = np.rad2deg(angles.astype(np.float64))
    counts, edges = np.histogram(degrees, bins=30)
    return {
        "mean": float(degrees.mean()),
        "least": float(degrees.min()),
        "most": float(degrees.max()),
        "counts": counts.tolist(),
        "edges": edges.tolist(),
    }


def table(found: dict[str, Any]) -> str:
    """The figures for people to read, as Markdown."""
    lines = ["", "| at the unchanged threshold | TAR % | FMR e-3 | 10 folds % |", "| --- | --- | --- | --- |"]
    for name, value in found["accuracy"].items():
        tar = value["tar"]
        folds = "" if value["ten_fold"] is None else f"{100 * value['ten_fold']:.2f}"
        shown = f"{100 * tar['value']:.2f} ({100 * tar['low']:.2f} to {100 * tar['high']:.2f})"
        lines.append(f"| {name} | {shown} | {1e3 * value['fmr']:.2f} | {folds} |")
    if "further_people" in found:
        further = found["further_people"]
        lines += ["", f"| {further['people']} further people, in folds | clean % | protected % | lost, points |"]
        lines.append("| --- | --- | --- | --- |")
        for point in further["points"]:
            low, high = (100 * bound for bound in point["interval"])
            lost = f"{100 * point['lost']:.2f} ({low:.2f} to {high:.2f})"
            lines.append(f"| {point['at']} | {100 * point['clean']:.2f} | {100 * point['protected']:.2f} | {lost} |")
    for family, results in found["attacks"].items():
        names = list(next(iter(results.values()))["type_1"])
        head = "".join(f" {name}: type I % | type II % |" for name in names)
        lines += ["", f"| attacker: {family} | SSIM |{head}", "| --- | --- |" + " --- | --- |" * len(names)]
        for variant, value in results.items():
            shown = "".join(f" {_percent(value['type_1'][n])} | {_percent(value['type_2'][n])} |" for n in names)
            lines.append(f"| {variant} | {value['ssim']['value']:.3f} |{shown}")
    for name in ("decoder that it knows", "decoder held out"):
        cosine, share = found["teacher"][name]["cosine"], found["teacher"][name]["share_kept"]
        lines += ["", f"Gradient descent at the same angles, {name}: cosine of the rebuilt to the true face"]
        lines[-1] += f" {cosine['before']:.2f} before, {cosine['descent']:.2f}; the network {cosine['network']:.2f}"
        lines[-1] += f", which is {share:.0%} of that effect."
    text = "\n".join(lines) + "\n"
    return text + demographic_figures.table(found["demographics"]) if "demographics" in found else text


def _percent(share: dict[str, float]) -> str:
    return f"{100 * share['value']:.1f} ({100 * share['low']:.1f} to {100 * share['high']:.1f})"
