"""What cannot be trained is told in one sentence, and nothing is begun."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.defence.decoders import InversionOptions
from lab.defence.perturbation import PerturbationOptions
from lab.defence.recipe import Recipe, read_recipe
from shared.errors import Conflict, SetupError


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces that one test has read are not read again by the next."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def train(
    tmp_path: Path,
    patronus: Callable[..., Any],
    write_embedder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    cache: Path,
) -> Callable[..., Any]:
    """``patronus lab train`` with an embedder and a threshold, where none are given."""
    monkeypatch.chdir(tmp_path)
    own = write_embedder(tmp_path / "mine.onnx")

    def call(*arguments: object, embedder: object = own, tau: object = 0.85, out: str = "run") -> Any:
        more = () if tau is None else ("--tau", tau)
        return patronus(
            "lab", "train", "--embedder", embedder, *more, "--out", out, "--cache", cache, "--quick", *arguments
        )

    return call


def _sentence(result: Any, status: int = 1) -> str:
    """The one sentence that was told."""
    assert result.status == status, result.err
    assert not result.out
    assert "Traceback" not in result.err
    sentence: str = result.sentence
    assert sentence.endswith(".")
    return sentence


def _nothing_begun(folder: Path) -> None:
    assert not (folder / "run").exists()
    assert not [path for path in folder.rglob(".*") if path.is_file()]


WITHOUT_TORCH = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in {"torch", "skimage"} else found(name, *more)
from shared.command import main
main()
"""


