"""The served embedder on Labeled Faces in the Wild, where that data set is at hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edge_service.models.store import locate
from edge_service.settings import InferenceSettings
from edge_service.vision.embed import Embedder
from edge_service.vision.sessions import OrtSession
from lab.data.lfw import Lfw, Pair
from lab.data.verification import ten_fold_accuracy
from lab.evaluation.accuracy import distance_scores, embed_faces, pair_scores
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
def test_the_services_own_embedding_code_reaches_the_published_accuracy(lfw: Lfw, models_folder: Path) -> None:
    pairs = lfw.pairs()
    names = sorted({name for pair in pairs for name in (pair.first, pair.second)})
    embedder = Embedder(OrtSession(locate("face-embedder", models_folder), InferenceSettings()))
    scores = pair_scores(pairs, names, embed_faces(lfw.faces(names), embedder).unit)

    found = ten_fold_accuracy(scores, np.array([p.genuine for p in pairs]), np.array([p.fold for p in pairs]))
    assert found.mean >= 0.992


def test_a_missing_data_set_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"lfw112\.tar is missing"):
        Lfw(tmp_path)


def test_pairs_are_scored_by_cosine_and_by_distance() -> None:
    pairs = [Pair("a/a_0001", "b/b_0001", False, 0), Pair("a/a_0001", "a/a_0002", True, 0)]
    names = ["a/a_0002", "b/b_0001", "a/a_0001"]
    raw = np.array([[3, 0], [0, 4], [1, 0]], np.float32)
    np.testing.assert_allclose(distance_scores(pairs, names, raw), [-np.sqrt(17), -2])
    np.testing.assert_allclose(pair_scores(pairs, names, raw / np.linalg.norm(raw, axis=1, keepdims=True)), [0, 1])


@pytest.mark.parametrize("text", ["", "abc def\n", "10\t300\nAnn\t1\n", "\N{SNOWMAN}"])
def test_a_list_of_pairs_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "lfw112.tar").touch()
    (tmp_path / "lfw_pairs.txt").write_text(text, encoding="utf-16" if "\N{SNOWMAN}" in text else "utf-8")
    with pytest.raises(SetupError, match=r"is no list of LFW's pairs|is cut off"):
        Lfw(tmp_path).pairs()
