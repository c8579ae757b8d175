"""What a model card says is true of the profile that it comes with."""

from __future__ import annotations

from typing import Any

import pytest

from edge_service.protection.profiles.document import PatronusStep, ProfileDocument, SealStep
from lab.defence.recipe import Recipe
from lab.export.model_card import card, with_demographics
from shared.wire.common import Threshold


def _share(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def _figures() -> dict[str, Any]:
    attacked = {
        name: {"type_1": {"target": _share(one)}, "type_2": {"target": _share(two)}}
        for name, one, two in (("clean", 0.98, 0.6), ("protected", 0.03, 0.02))
    }
    return {
        "accuracy": {name: {"tar": _share(tar), "fmr": 1e-3} for name, tar in (("clean", 0.975), ("protected", 0.971))},
        "attacks": {"attentive (held out)": attacked, "average face": {"clean": attacked["clean"]}},
    }


def _demographics(children: float) -> dict[str, Any]:
    rows = [
        {"ages": ages, "sex": sex, "group": None, "pictures": 500, "pairs": 124_750, "accepted": 1, "value": value}
        | {"low": value / 2, "high": value * 2, "threshold": 0.41}
        for ages, value in (("0 to 2", children), ("7 to 12", 0.012), ("25 to 45", 1e-3))
        for sex in (None, "female")
    ]
    about = {"source": "faces.tar", "embedder": "mine", "tau": 0.4, "sides": "both", "most_a_band": 900}
    return about | {"pictures": 1500, "copies": 3, "unlabelled": 0, "clean": rows, "protected": rows}


def _card(*, plugin: bool = False, erases: bool = True, figures: dict[str, Any] | None = None, **more: Any) -> str:
    recipe = Recipe(
        name="mine",
        summary="A profile.",
        embedder="sface_2021dec",
        tau=0.4,
        sides="probe" if plugin else "both",
        seal=not plugin,
        slope=1.0 if plugin else None,
        images="/home/me/staff photos",
        people="/home/me/archive/people.tar",
        **more,
    )
    layers: list[Any] = ["erase", "perturb"] if erases and not plugin else ["perturb"]
    step = PatronusStep(sha256="a" * 64, dim=128, seed_dim=16, layers=layers, input_norm=[1.0, 20.0], phi_max=0.5)
    document = ProfileDocument(
        name="mine",
        summary="A profile.",
        embedder="sface_2021dec",
        embedder_sha256="b" * 64,
        steps=[step, *([] if plugin else [SealStep()])],
        threshold=Threshold(cosine=0.4, fmr=1e-3),
        budgets={"phi_max": 28.6, "no_margin": 0.001},
        cohort_sha256="c" * 64,
        figures=figures,
    )
    return card(recipe, document, 12345).decode()


def test_it_names_further_people_and_what_their_pictures_cost() -> None:
    point = {"at": "fmr 0.0001", "clean": 0.75, "protected": 0.76, "lost": -0.01, "interval": [-0.02, 0.005]}
    further = {"people": 50, "pictures": 4483, "points": [point], "fmr": {"clean": 1e-3, "protected": 1.1e-3}}
    text = _card(figures=_figures() | {"further_people": further}, more_people="/home/me/street")
    assert "also on all people of `street`" in text
    assert "/home" not in text
    assert "at fmr 0.0001 75.00% before and 76.00% after (lost -1.00, -2.00 to 0.50 points)" in text
    assert "further people" not in _card(figures=_figures())


def test_it_names_sources_and_terms_and_no_path() -> None:
    text = _card(terms="Our staff agreed to it in writing.")
    assert "staff photos" in text
    assert "people.tar" in text
    assert "/home" not in text
    assert "Our staff agreed to it in writing." in text
    assert "not result" not in text
    assert "not said by whoever trained this profile" in _card()
    assert "LFW" not in text


def test_what_turns_both_sides_is_called_no_secret() -> None:
    text = _card()
    assert "Layers: erase, perturb, seal" in text
    assert "12,345 numbers" in text
    assert "It is no secret" in text
    assert "unprotected embedding" not in text
    assert "What erase removed stays removed" in text
    assert "Nothing is erased" not in text


def test_where_nothing_is_erased_the_card_says_so() -> None:
    text = _card(erases=False)
    assert "Layers: perturb, seal" in text
    assert "Nothing is erased" in text
    assert "What erase removed" not in text


def test_what_perturbs_probes_alone_promises_little() -> None:
    text = _card(plugin=True)
    assert "Layers: perturb." in text
    assert "how little this hinders" in text
    assert "**unprotected embedding leaves the edge**" in text
    assert "rebuild other faces" not in text


@pytest.mark.parametrize("plugin", [False, True])
def test_figures_are_those_of_the_document(plugin: bool) -> None:
    text = _card(plugin=plugin, figures=_figures())
    assert "protected: 97.10% of genuine pairs accepted (96.10% to 98.10%), false matches 1.00e-03" in text
    assert "accepted, same photo (type I): target 98.0% before and 3.0% after." in text
    assert "accepted against the another picture" not in text
    assert "average face" not in text
    assert "Nothing was measured" in _card(plugin=plugin)


def test_a_card_says_whom_it_is_not_for_where_that_was_measured() -> None:
    text = _card(figures=_figures() | {"demographics": _demographics(0.6)})
    assert "**Not for children.** Strangers of 0 to 2 years, 7 to 12 years are accepted" in text
    assert "| 0 to 2 | 500 | 124,750 | 1 | 60 (30 to 120) | 1 | 60 (30 to 120) | 0.410, 0.410 |" in text
    assert "| 25 to 45 | female | 124,750 | 0.10 (0.050 to 0.20) | 1 | 0.10 (0.050 to 0.20) |" in text
    assert "3 further copies of the same photos" in text
    again = with_demographics(text, _demographics(0.005))
    assert again.count("## False matches by age, sex and group") == 1
    assert "Strangers of 7 to 12 years are" in again
    assert "False matches by age" not in _card(figures=_figures())