def test_help_works_without_torch_and_running_names_what_installs_it() -> None:
    def ended(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WITHOUT_TORCH, "lab", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    for words in (["--help"], ["attack", "--help"]):
        assert (ended(*words).returncode, ended(*words).stderr) == (0, "")
    refused = ended("calibrate")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "The lab needs torch and skimage, which are not installed; run: make lab\n"


WHAT_IS_LOADED = """
import sys
from shared.command import main
try:
    main()
finally:
    print("torch" in sys.modules)
"""


@pytest.mark.parametrize("option", ["--people", "--images"])
def test_a_missing_folder_of_an_attack_is_told_before_anything_slow_is_loaded(option: str, tmp_path: Path) -> None:
    there = [] if option == "--people" else ["--people", str(tmp_path)]
    command = [sys.executable, "-c", WHAT_IS_LOADED, "lab", "attack", *there, option, "nowhere", "--out", "out"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=Path.cwd())
    assert (ended.returncode, ended.stdout) == (1, "False\n")
    assert ended.stderr == "nowhere is missing; name a folder of pictures or a tar of aligned faces.\n"


# Too few


def test_too_few_people_are_told_with_how_many_are_needed(
    train: Callable[..., Any], faces_tar: Callable[..., Path], tmp_path: Path
) -> None:
    # Of 20 people about half fit, and the erase step needs as many of them as the embedder has dimensions.
    few = faces_tar(tmp_path / "few.tar", 20)
    assert "To fit the erase step, 16 people with two pictures or more are needed, and " in (
        result := _sentence(train("--images", few))
    )
    assert result.endswith("about 32 such people in all will do.")
    _nothing_begun(tmp_path)


def test_too_few_to_calibrate_are_told(
    train: Callable[..., Any], faces_tar: Callable[..., Path], tmp_path: Path
) -> None:
    some = faces_tar(tmp_path / "some.tar", 60)
    result = _sentence(train("--images", some))
    assert result.startswith("To calibrate, 20 people with two pictures or more are needed, and ")
    assert result.endswith("about 100 such people in all will do.")
    _nothing_begun(tmp_path)


def test_one_picture_a_person_is_not_enough(
    train: Callable[..., Any], faces_tar: Callable[..., Path], tmp_path: Path
) -> None:
    result = _sentence(train("--images", faces_tar(tmp_path / "single.tar", 60, each=1)))
    assert "with two pictures or more are needed, and " in result
    assert "has 0 in that part" in result
    _nothing_begun(tmp_path)


def test_too_few_pictures_for_attackers_are_told(
    train: Callable[..., Any], faces_tar: Callable[..., Path], tmp_path: Path
) -> None:
    enough = faces_tar(tmp_path / "people.tar", 150)
    result = _sentence(train("--images", enough))
    assert result.startswith("Attackers need 1000 pictures to learn on, half of the people's; there are ")
    few = faces_tar(tmp_path / "few.tar", 10, seed=1)
    result = _sentence(train("--images", few, "--people", enough))
    assert "few.tar gives 20 faces where at least 1000 are needed" in result
    _nothing_begun(tmp_path)


def test_the_same_source_under_another_name_is_still_the_same(
    train: Callable[..., Any], faces_tar: Callable[..., Path], tmp_path: Path
) -> None:
    """Else attackers would learn on the people who test."""
    (tmp_path / "link.tar").symlink_to(faces_tar(tmp_path / "people.tar", 150))
    result = _sentence(train("--images", "link.tar", "--people", tmp_path / "people.tar"))
    assert result.startswith("Attackers need 1000 pictures to learn on, half of the people's; there are ")


def _flat(folder: Path, faces: Path) -> Path:
    """The pictures of a tar, all in one folder."""
    import tarfile

    folder.mkdir()
    with tarfile.open(faces) as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            (folder / member.name.replace("/", "-")).write_bytes(file.read())
    return folder


def test_a_folder_in_which_nobody_is_known_is_told(
    train: Callable[..., Any], faces_tar: Callable[..., Path], tmp_path: Path
) -> None:
    flat = _flat(tmp_path / "flat", faces_tar(tmp_path / "few.tar", 3))
    result = _sentence(train("--images", flat))
    assert "put the pictures of each person into a sub-folder of its own, of 100 people or more" in result
    _nothing_begun(tmp_path)


def test_a_folder_without_faces_is_told(train: Callable[..., Any], tmp_path: Path, models_folder: Path) -> None:
    (tmp_path / "notes").mkdir()
    for given in ("notes", "notes"):
        result = _sentence(train("--images", given))
        assert result.startswith("notes gives 0 faces where at least 1 are needed; ")
        (tmp_path / "notes" / "read.me").write_text("no picture")
    _nothing_begun(tmp_path)


# Missing, unknown, out of range


def test_missing_sources_are_told(train: Callable[..., Any], faces_tar: Callable[..., Path], tmp_path: Path) -> None:
    result = _sentence(train("--images", "none.tar"))
    assert result == "none.tar is missing; name a folder of pictures or a tar of aligned faces."
    few = faces_tar(tmp_path / "few.tar", 3)
    assert _sentence(train("--images", few, "--people", "none")).startswith("none is missing; ")
    (tmp_path / "text.tar").write_text("not a tar")
    assert _sentence(train("--images", "text.tar")).startswith("text.tar is not a tar, or is cut off; ")
    _nothing_begun(tmp_path)


def test_ones_own_embedder_needs_a_threshold(train: Callable[..., Any], tmp_path: Path) -> None:
    result = _sentence(train("--images", "none.tar", tau=None))
    assert result == (
        f"The threshold of {tmp_path / 'mine.onnx'} is not known; give your system's cosine threshold with --tau."
    )
    _nothing_begun(tmp_path)


def test_an_embedder_that_is_none_is_told(train: Callable[..., Any], tmp_path: Path) -> None:
    assert "facenet is no embedder; name one of " in _sentence(train("--images", "x", embedder="facenet"))
    assert _sentence(train("--images", "x", embedder="none.onnx")).startswith("none.onnx cannot be read ")
    (tmp_path / "text.onnx").write_text("not a model")
    assert "text.onnx" in _sentence(train("--images", "x", embedder="text.onnx"))
    _nothing_begun(tmp_path)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--tau", 1.5),
        ("--tau", 0),
        ("--tau", "high"),
        ("--phi-max", 0),
        ("--phi-max", 100),
        ("--profile", "My profile"),
        ("--profile", "default"),
        ("--rounds", 6),
        ("--seed", -1),
        ("--colour", "red"),
    ],
)
def test_wrong_usage_names_the_option(option: str, value: object, train: Callable[..., Any], tmp_path: Path) -> None:
    given = {"tau": value} if option == "--tau" else {}
    more = () if option == "--tau" else (option, value)
    result = train("--images", "none.tar", *more, **given)
    assert result.status == 2
    assert option in result.err
    assert "Traceback" not in result.err
    _nothing_begun(tmp_path)


