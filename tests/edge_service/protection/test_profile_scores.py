"""What a profile says of subjects with several templates, of its curves, and of its cost; strict in every member."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_service.protection.embeddings import template_weights
from edge_service.protection.profiles.document import ProfileDocument
from edge_service.protection.profiles.files import available, load_profile, read_profile, write_profile
from edge_service.protection.profiles.score import ScoreCalibration, ScoreWeights
from shared.errors import SetupError

CHECKOUT = Path(__file__).parents[3]
SCORE: dict[str, Any] = {
    "exponents": [0.3, 0.5, 0.7],
    "weights": {"norm": 10.0, "power": 1.0},
    "tar": [0.83, 0.93, 0.96],
    "fmr": [0.001, 0.0009, 0.001],
}
EDGES = np.linspace(-1, 1, 5).tolist()
CURVE: dict[str, Any] = {
    "population": "lfw_unseen",
    "rule": "mean",
    "templates": 3,
    "band": None,
    "thresholds": np.linspace(-0.5, 0.9, 200).tolist(),
    "fmr": np.linspace(1, 0, 200).tolist(),
    "tar": np.linspace(1, 0.5, 200).tolist(),
    "impostor_pairs": 10,
    "genuine_pairs": 4,
    "impostor_histogram": {"edges": EDGES, "counts": [1, 4, 5, 0]},
    "genuine_histogram": {"edges": EDGES, "counts": [0, 0, 1, 3]},
}
COST = {"population": "lfw_unseen", "fmr": 0.001, "tar_lost": 0.002, "interval": [-0.001, 0.004]}
DOCUMENT: dict[str, Any] = {
    "version": 1,
    "name": "mine",
    "summary": "for a test",
    "embedder": "sface",
    "steps": [{"kind": "seal"}],
    "threshold": {"cosine": 0.384, "fmr": 0.001},
    "score": SCORE,
    "curves": [CURVE],
    "cost": [COST],
}


def written(folder: Path, **changes: Any) -> Path:
    (folder / "mine").mkdir(exist_ok=True)
    (folder / "mine" / "profile.json").write_text(json.dumps(DOCUMENT | changes))
    return folder


def without(part: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != name}


def test_a_document_with_everything_is_read_and_written_whole(tmp_path: Path) -> None:
    profile = load_profile("mine", own=written(tmp_path))
    assert profile.document.score == ScoreCalibration.model_validate(SCORE)
    assert profile.document.curves is not None
    assert profile.document.curves[0].thresholds == CURVE["thresholds"]
    again = write_profile(tmp_path / "other", profile.document)
    assert again.document == profile.document


def test_what_a_document_lacks_is_not_written_so_that_its_digest_stays(tmp_path: Path) -> None:
    for name in available():
        document = load_profile(name).document
        assert {"score", "curves", "cost"} - document.model_dump().keys() == {
            member for member in ("score", "curves", "cost") if getattr(document, member) is None
        }
    bare = ProfileDocument.model_validate_json(
        json.dumps(without(without(without(DOCUMENT, "score"), "curves"), "cost"))
    )
    assert "score" not in bare.model_dump_json()
    made = write_profile(tmp_path, bare)
    assert read_profile(tmp_path / "mine").pin == made.pin


BAD: dict[str, dict[str, Any]] = {
    "an exponent over 1": {"score": SCORE | {"exponents": [1.1]}},
    "more exponents than a gallery takes": {"score": SCORE | {"exponents": [0.5] * 33}},
    "a rate over 1": {"score": SCORE | {"tar": [1.2]}},
    "no rate at all": {"score": SCORE | {"tar": []}},
    "rates at no threshold": {"threshold": None},
    "weights of nothing": {"score": SCORE | {"weights": {"norm": 0, "power": 1}}},
    "weights without a power": {"score": SCORE | {"weights": {"norm": 1}}},
    "an unknown member": {"score": SCORE | {"more": 1}},
    "text for a number": {"score": SCORE | {"exponents": ["0.5"]}},
    "few thresholds": {
        "curves": [CURVE | {name: CURVE[name][:199] for name in ("thresholds", "fmr", "tar")}],
    },
    "fmr of another length": {"curves": [CURVE | {"fmr": CURVE["fmr"][1:]}]},
    "tar of another length": {"curves": [CURVE | {"tar": CURVE["tar"][1:]}]},
    "thresholds that fall": {"curves": [CURVE | {"thresholds": CURVE["thresholds"][::-1]}]},
    "a threshold twice": {"curves": [CURVE | {"thresholds": [*CURVE["thresholds"][:-1], CURVE["thresholds"][-2]]}]},
    "a threshold over 1": {"curves": [CURVE | {"thresholds": [*CURVE["thresholds"][:-1], 1.1]}]},
    "fmr that rises": {"curves": [CURVE | {"fmr": CURVE["fmr"][::-1]}]},
    "tar that rises": {"curves": [CURVE | {"tar": CURVE["tar"][::-1]}]},
    "a rate below 0": {"curves": [CURVE | {"fmr": [*CURVE["fmr"][:-1], -0.1]}]},
    "tar of no pairs": {"curves": [CURVE | {"genuine_pairs": 0}]},
    "a histogram of no pairs": {"curves": [CURVE | {"tar": None, "genuine_pairs": 0}]},
    "tar without a histogram": {"curves": [CURVE | {"genuine_histogram": None}]},
    "a histogram that counts fewer": {"curves": [CURVE | {"impostor_pairs": 11}]},
    "a histogram of as many counts as edges": {
        "curves": [CURVE | {"impostor_histogram": {"edges": EDGES, "counts": [1, 4, 5, 0, 0]}}]
    },
    "edges that do not ascend": {
        "curves": [CURVE | {"impostor_histogram": {"edges": [-1, 0, 0, 0.5, 1], "counts": [1, 4, 5, 0]}}]
    },
    "a count below 0": {"curves": [CURVE | {"impostor_histogram": {"edges": EDGES, "counts": [11, -1, 0, 0]}}]},
    "a rule that is none": {"curves": [CURVE | {"rule": "median"}]},
    "no templates": {"curves": [CURVE | {"templates": 0}]},
    "a population with blanks": {"curves": [CURVE | {"population": "lfw unseen"}]},
    "a curve twice": {"curves": [CURVE, CURVE | {"fmr": [1.0] * 200}]},
    "a cost twice": {"cost": [COST, COST | {"tar_lost": 0.1}]},
    "a cost at no rate": {"cost": [COST | {"fmr": 0}]},
    "a cost over everything": {"cost": [COST | {"tar_lost": 1.5}]},
    "an interval upside down": {"cost": [COST | {"interval": [0.004, -0.001]}]},
    "half an interval": {"cost": [COST | {"interval": [0.004]}]},
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD)
def test_figures_that_do_not_agree_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(SetupError, match="is damaged"):
        load_profile("mine", own=written(tmp_path, **changes))


def test_curves_without_genuine_pairs_and_several_of_one_population_are_taken(tmp_path: Path) -> None:
    impostors_only = CURVE | {"tar": None, "genuine_pairs": 0, "genuine_histogram": None, "population": "utkface"}
    curves = [CURVE, CURVE | {"rule": "best"}, CURVE | {"templates": 5}, CURVE | {"band": "18-29"}, impostors_only]
    document = load_profile("mine", own=written(tmp_path, curves=curves)).document
    assert document.curves is not None
    assert len(document.curves) == 5


def test_the_profiles_calibration_comes_first_then_the_embedders_then_what_is_safe(tmp_path: Path) -> None:
    of_profile, of_embedder = ScoreCalibration.model_validate(SCORE), ScoreCalibration(exponents=[0.9])
    with_one, bare = load_profile("mine", own=written(tmp_path)), load_profile("seal")
    assert with_one.score_calibration(of_embedder) == of_profile
    assert bare.score_calibration(of_embedder) == of_embedder
    safe = bare.score_calibration(None)
    assert (safe.subject_score().rule, [safe.subject_score().exponent(k) for k in (1, 2, 20)]) == ("mean", [0, 0, 0])
    assert [of_profile.subject_score().exponent(k) for k in (1, 2, 3, 4, 20)] == [0, 0.3, 0.5, 0.7, 0.7]


def test_what_another_picture_is_worth_is_known_as_far_as_it_was_measured() -> None:
    calibration = ScoreCalibration.model_validate(SCORE)
    assert [calibration.gain(k) for k in (1, 2, 3, 4)] == [(0.83, 0.93), (0.93, 0.96), None, None]
    assert ScoreCalibration().gain(1) is None


def test_weights_are_nine_values_whatever_the_length() -> None:
    weights = ScoreWeights(norm=10.0, power=1.0)
    lengths = np.geomspace(0.01, 10_000, 2000)
    found = [weights.weight(length) for length in lengths]
    assert found == sorted(found)
    assert len(set(found)) == 9
    np.testing.assert_allclose(sorted(set(found)), 2.0 ** np.arange(-2, 2.1, 0.5))
    within = (lengths > 2.5) & (lengths < 40)
    ratio = np.array(found)[within] / (lengths[within] / 10)
    assert (np.abs(np.log2(ratio)) <= 0.25 + 1e-9).all(), "rounded to the nearest step"
    assert ScoreWeights(norm=10.0, power=0).weight(0.001) == 1
    assert ScoreWeights(norm=10.0, power=2).weight(20.0) == 4


def test_embeddings_kept_at_length_1_weigh_alike() -> None:
    lengths = np.array([1, 0.9995, 1.0005, 5, 20], np.float32)
    weights = ScoreWeights(norm=10.0, power=1.0)
    assert template_weights(lengths, weights) == [1, 1, 1, 0.5, 2]
    assert template_weights(lengths, None) == [1] * 5
