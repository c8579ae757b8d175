"""From pictures to a profile that the edge runs, as a person does it: train, calibrate, evaluate, export."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edge_service.protection.patronus import PatronusGraph
from edge_service.protection.profiles.files import load_profile
from lab.data.embedders import open_encoder
from lab.defence.protection import protect
from lab.defence.runs import Run
from lab.evaluation.demographics import first_of_each_photo
from shared.contract import EmbedderPin
from shared.errors import SetupError

pytestmark = pytest.mark.slow(reason="trains, calibrates, evaluates and exports a whole profile")

TAU = 0.85
# So many calibrate, a fifth of all, that a rise of FNMR by 1 % can be ruled out: 300, and some more, as chance has it.
PEOPLE = 1500


@pytest.fixture(scope="module")
def done(
    tmp_path_factory: pytest.TempPathFactory,
    patronus: Callable[..., Any],
    faces_tar: Callable[..., Path],
    write_embedder: Callable[..., Path],
) -> SimpleNamespace:
    """A training with all its steps behind it, and what each of them said."""
    home = tmp_path_factory.mktemp("lab")
    faces, others = faces_tar(home / "faces.tar", PEOPLE), faces_tar(home / "others.tar", 500, seed=1, labels=True)
    embedder, judge = write_embedder(home / "mine.onnx"), write_embedder(home / "judge.onnx", seed=1)
    out, elsewhere = home / "run", home / "elsewhere"
    elsewhere.mkdir()
    kept = ("--out", out, "--cache", home / "cache")
    own = ("--embedder", embedder, "--tau", TAU, "--quick")
    train = ("lab", "train", "--images", others, "--people", faces, *own, *kept)
    result = {}
    with contextlib.chdir(elsewhere):
        result["train"] = patronus(*train)
        result["calibrate"] = patronus("lab", "calibrate", *kept)
        result["evaluate"] = patronus("lab", "evaluate", "--most", 20, "--judge", f"{judge}=0.8", *kept)
        result["export"] = patronus("lab", "export", "--to", home / "profiles", *kept)
    return SimpleNamespace(
        home=home, out=out, kept=kept, train=train, result=result, embedder=embedder, elsewhere=elsewhere
    )


@pytest.fixture
def copy(done: SimpleNamespace, tmp_path: Path) -> Path:
    """The training, to be damaged or gone on with."""
    return Path(shutil.copytree(done.out, tmp_path / "copy"))


def _pin(run: Run) -> EmbedderPin:
    encoder = open_encoder(run.recipe.embedder)
    return EmbedderPin(name=encoder.name, sha256=encoder.sha256, preprocessing=encoder.preprocessing)


def test_each_step_says_what_it_did_and_what_comes_next(done: SimpleNamespace) -> None:
    assert {name: result.status for name, result in done.result.items()} == dict.fromkeys(done.result, 0), [
        result.err[-500:] for result in done.result.values()
    ]
    assert "patronus lab calibrate --out" in done.result["train"].out
    assert "statistical budget" in done.result["calibrate"].out
    assert "| protected |" in done.result["evaluate"].out
    assert "attacker: attentive (held out)" in done.result["evaluate"].out
    assert "judge: type I" in done.result["evaluate"].out
    assert str(done.home / "profiles" / "own") in done.result["export"].out


def test_nothing_is_written_but_where_it_was_asked_for(done: SimpleNamespace) -> None:
    assert not list(done.elsewhere.iterdir())
    assert sorted(path.name for path in done.out.iterdir()) == [
        "attackers",
        "calibration.json",
        "checkpoints",
        "evaluation.json",
        "fit.npz",
        "network.pt",
        "recipe.json",
    ]
    assert sorted(path.name for path in (done.home / "profiles").iterdir()) == ["own"]
    assert not [path for path in done.home.rglob(".*") if path.is_file()]


def test_calibration_allows_something_and_says_on_whom_it_rests(done: SimpleNamespace) -> None:
    found = json.loads((done.out / "calibration.json").read_text())
    assert 0 < found["phi_max"] <= 75
    assert 300 < found["people"] < PEOPLE / 3
    assert f"on {found['people']} people" in done.result["calibrate"].out


def test_evaluation_is_of_people_who_test_alone(done: SimpleNamespace) -> None:
    found = json.loads((done.out / "evaluation.json").read_text())
    material = Run.open(done.out, done.home / "cache").material()
    assert found["people"] == len(set(material.labelled.people[material.labelled.part == 2]))
    assert found["attacked"] == 20
    assert set(found["accuracy"]) >= {"clean", "protected", "erase alone", "gaussian, same angle"}
    assert 0.9 < found["accuracy"]["clean"]["tar"]["value"] <= 1
    for results in found["attacks"].values():
        for outcome in results.values():
            assert set(outcome["type_1"]) == {"target", "judge"}
            assert -1 <= outcome["ssim"]["value"] <= 1


def test_evaluation_tells_false_matches_by_age_sex_and_group_where_names_hold_them(done: SimpleNamespace) -> None:
    found = json.loads((done.out / "evaluation.json").read_text())["demographics"]
    assert (found["pictures"] + found["copies"], found["unlabelled"], found["source"]) == (1000, 0, "others.tar")
    run = Run.open(done.out, done.home / "cache")
    material = run.material()
    for kind, rows in (
        ("clean", material.learned),
        ("protected", protect(run.network(run.fitted(material)), material.learned).templates),
    ):
        [told] = [row for row in found[kind] if (row["ages"], row["sex"], row["group"]) == ("0 to 2", None, None)]
        assert told["pairs"] == told["pictures"] * (told["pictures"] - 1) // 2
        named = np.array([name.split("/")[-1].startswith("2_") for name in material.pictures.names])
        young = rows[named & first_of_each_photo(material.pictures.pixels)]
        assert told["pictures"] == len(young)
        scores = young @ young.T
        rate = np.mean(scores[~np.eye(len(young), dtype=bool)] >= TAU)
        # Seeds of templates are drawn for the rows that are left, so protected rates differ a little.
        assert told["value"] == pytest.approx(rate, abs=1e-4 if kind == "clean" else 0.01)
    assert {row["sex"] for row in found["clean"]} == {None, "male", "female"}
    assert {row["ages"] for row in found["clean"]} == {"0 to 2", "25 to 45"}
    assert "| ages, cosine 0.85 |" in done.result["evaluate"].out
    assert "| ages, cosine 0.85 |" in (done.home / "profiles" / "own" / "MODEL_CARD.md").read_text()


def test_the_edge_reads_the_profile_and_its_templates_are_those_of_torch(done: SimpleNamespace) -> None:
    run = Run.open(done.out, done.home / "cache")
    profile = load_profile("own", embedder=_pin(run), dim=16, own=done.home / "profiles")
    document, step = profile.document, profile.document.patronus
    assert step is not None
    assert profile.graph is not None
    calibration = json.loads((done.out / "calibration.json").read_text())
    assert profile.seals
    assert step.layers == ["erase", "perturb"]
    assert np.rad2deg(step.phi_max) == pytest.approx(calibration["phi_max"], abs=1e-3)
    assert document.threshold is not None
    assert document.threshold.cosine == TAU
    evaluation = json.loads((done.out / "evaluation.json").read_text())
    assert document.figures == evaluation
    assert 0 < document.threshold.fmr == evaluation["accuracy"]["protected"]["fmr"]

    material = run.material()
    network = run.network(run.fitted(material))
    rows = material.labelled.unit[:50]
    random = np.random.default_rng(0)
    seeds = random.standard_normal((50, step.seed_dim)).astype(np.float32)
    seal = np.linalg.qr(random.standard_normal((16, 16)))[0].astype(np.float32)
    limits = np.linspace(0, 1, 50, dtype=np.float32)
    templates, angles = PatronusGraph(step, profile.graph, "own").run(rows, seeds, limits, seal)
    output = network(*(torch.from_numpy(value) for value in (rows, seeds, limits, seal)))
    assert np.abs(templates - output.template.numpy()).max() <= 1e-5
    assert np.abs(angles - output.angle.numpy()).max() <= 1e-5
    assert angles.max() > 0.01
    assert step.input_norm is not None
    lengths = np.linalg.norm(material.labelled.raw, axis=1)
    assert step.input_norm[0] < lengths.min() <= lengths.max() < step.input_norm[1]


def test_a_profile_is_for_its_embedder_alone(done: SimpleNamespace) -> None:
    pin = _pin(Run.open(done.out, done.home / "cache")).model_copy(update={"sha256": "0" * 64})
    with pytest.raises(SetupError, match="was made for another file of mine"):
        load_profile("own", embedder=pin, own=done.home / "profiles")


def test_the_profile_and_its_card_hold_nobody(done: SimpleNamespace) -> None:
    folder = done.home / "profiles" / "own"
    card = (folder / "MODEL_CARD.md").read_text()
    assert "It is no secret" in card
    assert str(done.home) not in card + (folder / "profile.json").read_text()
    run = Run.open(done.out, done.home / "cache")
    material = run.material()
    fitted = run.fitted(material)
    erased = protect(run.network(fitted), material.labelled.unit, 0.0).templates
    assert (fitted.cohort @ erased.T).max() < 0.99999


def test_nobody_is_in_two_parts(done: SimpleNamespace) -> None:
    material = Run.open(done.out, done.home / "cache").material()
    labelled = material.labelled
    parts = [set(labelled.people[labelled.rows(part)]) for part in (0, 1, 2)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == PEOPLE
    assert material.pictures.digest != labelled.images.digest


# Once more


def test_training_again_makes_nothing_again(done: SimpleNamespace, copy: Path, patronus: Callable[..., Any]) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.pt")}
    assert len(before) > 4
    again = patronus(*done.train[:-4], "--out", copy, "--cache", done.home / "cache")
    assert again.status == 0
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*.pt")} == before
    assert "perturbation" not in again.err


def test_a_network_that_was_lost_comes_back_bit_by_bit(
    done: SimpleNamespace, copy: Path, patronus: Callable[..., Any]
) -> None:
    (copy / "network.pt").unlink()
    again = patronus(*done.train[:-4], "--out", copy, "--cache", done.home / "cache")
    assert again.status == 0
    first, second = (torch.load(folder / "network.pt", weights_only=True) for folder in (done.out, copy))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_other_options_do_not_go_into_the_same_folder(done: SimpleNamespace, patronus: Callable[..., Any]) -> None:
    before = (done.out / "recipe.json").read_bytes()
    result = patronus(*done.train, "--seed", 1)
    assert result.status == 1
    assert result.sentence == (
        f"{done.out} holds a training with other options or data; name another folder with --out, or remove it."
    )
    assert (done.out / "recipe.json").read_bytes() == before


def test_a_profile_is_replaced_only_if_asked(done: SimpleNamespace, patronus: Callable[..., Any]) -> None:
    home = done.home / "profiles"
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    result = patronus("lab", "export", "--to", home, *done.kept)
    assert result.status == 1
    assert result.sentence == "A protection profile 'own' is there already; name another, or replace it."
    assert patronus("lab", "export", "--to", home, "--replace", *done.kept).status == 0
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_a_budget_that_is_found_anew_leaves_no_figures_of_the_old_one(
    done: SimpleNamespace, copy: Path, patronus: Callable[..., Any]
) -> None:
    earlier = json.loads((copy / "calibration.json").read_text()) | {"phi_max": 3.0}
    (copy / "calibration.json").write_text(json.dumps(earlier))
    assert patronus("lab", "calibrate", "--out", copy, "--cache", done.home / "cache").status == 0
    assert (copy / "calibration.json").read_bytes() == (done.out / "calibration.json").read_bytes()
    assert not (copy / "evaluation.json").exists()
    profiles = copy.parent / "profiles"
    assert patronus("lab", "export", "--to", profiles, "--out", copy, "--cache", done.home / "cache").status == 0
    document = load_profile("own", own=profiles).document
    assert document.figures == {}
    assert document.threshold is not None
    # Measured here as evaluation measures it.
    known = load_profile("own", own=done.home / "profiles").document
    assert known.threshold == document.threshold


# Nothing to publish


@pytest.mark.parametrize(
    ("rises", "advice"),
    [
        ({"fnmr_rise": 1e-4}, "people calibrated it, and it takes about 29958 to show that FNMR rises by at most 0.0%"),
        ({"fmr_rise": -1.0}, "train again in another folder, longer or with a smaller --phi-max"),
    ],
)
def test_a_network_that_may_not_turn_at_all_is_not_published(
    rises: dict[str, float], advice: str, done: SimpleNamespace, copy: Path, patronus: Callable[..., Any]
) -> None:
    recipe = json.loads((copy / "recipe.json").read_text())
    (copy / "recipe.json").write_text(json.dumps(recipe | rises))
    kept = ("--out", copy, "--cache", done.home / "cache")
    calibrated = patronus("lab", "calibrate", *kept)
    assert calibrated.status == 0
    assert "statistical budget  0.0 degrees" in calibrated.out
    assert "no margin (phi = 0) 100.00% of faces" in calibrated.out
    result = patronus("lab", "export", "--to", copy.parent / "profiles", *kept)
    assert result.status == 1
    assert "allowed no perturbation at all, so a profile of it would protect nothing; " in result.sentence
    assert advice in result.sentence
    assert not (copy.parent / "profiles").exists()


# Damage, and what is missing


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("network.pt", "calibrate"),
        ("network.pt", "export"),
        ("fit.npz", "calibrate"),
        ("attackers/transposed.pt", "train"),
        ("calibration.json", "evaluate"),
        ("calibration.json", "export"),
    ],
)
def test_a_damaged_part_is_told_by_its_name_and_nothing_is_touched(
    name: str, command: str, done: SimpleNamespace, copy: Path, patronus: Callable[..., Any]
) -> None:
    (copy / name).write_bytes((copy / name).read_bytes()[:-200])
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    asked = done.train[:-4] if command == "train" else ("lab", command)
    more = ("--to", copy.parent / "profiles") if command == "export" else ()
    result = patronus(*asked, *more, "--out", copy, "--cache", done.home / "cache")
    assert result.status == 1
    assert result.sentence == (
        f"{copy / name} is damaged, or was written by another version; remove it, and it is made again."
    )
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    assert not (copy.parent / "profiles").exists()


def test_before_calibration_nothing_is_measured_or_published(
    done: SimpleNamespace, copy: Path, patronus: Callable[..., Any]
) -> None:
    (copy / "calibration.json").unlink()
    (copy / "evaluation.json").unlink()
    kept = ("--out", copy, "--cache", done.home / "cache")
    for command in ("evaluate", "export"):
        more = ("--to", copy.parent / "profiles") if command == "export" else ()
        result = patronus("lab", command, *more, *kept)
        assert result.status == 1
        assert result.sentence == f"{copy} is not calibrated; run patronus lab calibrate --out {copy}."
    assert not (copy / "evaluation.json").exists()
    assert not (copy.parent / "profiles").exists()


@pytest.mark.parametrize("judge", ["sface_2021dec", "judge.onnx", "judge.onnx=", "judge.onnx=high", "=0.3", "x=1.5"])
def test_a_judge_without_its_threshold_is_refused(
    judge: str, done: SimpleNamespace, patronus: Callable[..., Any]
) -> None:
    before = (done.out / "evaluation.json").read_bytes()
    result = patronus("lab", "evaluate", "--judge", judge, *done.kept)
    assert result.status == 1
    assert result.sentence == f"A judge is given as NAME_OR_PATH=TAU, with TAU a cosine; this is {judge!r}."
    assert (done.out / "evaluation.json").read_bytes() == before


def test_a_judge_that_is_not_there_is_refused(done: SimpleNamespace, patronus: Callable[..., Any]) -> None:
    result = patronus("lab", "evaluate", "--judge", f"{done.home / 'none.onnx'}=0.3", *done.kept)
    assert result.status == 1
    assert "none.onnx cannot be read" in result.sentence


def test_a_judge_that_accepts_everybody_is_refused(
    done: SimpleNamespace, tmp_path: Path, write_embedder: Callable[..., Path], patronus: Callable[..., Any]
) -> None:
    """As one whose description is missing, so that it is fed other values than it takes."""
    judge = write_embedder(tmp_path / "blind.onnx", seed=2)
    result = patronus("lab", "evaluate", "--judge", f"{judge}=-0.99", *done.kept)
    assert result.status == 1
    assert result.sentence.startswith("blind accepts 100.0% of strangers and 100.0% of genuine pairs at -0.99, so it")


def test_two_judges_of_one_name_are_refused(
    done: SimpleNamespace, tmp_path: Path, write_embedder: Callable[..., Path], patronus: Callable[..., Any]
) -> None:
    target = write_embedder(tmp_path / "target.onnx", seed=2)
    result = patronus("lab", "evaluate", "--judge", f"{target}=0.3", *done.kept)
    assert result.status == 1
    assert result.sentence == "target judges already; name each judge once, by a name of its own."


# Figures


def test_figures_are_drawn_of_an_evaluated_training(
    done: SimpleNamespace, patronus: Callable[..., Any], tmp_path: Path
) -> None:
    portraits = tmp_path / "portraits"
    portraits.mkdir()
    for path in (Path(__file__).parents[1] / "pictures").glob("*/portrait.*"):
        shutil.copy(path, portraits / f"{path.parent.name}{path.suffix}")
    result = patronus("lab", "figures", "--portraits", portraits, "--to", tmp_path / "figures", *done.kept)
    assert result.status == 0, result.sentence
    drawn = sorted((tmp_path / "figures").iterdir())
    assert [path.name for path in drawn] == ["own-angles.png", "own-breach.png", "own-curve.png"]
    for path in drawn:
        with Image.open(path) as figure:
            assert figure.size[0] > 300
            assert np.asarray(figure.convert("L")).std() > 5
        assert str(path) in result.out


def test_figures_need_an_evaluation(
    done: SimpleNamespace, copy: Path, patronus: Callable[..., Any], tmp_path: Path
) -> None:
    (copy / "evaluation.json").unlink()
    kept = ("--out", copy, "--cache", done.home / "cache")
    result = patronus("lab", "figures", "--portraits", tmp_path, "--to", tmp_path / "figures", *kept)
    assert result.status == 1
    assert "is not evaluated" in result.sentence
    assert not (tmp_path / "figures").exists()
