"""The model card that comes with a profile: what it is, what it was made from, what it is for, what it does not do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from edge_service.protection.profiles.document import ProfileDocument
from lab.data.lfw import PAIRS
from lab.defence.recipe import Recipe
from lab.evaluation.demographic_figures import far_worse, table

_DEMOGRAPHICS: Final = "## False matches by age, sex and group"
_SEEN: Final = (
    "Where the network\nlearned on these very pictures (above), protected figures may be a little too good; clean ones "
    "are the embedder's alone."
)


def card(recipe: Recipe, document: ProfileDocument, parameters: int) -> bytes:
    """The card, Markdown.

    Args:
        recipe: of the training.
        document: the profile, its figures included.
        parameters: how many numbers were trained.
    """
    step = document.patronus
    if step is None:
        raise ValueError("a profile without a network has no card of a training")
    layers = ", ".join([*step.layers, *(["seal"] if recipe.seal else [])])
    sides = "probe and gallery protected" if recipe.sides == "both" else "protected probe against clean gallery"
    text = f"""# Model card: protection profile `{document.name}`

{document.summary}

## What it is

- Layers: {layers}. A network of {parameters:,} numbers that perturbs face embeddings of {step.dim} dimensions by at
  most {np.rad2deg(step.phi_max):.1f} degrees; ONNX, {step.file}.
- For the embedder `{document.embedder}` alone (file SHA-256 {document.embedder_sha256}), threshold cosine
  {recipe.tau:g}, {sides}.
- Budgets: {json.dumps(document.budgets)}.

## What it was made from

- Decoders and perturbation learned on the pictures of `{_source(recipe.images)}`; the erase step, score preservation
  and calibration on people of `{_source(recipe.people)}` who take no part in the test{_further(recipe)}.
  The profile holds no picture and no one's embedding: its cohort of impostors is drawn from a fitted Gaussian
  (SHA-256 {document.cohort_sha256}).
- Terms of these pictures: {recipe.terms or "not said by whoever trained this profile"}

## What it is for

{_purpose(recipe)}

## What it does not do

{_limits(recipe, erases="erase" in step.layers)}
- It was measured on the pictures named above; other cameras, ages and groups differ. The embedder may have seen some of
  these people in its own training.

## Figures

{_figures(document.figures)}
The document `profile.json` beside this file holds all that was measured, with intervals over people and each attacker's
score on clean templates.
"""
    if document.figures and "demographics" in document.figures:
        text = with_demographics(text, cast(Mapping[str, Any], document.figures["demographics"]))
    return text.encode()


def with_demographics(text: str, found: Mapping[str, Any]) -> str:
    """A card with its section on false matches by age, sex and group, which is its last; one that is there is replaced.

    Args:
        text: the card.
        found: what ``lab.evaluation.demographic_figures`` measured.
    """
    before = text.partition(f"\n{_DEMOGRAPHICS}\n")[0].rstrip()
    worse = far_worse(dict(found))
    warning = ""
    if worse:
        warning = (
            f"**Not for children.** Strangers of {' years, '.join(worse)} years are accepted as each other more than\n"
            "ten times as often as adults of 25 to 45 years.\n\n"
        )
    return f"""{before}

{_DEMOGRAPHICS}

{warning}Measured on {found["pictures"]:,} pictures of `{found["source"]}`, {_drawn(found)}, with the embedder
`{found["embedder"]}` at cosine {found["tau"]:g}. {found["copies"]} further copies of the same photos were left out
(correlation of grey thumbnails 0.97 or more). Nobody knows who is on these pictures, so every pair is presumed to be
of two people: pairs of one person that are still there count as false matches. Intervals are a bootstrap over pictures,
and never narrower than Wilson's over pairs. Templates are unsealed: the seal keeps every score. {_SEEN}
{table(dict(found))}"""


def _drawn(found: Mapping[str, Any]) -> str:
    most = found["most_a_band"]
    return "all that have labels" if most is None else f"at most {most:,} of each age band, drawn at random"


def _source(path: str) -> str:
    """What a data set is called: its folder or file, for its path is nobody's business."""
    return "Labeled Faces in the Wild" if (Path(path) / PAIRS).is_file() else Path(path).resolve().name


def _further(recipe: Recipe) -> str:
    """Who else helped to fit the erase step, as the end of a sentence."""
    return f"; the erase step\n  also on all people of `{_source(recipe.more_people)}`" if recipe.more_people else ""


def _purpose(recipe: Recipe) -> str:
    if recipe.sides == "both":
        return (
            "Templates of faces at an unchanged matching threshold, from which decoders that learned on unprotected\n"
            "embeddings rebuild other faces than those of the people. How often they still succeed is below."
        )
    return (
        "Probes against a gallery that stays as it is, at an unchanged matching threshold. What such a template\n"
        "must keep to be matched is most of what a decoder needs: how little this hinders one is below."
    )


def _limits(recipe: Recipe, *, erases: bool) -> str:
    """What a reader might expect and would not get, as items of a list."""
    found = (
        "- A template that can be matched tests identity: anyone who can run the matcher can search for a face\n"
        "  that is accepted.\n"
    )
    if recipe.sides == "both":
        erased = "What erase removed stays removed." if erases else "Nothing is erased."
        found += (
            "- **It is no secret.** Most of the perturbation is one rotation, the same for all faces. Anyone can\n"
            f"  read it in the network and rotate unsealed templates back. {erased} Against\n"
            "  an attacker with the profile, only the seal and its key protect.\n"
        )
        if not erases:
            found += "- No erase step was worth what it cost in genuine pairs, in folds over people: none is in it.\n"
    if recipe.slope is not None:
        found += (
            "- A face with no margin to the nearest of the cohort is not perturbed, and without erase and seal\n"
            "  its **unprotected embedding leaves the edge**. Such faces are counted (`no_margin` above).\n"
        )
    return found.rstrip()


def _figures(figures: Mapping[str, Any] | None) -> str:
    """Accuracy and attacks in a few lines; nothing where nothing was measured."""
    if not figures:
        return "Nothing was measured: it was published without an evaluation.\n"
    lines = []
    for name in ("clean", "protected"):
        value = figures["accuracy"][name]
        lines.append(
            f"- {name}: {value['tar']['value']:.2%} of genuine pairs accepted ({value['tar']['low']:.2%} to "
            f"{value['tar']['high']:.2%}), false matches {value['fmr']:.2e}, people who test."
        )
    if "further_people" in figures:
        further = figures["further_people"]
        shown = "; ".join(
            f"at {point['at']} {point['clean']:.2%} before and {point['protected']:.2%} after (lost "
            f"{100 * point['lost']:.2f}, {100 * point['interval'][0]:.2f} to {100 * point['interval'][1]:.2f} points)"
            for point in further["points"]
        )
        lines.append(
            f"- genuine pairs accepted of {further['people']} further people, {further['pictures']:,} pictures, each "
            f"two of them under an erase step fitted without either: {shown}. False matches at the threshold "
            f"{further['fmr']['clean']:.2e} before and {further['fmr']['protected']:.2e} after."
        )
    for family, results in figures["attacks"].items():
        if "protected" not in results:
            continue
        clean, protected = (results[name] for name in ("clean", "protected"))
        for kind, what in (("type_1", "same photo (type I)"), ("type_2", "other photo (type II)")):
            shown = ", ".join(
                f"{judge} {clean[kind][judge]['value']:.1%} before and {protected[kind][judge]['value']:.1%} after"
                for judge in clean[kind]
            )
            lines.append(f"- decoder {family}, rebuilt face accepted, {what}: {shown}.")
    return "\n".join(lines) + "\n"
