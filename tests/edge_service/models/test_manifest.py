"""The manifest is strict, and says in one sentence where it is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_service.models.manifest import CHECKOUT, load_manifest
from shared.errors import SetupError


@pytest.fixture
def document() -> Any:
    return json.loads((CHECKOUT / "deploy" / "models.json").read_text())


def test_the_shipped_manifest_pins_a_detector_and_two_embedders_with_several_sources_each() -> None:
    manifest = load_manifest()
    assert [(model.role, model.optional) for model in manifest.models] == [
        ("face-detector", False),
        ("face-embedder", False),
        ("face-embedder", True),
    ]
    for model in manifest.models:
        assert {source.kind for source in model.source.sources} == {"path", "pypi", "upstream"}


def test_the_environment_names_another_manifest(document: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del document["models"][0]
    (tmp_path / "mine.json").write_text(json.dumps(document))
    monkeypatch.setenv("PATRONUS_MODEL_MANIFEST", str(tmp_path / "mine.json"))
    assert [model.role for model in load_manifest().models] == ["face-embedder"] * 2


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda d: d.update(version=2), "version"),
        (lambda d: d.update(extra=1), "extra"),
        (lambda d: d.update(models=[]), "models"),
        (lambda d: d["models"][0].pop("licence"), "models.0.licence"),
        (lambda d: d["models"][0].update(role="nose-finder"), "models.0.role"),
        (lambda d: d["models"][0]["source"].update(size="122489"), "models.0.source.size"),
        (lambda d: d["models"][0]["source"].update(sha256="abc"), "models.0.source.sha256"),
        (lambda d: d["models"][0]["source"].update(file="../escape.onnx"), "models.0.source.file"),
        (lambda d: d["models"][0]["source"].update(sources=[{"kind": "path"}]), "models.0.source.sources"),
        (lambda d: d["models"][0]["source"]["sources"][1].update(kind="ftp"), "models.0.source.sources.1"),
        (lambda d: d["models"][0]["source"]["sources"][1].update(member="a/../b"), "sources.1.pypi.member"),
        (lambda d: d["models"][0]["source"]["sources"][1].update(package="--pre"), "sources.1.pypi.package"),
        (lambda d: d["models"][0]["converted"]["input"].update(shape=[0]), "models.0.converted.input.shape.0"),
        (lambda d: d["models"][1].update(role="face-detector"), "same role"),
        (lambda d: d["models"][1]["converted"].update(file="yunet_2023mar.onnx"), "same name"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_place(change: Any, where: str, document: Any, tmp_path: Path) -> None:
    change(document)
    path = tmp_path / "models.json"
    path.write_text(json.dumps(document))
    with pytest.raises(SetupError) as refused:
        load_manifest(path)
    assert refused.value.reason == "manifest-invalid"
    assert where in refused.value.detail
    assert "\n" not in refused.value.detail


def test_text_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models.json").write_text("{")
    with pytest.raises(SetupError, match=r"models\.json is not valid at the whole"):
        load_manifest(tmp_path / "models.json")


def test_a_manifest_that_is_not_there_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="PATRONUS_MODEL_MANIFEST"):
        load_manifest(tmp_path / "none.json")


def test_an_unknown_role_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SetupError, match="face-detector, face-embedder"):
        load_manifest().for_role("iris-finder")


def test_a_set_up_needs_the_embedders_that_it_names_and_else_the_one_that_is_not_optional() -> None:
    manifest = load_manifest()
    names = lambda *embedders: [model.name for model in manifest.wanted(embedders)]  # noqa: E731
    assert names() == ["yunet_2023mar", "sface_2021dec"]
    assert names("dlib_resnet29") == ["yunet_2023mar", "dlib_resnet29"]
    assert names("dlib_resnet29", "sface_2021dec") == ["yunet_2023mar", "sface_2021dec", "dlib_resnet29"]
    assert manifest.for_role("face-embedder").name == "sface_2021dec"
    assert manifest.for_role("face-embedder", "dlib_resnet29").name == "dlib_resnet29"


@pytest.mark.parametrize("name", ["arcface", "yunet_2023mar"])
def test_an_unknown_embedder_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(SetupError, match=f"no face-embedder of the name {name}; it has sface_2021dec, dlib_resnet29"):
        load_manifest().wanted([name])


def test_two_models_of_a_role_that_are_not_optional_are_refused(document: Any, tmp_path: Path) -> None:
    document["models"][2]["optional"] = False
    (tmp_path / "models.json").write_text(json.dumps(document))
    with pytest.raises(SetupError, match="same role"):
        load_manifest(tmp_path / "models.json")
