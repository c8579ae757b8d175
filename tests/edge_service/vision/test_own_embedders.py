"""An operator's own embedder is tried on sample faces before it is accepted, and served only as it was accepted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner, Result

from edge_service.models.cli import app
from edge_service.models.own_folder import embedders_dir, own_embedders
from edge_service.models.store import locate
from edge_service.settings import EdgeSettings, InferenceSettings
from edge_service.vision.embed import SFACE
from edge_service.vision.embedder_check import sample_faces
from edge_service.vision.embedder_files import MAX_BYTES, EmbedderDescription
from edge_service.vision.own_embedders import add_embedder, open_embedder
from lab.data.embedders import open_encoder
from shared.errors import SetupError
from tests.edge_service.own_embedder import DIM, fitted_weights, own_network, write_own

DLIB_TEMPLATE = "dlib-face-chip-150-0.25"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "embedders"


def refusal(source: Path, folder: Path, name: str | None = None) -> str:
    """The one sentence with which a file is refused; nothing is left behind."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(SetupError) as refused:
        add_embedder(source, folder, name)
    assert sorted(folder.rglob("*")) == before
    sentence = refused.value.detail
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


def served(name: str, folder: Path, faces: np.ndarray) -> np.ndarray:
    return open_embedder(name, folder, InferenceSettings(threads=1))[0].embed(faces).unit


