"""The served embedder on Labeled Faces in the Wild, where that data set is at hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edge_service.models import locate
from edge_service.settings import InferenceSettings
from edge_service.vision.embed import Embedder
from edge_service.vision.sessions import OrtSession
from lab.accuracy import embed_names, pair_scores
from lab.lfw import Lfw
from lab.verification import ten_fold_accuracy
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


def test_the_services_own_embedding_code_reaches_the_published_accuracy(lfw: Lfw, models_folder: Path) -> None:
    pairs = lfw.pairs()
    names = sorted({name for pair in pairs for name in (pair.first, pair.second)})
    embedder = Embedder(OrtSession(locate("face-embedder", models_folder), InferenceSettings()))
    scores = pair_scores(pairs, names, embed_names(lfw, names, embedder))

    found = ten_fold_accuracy(scores, np.array([p.genuine for p in pairs]), np.array([p.fold for p in pairs]))
    assert found.mean >= 0.992


def test_a_missing_data_set_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"lfw112\.tar is missing"):
        Lfw(tmp_path)