def test_images_must_be_named(train: Callable[..., Any], patronus: Callable[..., Any]) -> None:
    result = train()
    assert result.status == 2
    assert "--images" in result.err
    assert patronus("lab", "evaluate", "--most", 5).status == 2


# Folders of trainings


def _recipe(**changes: object) -> Recipe:
    asked = {"name": "own", "summary": "", "embedder": "mine.onnx", "tau": 0.85, "images": "x.tar", "people": "x.tar"}
    return Recipe.model_validate(asked | changes)


@pytest.mark.parametrize("command", ["calibrate", "evaluate", "export"])
def test_before_training_nothing_can_be_done(
    command: str, train: Callable[..., Any], patronus: Callable[..., Any], tmp_path: Path
) -> None:
    for folder in ("run", "file"):
        (tmp_path / "file").touch()
        result = patronus("lab", command, "--out", folder)
        assert _sentence(result) == (f"{folder} holds no training; start one with patronus lab train --out {folder}.")
    _nothing_begun(tmp_path)
    _recipe().write(tmp_path / "run")
    result = _sentence(patronus("lab", command, "--out", "run"))
    if command == "export":
        assert result == "run is not calibrated; run patronus lab calibrate --out run."
    else:
        assert result == "run holds no trained network yet; run patronus lab train --out run."
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["recipe.json"]
    assert not (tmp_path / "profiles").exists()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"version": 2}', "\x00\xff"])
@pytest.mark.parametrize("command", ["train", "calibrate", "evaluate", "export"])
def test_a_damaged_recipe_is_told_and_left_alone(
    command: str, damage: str, train: Callable[..., Any], patronus: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.json").write_text(damage, encoding="latin-1")
    before = (tmp_path / "run/recipe.json").read_bytes()
    result = train("--images", "none.tar") if command == "train" else patronus("lab", command, "--out", "run")
    assert _sentence(result) == "run/recipe.json is damaged, or was written by another version."
    assert (tmp_path / "run/recipe.json").read_bytes() == before
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["recipe.json"]


def test_another_training_in_the_folder_is_told_before_any_face_is_read(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    _recipe().write(tmp_path / "run")
    before = (tmp_path / "run/recipe.json").read_bytes()
    result = _sentence(train("--images", "none.tar"))
    assert result == "run holds a training with other options or data; name another folder with --out, or remove it."
    assert (tmp_path / "run/recipe.json").read_bytes() == before


def test_a_file_is_no_folder_for_a_training(train: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = _sentence(train("--images", "none.tar", out="notes.txt"))
    assert result == "notes.txt is not a folder; name another one with --out."
    with pytest.raises(SetupError, match=r"cannot be a folder \(Not a directory\); name another one with --out"):
        _recipe().write(tmp_path / "notes.txt" / "run")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_recipe_comes_back_as_it_was(tmp_path: Path) -> None:
    recipe = _recipe(
        attackers=InversionOptions(epochs=0.3, seed=4),
        perturbation=PerturbationOptions(steps=7, sides="probe"),
        families=("upsampling",),
        phi_max=12.5,
    )
    recipe.write(tmp_path / "run")
    recipe.write(tmp_path / "run")
    assert read_recipe(tmp_path / "run") == recipe
    with pytest.raises(Conflict):
        _recipe().write(tmp_path / "run")


@pytest.mark.parametrize(
    "changes", [{"tau": 0}, {"tau": 1}, {"tau": "nan"}, {"phi_max": 0}, {"name": "../x"}, {"colour": "red"}]
)
def test_a_recipe_that_makes_no_sense_is_refused(changes: dict[str, object], tmp_path: Path) -> None:
    _recipe().write(tmp_path)
    result = json.loads((tmp_path / "recipe.json").read_text()) | changes
    (tmp_path / "recipe.json").write_text(json.dumps(result))
    with pytest.raises(SetupError, match="is damaged, or was written by another version"):
        read_recipe(tmp_path)