def models(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.mark.usefixtures("models_folder")
def test_the_command_adds_an_embedder_and_lists_it_with_its_digest(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATRONUS_EDGE__EMBEDDERS", str(folder))
    added = models("add", write_own(tmp_path))
    assert (added.exit_code, added.stderr) == (0, "")
    [own] = own_embedders(folder)
    assert f"mine: ready, SHA-256 {own.found}." in added.stdout
    assert "PATRONUS_EDGE__EMBEDDER=mine" in added.stdout

    listed = models("list")
    assert listed.exit_code == 0
    last = listed.stdout.splitlines()[-1].split()
    assert last == ["ready", "face-embedder", "mine.onnx", own.found[:12], "your", "own"]
    own.path.write_bytes(own.path.read_bytes() + b"\0")
    changed = models("list")
    assert changed.exit_code == 1
    assert str(changed.exception) == "Not as they were added: mine.onnx; remove their folders and add them again."


def test_the_folder_is_in_the_home_unless_a_setting_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATRONUS_HOME", str(tmp_path))
    assert EdgeSettings().embedders == embedders_dir() == tmp_path / "embedders"
    monkeypatch.setenv("PATRONUS_EDGE__EMBEDDERS", "/srv/embedders")
    assert EdgeSettings().embedders == Path("/srv/embedders")


def test_the_edge_gives_what_the_lab_gives(tmp_path: Path, folder: Path) -> None:
    said = {"channels": "BGR", "side": 70, "mean": [1.0, 2.0, 3.0], "scale": [0.01, 0.02, 0.01]}
    source = write_own(tmp_path, said=said)
    add_embedder(source, folder)
    faces, _ = sample_faces(EmbedderDescription().template)
    rows = open_encoder(source).embed(faces)
    expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert np.abs(served("mine", folder, faces) - expected).max() < 1e-5
    assert np.array_equal(open_encoder(folder / "mine" / "mine.onnx").embed(faces), rows)


def test_faces_are_aligned_as_the_description_says(tmp_path: Path, folder: Path) -> None:
    add_embedder(write_own(tmp_path, said={"alignment": DLIB_TEMPLATE}), folder)
    embedder, pin = open_embedder("mine", folder, InferenceSettings())
    assert embedder.spec.alignment.side == 150
    assert pin.preprocessing.startswith(f"{DLIB_TEMPLATE}/150/rgb/")


@pytest.mark.parametrize("batch", [1, "batch"])
def test_a_batch_of_one_and_a_free_one_give_the_same(batch: str | int, tmp_path: Path, folder: Path) -> None:
    add_embedder(write_own(tmp_path, batch=batch), folder)
    add_embedder(write_own(tmp_path / "free", name="free"), folder)
    faces, _ = sample_faces(EmbedderDescription().template)
    assert np.abs(served("mine", folder, faces) - served("free", folder, faces)).max() < 1e-5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"channels": "BGR"}),
        ({}, {"mean": 127.5}),
        ({"mean": 127.5}, {"mean": 127.5, "scale": 0.5}),
        ({}, {"side": 128}),
        ({"mean": [1, 2, 3]}, {"mean": [3, 2, 1]}),
        ({}, {"alignment": DLIB_TEMPLATE}),
    ],
)
def test_a_contract_tells_descriptions_apart(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert EmbedderDescription(**one).pinned != EmbedderDescription(**other).pinned


def test_a_contract_names_the_usual_input_as_that_of_the_embedders_that_come_with_patronus() -> None:
    assert EmbedderDescription().pinned == SFACE.preprocessing == "arcface-5-points-112/rgb/0-255"
    longest = EmbedderDescription(alignment=DLIB_TEMPLATE, side=1024, mean=(1.5, 2, 3), scale=1 / 3)
    assert len(longest.pinned) <= 64
    assert EmbedderDescription(mean=127.5).pinned == EmbedderDescription(mean=(127.5,) * 3).pinned


def _node(kind: str, *names: str, **attributes: Any) -> list[onnx.NodeProto]:
    return [helper.make_node(kind, list(names[:-1]), [names[-1]], **attributes)]


SAID = EmbedderDescription(dim=DIM, mean=127.5, scale=1 / 127.5)
# What is wrong with a network, and what the sentence says.
SPOILED: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "NaN": (lambda: {"after": _node("Mul", "rows", "c", "y"), "constants": {"c": np.float32(np.nan)}}, "not finite"),
    "infinite": (
        lambda: {"after": _node("Mul", "rows", "c", "y"), "constants": {"c": np.float32(np.inf)}},
        "not finite",
    ),
    "zero": (lambda: {"weights": fitted_weights(SAID) * 0}, "gives a zero vector for a face"),
    "constant": (
        lambda: {
            "weights": fitted_weights(SAID) * 0,
            "after": _node("Add", "rows", "c", "y"),
            "constants": {"c": np.ones(DIM, np.float32)},
        },
        "gives the same embedding for every face",
    ),
    "random": (
        lambda: {"after": [*_node("RandomNormalLike", "rows", "r"), *_node("Add", "rows", "r", "y")]},
        "other embeddings for the same face when it runs again",
    ),
    "normalized over the batch": (
        lambda: {
            "after": [
                *_node("ReduceMean", "rows", "m", axes=[0], keepdims=1),
                *_node("Mul", "m", "c", "half"),
                *_node("Sub", "rows", "half", "y"),
            ],
            "constants": {"c": np.float32(0.5)},
        },
        "other embeddings for the same face alone and among others",
    ),
    "people mixed": (lambda: {"weights": fitted_weights(SAID, mixed=True)}, "Pictures of two people are as near"),
    "another length": (
        lambda: {"after": _node("Concat", "rows", "rows", "y", axis=1)},
        rf"gives an array of \(5, {2 * DIM}\) for 5 faces where \(5, {DIM}\) is described",
    ),
    "one row for all": (
        lambda: {"after": _node("Reshape", "rows", "c", "y"), "constants": {"c": np.array([1, -1])}},
        rf"gives an array of \(1, {5 * DIM}\) for 5 faces",
    ),
    "a batch baked in": (
        lambda: {"after": _node("Reshape", "rows", "c", "y"), "constants": {"c": np.array([1, DIM])}},
        "does not run on 5 faces .* export it with a free batch, or with a batch of 1",
    ),
    "batches of four": (lambda: {"batch": 4}, "takes exactly 4 faces at once"),
    "two inputs": (
        lambda: {"after": _node("Mul", "rows", "more", "y"), "extra_inputs": ("more",)},
        "has 2 inputs and 1 outputs where an embedder has one input and one output; export the embedder alone",
    ),
    "two outputs": (
        lambda: {
            "after": [*_node("Identity", "rows", "y"), *_node("Identity", "rows", "z")],
            "extra_outputs": ("z",),
        },
        "has 1 inputs and 2 outputs",
    ),
    "float16 input": (
        lambda: {"kind": TensorProto.FLOAT16, "before": _node("Cast", "face", "x", to=TensorProto.FLOAT)},
        r"takes tensor\(float16\) and gives tensor\(float\); export it with float32 input and output",
    ),
    "channels last": (
        lambda: {"shape": ["n", 112, 112, 3], "before": _node("Transpose", "face", "x", perm=[0, 3, 1, 2])},
        r"does not take an input of \(any, 3, 112, 112\), as described, but of \(any, 112, 112, 3\)",
    ),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_network_that_cannot_be_served_is_refused_in_one_sentence(what: str, tmp_path: Path, folder: Path) -> None:
    graph, expected = SPOILED[what]
    with pytest.raises(SetupError, match=expected):
        add_embedder(write_own(tmp_path, **graph()), folder)
    refusal(tmp_path / "mine.onnx", folder)


DESCRIPTIONS = {
    '{"dim": 512': "not valid at the whole",
    "[]": "not valid at the whole",
    "{}": "does not say dim",
    '{"dim": "x"}': "not valid at dim",
    '{"dim": 5000}': "not valid at dim",
    '{"dim": 8}': "seals 16 to 4096 dimensions",
    '{"dim": 32, "scale": 0}': "not valid at scale .* is not 0",
    '{"dim": 32, "mean": NaN}': "not valid at mean",
    '{"dim": 32, "mean": [1, 2]}': "not valid at mean",
    '{"dim": 32, "channels": "rgb"}': "not valid at channels",
    '{"dim": 32, "colour": "RGB"}': "not valid at colour .* it may have dim, alignment, side, channels, mean, scale",
    '{"dim": 32, "alignment": "mtcnn"}': "not valid at alignment .* known are arcface-5-points-112, dlib-face-chip",
    " " * 70_000: "has 70000 bytes, over the limit",
}


@pytest.mark.parametrize("said", DESCRIPTIONS)
def test_a_description_that_is_not_valid_is_refused(said: str, tmp_path: Path, folder: Path) -> None:
    source = write_own(tmp_path)
    source.with_suffix(".embedder.json").write_text(said)
    with pytest.raises(SetupError, match=DESCRIPTIONS[said]):
        add_embedder(source, folder)


def test_a_description_that_is_missing_is_refused_with_an_example(tmp_path: Path, folder: Path) -> None:
    source = write_own(tmp_path)
    source.with_suffix(".embedder.json").unlink()
    sentence = refusal(source, folder)
    assert "mine.embedder.json cannot be read (No such file or directory); write one, such as {" in sentence
    example = EmbedderDescription.model_validate_json(sentence[sentence.index("{") : -1])
    assert example.dim == 512


def test_files_that_are_no_embedder_are_refused(tmp_path: Path, folder: Path) -> None:
    source = write_own(tmp_path)
    source.write_bytes(b"not a network")
    assert "ONNX Runtime refuses the model mine.onnx" in refusal(source, folder)
    source.write_bytes(b"")
    assert "ONNX Runtime refuses the model mine.onnx" in refusal(source, folder)
    with source.open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # a hole: it takes no room
    assert f"has {MAX_BYTES + 1} bytes, over the limit" in refusal(source, folder)
    source.unlink()
    assert "cannot be read (No such file or directory)" in refusal(source, folder)
    source.mkdir()
    assert "is not a file" in refusal(source, folder)
    source.rmdir()
    os.mkfifo(source)
    assert "is not a file" in refusal(source, folder)


@pytest.mark.parametrize("length", [b"\x08", b"\x88\x00", b"\x88\x80\x00"])  # 8, as protobuf may be written
def test_weights_in_another_file_are_refused_wherever_the_command_runs(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, length: bytes
) -> None:
    source = write_own(tmp_path)
    onnx.save(own_network(SAID), source, save_as_external_data=True, location="weights.bin", size_threshold=0)
    source.write_bytes(source.read_bytes().replace(b"\x0a\x08location", b"\x0a" + length + b"location"))
    monkeypatch.chdir(tmp_path)  # where ONNX Runtime finds them
    assert "mine.onnx keeps weights in another file" in refusal(source, folder)
    with pytest.raises(SetupError, match="keeps weights in another file"):
        open_encoder(source)


NAMES = ["", ".", "..", "a/b", "../mine", "a\\b", "-x", ".hidden", "x" * 65, "né", "a b", "a\n"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one_step_of_a_path(name: str, tmp_path: Path, folder: Path) -> None:
    assert "An embedder's name is 1 to 64 letters" in refusal(write_own(tmp_path), folder, name)
    with pytest.raises(SetupError, match="There is no embedder"):
        open_embedder(name, folder, InferenceSettings())


@pytest.mark.parametrize("name", ["sface_2021dec", "dlib_resnet29", "any"])
def test_the_names_that_patronus_uses_are_taken(name: str, tmp_path: Path, folder: Path) -> None:
    assert refusal(write_own(tmp_path), folder, name).startswith(f"There is another embedder {name};")


def test_a_name_is_given_once_and_the_same_files_may_be_added_again(tmp_path: Path, folder: Path) -> None:
    source = write_own(tmp_path)
    first, _ = add_embedder(source, folder, "door")
    assert first.name == "door"
    again, _ = add_embedder(source, folder, "door")
    assert again == first
    write_own(tmp_path, said={"mean": 120.0})
    assert refusal(source, folder, "door") == "There is another embedder door; give yours another name with --name."
    assert [each.name for each in own_embedders(folder)] == ["door"]


@pytest.mark.parametrize("file", ["mine.onnx", "mine.embedder.json", "added.json"])
def test_a_file_that_changed_after_it_was_added_stops_the_start(file: str, tmp_path: Path, folder: Path) -> None:
    add_embedder(write_own(tmp_path), folder)
    changed = folder / "mine" / file
    content = changed.read_text(errors="surrogateescape")
    if file == "mine.onnx":
        shutil.copy(write_own(tmp_path / "other", weights=fitted_weights(SAID) * np.float32(2)), changed)
    elif file == "mine.embedder.json":
        changed.write_text(json.dumps(json.loads(content) | {"channels": "BGR"}))
    else:
        changed.write_text(content.replace("a", "b"))
    with pytest.raises(SetupError, match="The embedder mine or its description was changed after it was added"):
        open_embedder("mine", folder, InferenceSettings())
    assert [each.state for each in own_embedders(folder)] == ["damaged"]
    changed.unlink()
    with pytest.raises(SetupError, match=r"cannot be read|There is no embedder mine"):
        open_embedder("mine", folder, InferenceSettings())


def test_links_are_followed_to_read_and_never_to_write(tmp_path: Path, folder: Path) -> None:
    source = write_own(tmp_path / "real")
    for path in (source, source.with_suffix(".embedder.json")):
        (tmp_path / path.name).symlink_to(path)
    add_embedder(tmp_path / source.name, folder)
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    source.write_bytes(b"changed")
    assert own_embedders(folder)[0].state == "ready"

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "linked").symlink_to(elsewhere)
    source = write_own(tmp_path / "real")
    assert "There is another embedder linked" in refusal(source, folder, "linked")
    assert list(elsewhere.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="set PATRONUS_EDGE__EMBEDDERS to another folder"):
        add_embedder(write_own(tmp_path), tmp_path / "file" / "embedders")


def test_an_unknown_embedder_is_answered_with_those_that_were_added(tmp_path: Path, folder: Path) -> None:
    add_embedder(write_own(tmp_path), folder)
    with pytest.raises(SetupError, match="one of: sface_2021dec, dlib_resnet29, mine; or add your own with patronus"):
        open_embedder("other", folder, InferenceSettings())


@pytest.mark.usefixtures("models_folder")
def test_fetch_leaves_out_an_embedder_that_the_environment_names_and_the_manifest_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATRONUS_EDGE__EMBEDDER", "mine")
    fetched = models("fetch")
    assert fetched.exit_code == 0
    assert fetched.stdout.startswith("mine: not fetched; an edge runs it once it was added with")
    assert "sface_2021dec.onnx: ready" in fetched.stdout
    named = models("fetch", "--embedder", "mine")
    assert (named.exit_code, "no face-embedder of the name mine" in str(named.exception)) == (1, True)


_SLOW = pytest.mark.slow(reason="40 embeddings by a real network; the other lane does it for its channels")
SFACE_WRONG = [
    ({"channels": "BGR"}, "apart clearly better with channels RGB than as described"),
    pytest.param({"mean": 127.5, "scale": 0.0078125}, "with mean 0.0, scale 1.0 they are not", marks=_SLOW),
    pytest.param(
        {"alignment": DLIB_TEMPLATE, "side": 112},
        "apart clearly better with the alignment arcface-5-points-112",
        marks=_SLOW,
    ),
]


@pytest.mark.parametrize(("said", "expected"), SFACE_WRONG)
def test_a_real_embedder_with_another_ones_description_is_refused(
    said: dict[str, Any], expected: str, models_folder: Path, tmp_path: Path, folder: Path
) -> None:
    source = tmp_path / "mine.onnx"
    source.symlink_to(locate("face-embedder", models_folder).path.resolve())
    source.with_suffix(".embedder.json").write_text(json.dumps({"dim": 128} | said))
    assert expected in refusal(source, folder)


def test_a_real_embedder_under_a_name_of_ones_own_gives_the_same_embeddings(
    models_folder: Path, tmp_path: Path, folder: Path
) -> None:
    source = tmp_path / "mine.onnx"
    source.symlink_to(locate("face-embedder", models_folder).run_path.resolve())
    source.with_suffix(".embedder.json").write_text('{"dim": 128}')
    add_embedder(source, folder)
    faces, _ = sample_faces(SFACE.alignment)
    expected = open_embedder(SFACE.name, folder, InferenceSettings(threads=1))[0].embed(faces).unit
    assert np.array_equal(served("mine", folder, faces), expected)
