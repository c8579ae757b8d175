"""Further people are judged by an erase step that was fitted without them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_service.protection.profiles.document import ProfileDocument, SealStep
from lab.data.embedders import Encoder
from lab.data.images import FaceImages
from lab.data.matching import genuine_pairs
from lab.data.splits import FIT, Labelled, Material, PeopleRows
from lab.defence.network import NetworkShape, PatronusNetwork
from lab.defence.statistics import Way
from lab.evaluation.subjects.faces import Sources
from lab.evaluation.subjects.folds import cost_in_folds
from lab.evaluation.subjects.measure import costs_in_folds

DIM = 16


def _people(count: int, each: int, seed: int, nuisance: float) -> PeopleRows:
    random = np.random.default_rng(seed)
    who = np.repeat(np.arange(count), each)
    rows = random.standard_normal((count, DIM))[who]
    rows[:, 0] += nuisance * random.standard_normal(len(who))
    rows += 0.5 * random.standard_normal(rows.shape)
    return PeopleRows((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), who)


def _material() -> Material:
    own, more = _people(100, 4, 0, 1.0), _people(25, 12, 1, 6.0)
    images = FaceImages(np.arange(400).astype(object), own.people.astype(object), np.empty((400, 0), np.uint8), "")
    part = np.full(400, FIT)
    labelled = Labelled(images, own.unit, own.unit, own.people, part, genuine_pairs(own.people), None)
    encoder = Encoder("own", None, "", "", None, DIM, None)  # type: ignore[arg-type]
    return Material(encoder, images, own.unit, labelled, more)


def _network(phi_max: float) -> PatronusNetwork:
    torch.manual_seed(0)
    network = PatronusNetwork(NetworkShape(DIM, cohort=4)).eval().requires_grad_(False)
    network.phi_max.fill_(phi_max)
    network.margin_from.fill_(1.0)
    network.slope.fill_(1e4)
    return network


def test_without_a_step_nothing_is_lost() -> None:
    found = cost_in_folds(_network(0.0), _material(), Way(), 0.6, draws=200)
    assert found["people"] == 25
    assert [point["at"] for point in found["points"]] == ["tau", "fmr 0.001", "fmr 0.0001", "fmr 1e-05"]
    for point in found["points"]:
        assert point["lost"] == pytest.approx(0, abs=1e-3)
        assert point["interval"] == pytest.approx([0, 0], abs=2e-3)


def test_erasing_what_tells_of_the_picture_gains_and_noise_loses() -> None:
    network = _network(0.0)
    before = network.eraser.clone()
    gain = cost_in_folds(network, _material(), Way(directions=1), 0.6, draws=200)
    assert torch.equal(network.eraser, before)
    strict = gain["points"][1]
    assert strict["lost"] < -0.1
    assert strict["interval"][0] < strict["lost"] < strict["interval"][1] < 0
    # Figures of the clean side do not depend on the step.
    assert strict["clean"] == cost_in_folds(_network(0.5), _material(), Way(), 0.6, draws=200)["points"][1]["clean"]


def test_figures_are_those_of_plain_pairs() -> None:
    material = _material()
    assert material.more is not None
    found = cost_in_folds(_network(0.0), material, Way(), 0.6, draws=200)
    people = material.more.people
    scores = material.more.unit @ material.more.unit.T
    first, second = np.triu_indices(len(people), 1)
    pairs, same = scores[first, second], people[first] == people[second]
    assert found["points"][0]["clean"] == pytest.approx(np.mean(pairs[same] >= 0.6), abs=2e-3)
    assert found["fmr"]["clean"] == pytest.approx(np.mean(pairs[~same] >= 0.6), abs=2e-3)
    threshold = np.quantile(pairs[~same], 0.999)
    assert found["points"][1]["clean"] == pytest.approx(np.mean(pairs[same] >= threshold), abs=0.01)


def test_people_who_helped_to_fit_are_measured_in_folds_only() -> None:
    further = cost_in_folds(_network(0.5), _material(), Way(), 0.6, draws=200)
    figures = {"further_people": {"source": "street.tar"} | further}
    document = ProfileDocument(name="own", summary="Ours.", embedder="any", steps=[SealStep()], figures=figures)
    sources = Sources(Path("people"), Path("somewhere/street.tar"), None, Path("cache"))
    found = costs_in_folds(document, sources)
    assert [(each.population, each.fmr) for each in found] == [("wild", 1e-3), ("wild", 1e-4), ("wild", 1e-5)]
    assert [each.tar_lost for each in found] == [point["lost"] for point in further["points"][1:]]
    # Others, or nobody, did not help.
    assert not costs_in_folds(document, replace(sources, more=Path("others.tar")))
    assert not costs_in_folds(document, replace(sources, more=None))
    assert not costs_in_folds(document.model_copy(update={"figures": None}), sources)


def test_there_must_be_further_people() -> None:
    with pytest.raises(ValueError, match="no further people"):
        cost_in_folds(_network(0.0), replace(_material(), more=None), Way(), 0.6, draws=200)
