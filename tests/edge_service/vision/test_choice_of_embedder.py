"""An edge runs the embedder of its settings, on faces aligned for that embedder."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_service.models.manifest import load_manifest
from edge_service.models.store import locate
from edge_service.settings import EdgeSettings
from edge_service.vision.align import ARCFACE, DLIB_CHIP, TEMPLATE, align, similarity_transform
from edge_service.vision.embed import EMBEDDERS, spec_named
from edge_service.vision.reader import FaceReader
from lab.data.embedders import aligned_to
from shared.errors import SetupError
from shared.metrics import Metrics
from tests.support.cloud_client import assert_problem
from tests.support.edge import SAMPLES, Pair, sample

# The distance that dlib's network was trained to keep people apart by (dlib's example of face recognition).
DLIBS_DISTANCE = 0.6


def dlib_or_skip(models_folder: Path) -> None:
    try:
        locate("face-embedder", models_folder, name="dlib_resnet29")
    except SetupError as missing:
        pytest.skip(missing.detail)


@pytest.fixture(scope="session")
def dlib_reader(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> FaceReader:
    dlib_or_skip(models_folder)
    settings = EdgeSettings(home=tmp_path_factory.mktemp("dlib"), embedder="dlib_resnet29")
    return FaceReader(settings, Metrics("edge"))


@pytest.mark.parametrize("name", EMBEDDERS)
def test_each_embedder_is_what_the_manifest_has(name: str) -> None:
    spec, converted = EMBEDDERS[name], load_manifest().for_role("face-embedder", name).converted
    assert converted.input.shape[1:] == (3, spec.alignment.side, spec.alignment.side)
    assert converted.outputs[0].shape[1:] == (spec.dim,)
    assert converted.input.channel_order == "RGB"
    assert spec.preprocessing == f"{spec.alignment.name}/rgb/0-255"


def test_no_two_embedders_share_a_preprocessing() -> None:
    assert len({spec.preprocessing for spec in EMBEDDERS.values()}) == len(EMBEDDERS)


def test_an_unknown_embedder_stops_the_start_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no embedder arcface; set PATRONUS_EDGE__EMBEDDER to one of: sface_2021dec"):
        FaceReader(EdgeSettings(home=tmp_path, embedder="arcface"), Metrics("edge"))


def test_the_embedder_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert EdgeSettings(home=tmp_path).embedder == "sface_2021dec"
    monkeypatch.setenv("PATRONUS_EDGE__EMBEDDER", "dlib_resnet29")
    assert spec_named(EdgeSettings(home=tmp_path).embedder).alignment is DLIB_CHIP


def test_dlibs_chip_is_its_mean_face_with_a_quarter_around_it() -> None:
    eyes, nose = DLIB_CHIP.points[:2], DLIB_CHIP.points[2]
    assert eyes[0, 1] == eyes[1, 1]
    assert eyes.mean(0)[0] == pytest.approx(nose[0], abs=1e-3)
    # The mean face spans 100 of the 150 pixels: an eye at 0.2255 of it is at 25 + 22.55.
    assert eyes[0, 0] == pytest.approx(25 + 22.5492)


def test_a_crop_on_one_template_becomes_nearly_what_the_picture_gives_on_the_other() -> None:
    rng = np.random.default_rng(3)
    picture = cv2.resize(rng.integers(0, 256, (12, 12, 3), np.uint8), (400, 400), interpolation=cv2.INTER_CUBIC)
    landmarks = (TEMPLATE * 2.2 + 60).astype(np.float32)
    direct = align(picture, landmarks, DLIB_CHIP).astype(int)
    crops = align(picture, landmarks)[None]
    through = aligned_to(crops, DLIB_CHIP)[0].astype(int)
    bottom = similarity_transform(TEMPLATE.astype(np.float32), DLIB_CHIP.points) @ [56, 111, 1]
    inside = np.s_[5 : int(bottom[1]) - 3, 8:145]
    assert np.abs(direct - through)[inside].mean() < 3
    assert aligned_to(crops, ARCFACE) is crops


def test_dlib_tells_the_people_of_the_samples_apart(dlib_reader: FaceReader) -> None:
    people = [name.split("/")[0] for name in SAMPLES]
    faces = [dlib_reader.read(sample(name)).faces[0] for name in SAMPLES]
    assert faces[0].aligned.shape == (150, 150, 3)
    made = dlib_reader.embed(faces)
    raw = made.unit * made.norms[:, None]
    same = np.array([[a == b for a in people] for b in people])
    distances = np.linalg.norm(raw[:, None] - raw[None], axis=2)
    assert ((distances < DLIBS_DISTANCE) == same).all()
    assert ((made.unit @ made.unit.T >= dlib_reader.spec.threshold.cosine) == same).all()


def test_a_gallery_stays_with_its_embedder(pair: Pair, models_folder: Path) -> None:
    dlib_or_skip(models_folder)
    ours = pair.edge(profile="seal")
    ours.make("ours")
    theirs = pair.edge("dlib", embedder="dlib_resnet29", profile="dlib-2")
    info = theirs.call("GET", "/v1/info").json()
    assert info["embedder"]["name"] == "dlib_resnet29"
    assert info["default_threshold"]["cosine"] == EMBEDDERS["dlib_resnet29"].threshold.cosine
    refused = theirs.send("/v1/galleries/ours/subjects/obama/faces", sample("obama/portrait.jpg"))
    assert_problem(refused, 409, "contract-mismatch")

    theirs.make("theirs")
    enrolled = theirs.send("/v1/galleries/theirs/subjects/obama/faces", sample("obama/portrait.jpg"))
    assert enrolled.status_code == 201, enrolled.text
    found = {
        name: theirs.send("/v1/galleries/theirs/subjects/obama/verify", sample(name)).json()["decision"]
        for name in ("obama/speech.jpg", "biden/standing.jpg")
    }
    assert found == {"obama/speech.jpg": "match", "biden/standing.jpg": "no_match"}
