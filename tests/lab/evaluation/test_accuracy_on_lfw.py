"""The served embedder on Labeled Faces in the Wild, where that data set is at hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_service.models.manifest import ModelEntry, load_manifest
from edge_service.models.store import model_file
from edge_service.settings import InferenceSettings
from edge_service.vision.embed import SFACE, Embedder
from edge_service.vision.sessions import OrtSession
from lab.data.embedders import open_encoder, unit
from lab.data.lfw import Lfw, Pair
from lab.data.verification import ten_fold_accuracy
from lab.evaluation.accuracy import measure, protocol_scores
from shared.errors import SetupError


@pytest.fixture
def lfw() -> Lfw:
    named = os.environ.get("PATRONUS_FACE_DATA")
    if not named:
        pytest.skip("PATRONUS_FACE_DATA does not name a folder with lfw112.tar and lfw_pairs.txt")
    try:
        return Lfw(Path(named))
    except SetupError as error:
        pytest.skip(error.detail)


@pytest.mark.slow(reason="embeds 7,700 real faces")
@pytest.mark.usefixtures("models_folder")
def test_the_services_own_embedding_code_reaches_the_published_accuracy(lfw: Lfw) -> None:
    pairs = lfw.pairs()
    names = sorted({name for pair in pairs for name in (pair.first, pair.second)})
    rows = unit(open_encoder(SFACE.name).embed(lfw.faces(names)))
    mean, _ = ten_fold_accuracy(*protocol_scores(pairs, names, rows))
    assert mean >= 0.992


@pytest.mark.slow(reason="embeds 1,500 real faces twice; all 13,233 with PATRONUS_ALL_OF_LFW=1")
def test_the_faster_graph_changes_no_figure(lfw: Lfw, models_folder: Path) -> None:
    entry = load_manifest().for_role("face-embedder", SFACE.name)
    assert entry.faster is not None
    names, pairs = lfw.names(), lfw.pairs()
    if not os.environ.get("PATRONUS_ALL_OF_LFW"):
        pairs = [pair for pair in pairs if pair.fold < 2]
        names = sorted({name for pair in pairs for name in (pair.first, pair.second)})
    faces = lfw.faces(names)

    def embedded(model: ModelEntry) -> NDArray[np.float32]:
        network = Embedder(OrtSession(model_file(model, models_folder), InferenceSettings()), SFACE)
        return np.concatenate([network.embed(faces[at : at + 16]).unit for at in range(0, len(faces), 16)])

    converted, fast = embedded(entry.model_copy(update={"faster": None})), embedded(entry)
    assert np.vecdot(converted, fast).min() >= 0.999999
    before, after = (measure(rows, names, pairs, SFACE.known_threshold.cosine) for rows in (converted, fast))
    shown = [{name: f"{value:.5f}" for name, value in figures.items()} for figures in (before, after)]
    assert shown[0] == shown[1]


def test_a_missing_data_set_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"lfw112\.tar is missing"):
        Lfw(tmp_path)


def test_pairs_are_scored_by_cosine_and_by_distance() -> None:
    pairs = [Pair("a/a_0001", "b/b_0001", False, 0), Pair("a/a_0001", "a/a_0002", True, 0)]
    names = ["a/a_0002", "b/b_0001", "a/a_0001"]
    raw = np.array([[3, 0], [0, 4], [1, 0]], np.float32)
    scores, genuine, folds = protocol_scores(pairs, names, raw, distance=True)
    np.testing.assert_allclose(scores, [-np.sqrt(17), -2])
    np.testing.assert_allclose(protocol_scores(pairs, names, unit(raw))[0], [0, 1])
    assert (genuine.tolist(), folds.tolist()) == ([False, True], [0, 0])


@pytest.mark.parametrize("text", ["", "abc def\n", "10\t300\nAnn\t1\n", "\N{SNOWMAN}"])
def test_a_list_of_pairs_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "lfw112.tar").touch()
    (tmp_path / "lfw_pairs.txt").write_text(text, encoding="utf-16" if "\N{SNOWMAN}" in text else "utf-8")
    with pytest.raises(SetupError, match=r"is no list of LFW's pairs|is cut off"):
        Lfw(tmp_path).pairs()
