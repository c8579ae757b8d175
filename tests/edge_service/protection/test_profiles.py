"""A profile that does not match its digests or its description stops the start."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from edge_service.protection.profiles.document import ProfileDocument
from edge_service.protection.profiles.files import available, load_profile, write_profile
from shared.contract import EmbedderPin
from shared.errors import Conflict, SetupError

SFACE = EmbedderPin(name="sface", sha256="0" * 64, preprocessing="none")
GOOD: dict[str, Any] = {
    "version": 1,
    "name": "mine",
    "summary": "for a test",
    "embedder": "any",
    "steps": [{"kind": "seal"}],
}


def write(folder: Path, document: Any) -> Path:
    (folder / "mine").mkdir(exist_ok=True)
    text = document if isinstance(document, str) else json.dumps(document)
    (folder / "mine" / "profile.json").write_text(text)
    return folder


def test_every_profile_that_comes_along_loads() -> None:
    assert "seal" in available()
    for name in available():
        profile = load_profile(name)
        assert profile.pin.name == name
        assert profile.document.summary


def test_an_unknown_profile_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"no protection profile 'nothing'; there are: .*seal"):
        load_profile("nothing")


@pytest.mark.parametrize("name", ["../seal", "/etc", "", "."])
def test_a_name_does_not_lead_out_of_the_folder(name: str) -> None:
    with pytest.raises(SetupError):
        load_profile(name)


@pytest.mark.parametrize(
    "document",
    [
        "",
        "{",
        "[]",
        GOOD | {"version": "1"},
        GOOD | {"steps": []},
        GOOD | {"steps": [{"kind": "blur"}]},
        GOOD | {"steps": [{"kind": "seal", "strength": 0}]},
        GOOD | {"more": 1},
        {name: value for name, value in GOOD.items() if name != "embedder"},
    ],
)
def test_a_damaged_profile_is_refused(tmp_path: Path, document: Any) -> None:
    with pytest.raises(SetupError, match="is damaged"):
        load_profile("mine", own=write(tmp_path, document))


@pytest.mark.parametrize(("other", "fitting"), [("dlib", ["default-2", "default"]), ("default-2", ["dlib-2", "dlib"])])
def test_a_refusal_names_the_profiles_that_fit_the_embedder_the_newest_first(other: str, fitting: list[str]) -> None:
    of = load_profile(fitting[0]).document
    embedder = EmbedderPin(name=of.embedder, sha256=of.embedder_sha256 or "", preprocessing="none")
    says = rf"Choose one for it, PATRONUS_EDGE__PROFILE={fitting[0]} \(or {fitting[1]}[^)]*\); seal is for any"
    with pytest.raises(SetupError, match=says):
        load_profile(other, embedder)
    for name in fitting:
        load_profile(name, embedder)


def test_a_profile_is_for_its_embedder_and_its_folder(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="is for other; this edge runs sface"):
        load_profile("mine", SFACE, own=write(tmp_path, GOOD | {"embedder": "other"}))
    with pytest.raises(SetupError, match="calls itself 'yours'"):
        load_profile("mine", own=write(tmp_path, GOOD | {"name": "yours"}))


def test_nothing_comes_after_the_seal(tmp_path: Path) -> None:
    twice = GOOD | {"steps": [{"kind": "seal"}, {"kind": "seal"}]}
    with pytest.raises(SetupError, match="steps are patronus, seal, or both in this order"):
        load_profile("mine", own=write(tmp_path, twice))


def test_the_digest_changes_with_every_file(tmp_path: Path) -> None:
    def digest() -> str:
        return load_profile("mine", own=tmp_path).pin.sha256

    folder = write(tmp_path, GOOD) / "mine"
    seen = [digest()]
    (folder / "basis.npy").write_bytes(b"1")
    seen.append(digest())
    (folder / "basis.npy").write_bytes(b"2")
    seen.append(digest())
    (folder / "basis.npy").rename(folder / "other.npy")
    seen.append(digest())
    (folder / "deep").mkdir()
    (folder / "deep" / "x").write_bytes(b"")
    seen.append(digest())
    write(tmp_path, GOOD | {"summary": "another"})
    seen.append(digest())
    assert len(set(seen)) == len(seen)
    assert digest() == seen[-1]


def test_a_newer_profile_is_refused_as_such(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"^The protection profile 'mine' is of version 2, newer .* update"):
        load_profile("mine", own=write(tmp_path, GOOD | {"version": 2, "something": "new"}))


GRAPH = b"stands for a graph; nothing here runs it"
STEP = {
    "kind": "patronus",
    "file": "patronus.onnx",
    "sha256": hashlib.sha256(GRAPH).hexdigest(),
    "dim": 128,
    "seed_dim": 16,
    "layers": ["erase", "perturb"],
    "geometry": "sphere",
    "input_norm": [4.0, 30],
    "phi_max": 0.25,
}
NETWORK = GOOD | {
    "embedder": "sface",
    "embedder_sha256": "0" * 64,
    "steps": [STEP, {"kind": "seal"}],
    "threshold": {"cosine": 0.363, "fmr": 0.002},
    "budgets": {"certified": 0.01, "statistical": 0.25, "alpha": [0.01, 0.05]},
    "cohort_sha256": "1" * 64,
    "figures": {"lfw": {"accuracy": 0.9928, "pairs": 6000}, "measured": True},
}


def written(folder: Path, graph: bytes = GRAPH, **changes: Any) -> Path:
    write(folder, NETWORK | changes)
    (folder / "mine" / "patronus.onnx").write_bytes(graph)
    return folder


def test_a_profile_with_a_network_is_read_whole(tmp_path: Path) -> None:
    profile = load_profile("mine", SFACE, 128, own=written(tmp_path))
    assert profile.graph == GRAPH
    assert profile.document.kinds == ("patronus", "seal")
    assert profile.document.model_dump(mode="json") == NETWORK
    assert profile.seals
    assert "stands for" not in repr(profile)
    assert not load_profile("mine", own=written(tmp_path, steps=[STEP])).seals


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": [{"kind": "seal"}, STEP]},
        {"steps": [STEP, STEP]},
        {"steps": [STEP, {"kind": "seal"}, {"kind": "seal"}]},
        {"steps": [STEP | {"strength": 1}]},
        {"steps": [{name: value for name, value in STEP.items() if name != "sha256"}]},
        {"steps": [{name: value for name, value in STEP.items() if name != "input_norm"}]},
        {"steps": [STEP | {"file": "../patronus.onnx"}]},
        {"steps": [STEP | {"file": "profile.json"}]},
        {"steps": [STEP | {"layers": []}]},
        {"steps": [STEP | {"layers": ["perturb", "erase"]}]},
        {"steps": [STEP | {"layers": ["erase"]}]},
        {"steps": [STEP | {"geometry": "ball"}]},
        {"steps": [STEP | {"phi_max": 2}]},
        {"steps": [STEP | {"phi_max": "0.2"}]},
        {"steps": [STEP | {"phi_max": 0}]},
        {"steps": [STEP | {"input_norm": [30, 4]}]},
        {"steps": [STEP | {"input_norm": [0, 4]}]},
        {"steps": [STEP | {"dim": 1}]},
        {"embedder": "any"},
        {"threshold": {"cosine": 0.363}},
        {"threshold": {"cosine": 2, "fmr": 0}},
        {"cohort_sha256": "1"},
        {"figures": [1]},
    ],
)
def test_a_network_that_is_not_described_rightly_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(SetupError, match="is damaged"):
        load_profile("mine", own=written(tmp_path, **changes))


def test_a_file_that_is_not_the_one_named_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"patronus\.onnx .* is not the one that the profile names"):
        load_profile("mine", own=written(tmp_path, graph=GRAPH + b"."))
    (tmp_path / "mine" / "patronus.onnx").unlink()
    with pytest.raises(SetupError, match=r"lacks its file patronus\.onnx"):
        load_profile("mine", own=tmp_path)


def test_a_profile_is_for_one_file_of_its_embedder_and_one_dimension(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(SetupError, match="another file of sface than this edge runs"):
        load_profile("mine", SFACE.model_copy(update={"sha256": "2" * 64}), own=tmp_path)
    with pytest.raises(SetupError, match="for 128 dimensions; these embeddings have 512"):
        load_profile("mine", SFACE, 512, own=tmp_path)


def test_an_own_profile_does_not_take_the_place_of_one_that_comes_along(tmp_path: Path) -> None:
    (tmp_path / "seal").mkdir()
    (tmp_path / "seal" / "profile.json").write_text(json.dumps(GOOD | {"name": "seal"}))
    with pytest.raises(SetupError, match="'seal' comes with Patronus; give your own another name"):
        load_profile("seal", own=tmp_path)


def test_a_profile_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "profiles"
    document = ProfileDocument.model_validate_json(json.dumps(NETWORK))
    made = write_profile(folder, document, GRAPH)
    assert made.pin == load_profile("mine", SFACE, 128, own=folder).pin
    assert made.document == document

    for bad, graph in ((document, GRAPH + b"."), (document, None)):
        with pytest.raises(SetupError):
            write_profile(folder / "other", bad, graph)
    with pytest.raises(Conflict, match="is there already"):
        write_profile(folder, document, GRAPH)
    with pytest.raises(SetupError, match="not the one"):
        write_profile(folder, document, GRAPH + b".", replace=True)
    assert load_profile("mine", own=folder).pin == made.pin, "what was there is untouched"
    again = write_profile(folder, document.model_copy(update={"summary": "better"}), GRAPH, replace=True)
    assert again.pin.sha256 != made.pin.sha256
    assert [path.name for path in folder.rglob("*")].count("patronus.onnx") == 1
    assert sorted(path.name for path in folder.iterdir()) == ["mine", "other"]
    assert list((folder / "other").iterdir()) == []
