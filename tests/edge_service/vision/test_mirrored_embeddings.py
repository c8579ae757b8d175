"""The raw embedding of a face and of its mirror image together: their mean, batch by batch, or nothing."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_service.vision.embed import MAX_BATCH, Embedder
from edge_service.vision.reader import AlignedFace, FaceReader
from edge_service.vision.sessions import OrtSession
from shared.http.request_context import Caller, CallerGone, set_caller
from tests.support.edge import SAMPLES, sample

Rows = NDArray[np.float32]


class WatchedSession(OrtSession):
    """A session that records how many faces each run had, and may change what it returns."""

    def __init__(self, session: Any, change: Callable[[Rows], Rows] = lambda rows: rows) -> None:
        self.input_names, self.output_names = session.input_names, session.output_names
        self.batches: list[int] = []
        self._session, self._change = session, change

    def run(self, inputs: Any) -> list[Any]:
        [blob] = inputs.values()
        self.batches.append(len(blob))
        return [self._change(each) for each in self._session.run(inputs)]


@pytest.fixture(scope="module")
def faces(reader: FaceReader) -> list[AlignedFace]:
    """One face of each sample picture."""
    return [reader.read(sample(name)).faces[0] for name in SAMPLES]


def watched(reader: FaceReader, **options: Any) -> tuple[Embedder, WatchedSession]:
    """The reader's embedder, on a session that is watched."""
    session = WatchedSession(reader.embedder._session, **options)
    return Embedder(session, reader.spec), session  # type: ignore[arg-type]


def raw(reader: FaceReader, aligned: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
    found = reader.embedder.embed(aligned)
    return found.unit.astype(np.float64) * found.norms[:, None]


def test_it_is_the_mean_of_both_raw_embeddings(reader: FaceReader, faces: list[AlignedFace]) -> None:
    aligned = reader._aligned(faces)
    expected = (raw(reader, aligned) + raw(reader, [face[:, ::-1] for face in aligned])) / 2
    lengths = np.linalg.norm(expected, axis=1)
    found = reader.embed(faces, mirrored=True)
    np.testing.assert_allclose(found.norms, lengths, rtol=1e-4)
    np.testing.assert_allclose(found.unit, expected / lengths[:, None], atol=1e-5)
    apart = np.vecdot(found.unit, reader.embed(faces).unit)
    assert ((apart > 0.95) & (apart < 0.9999)).all(), "near the face's own, and not the same"


def test_a_mirrored_picture_gives_the_same(reader: FaceReader, faces: list[AlignedFace]) -> None:
    aligned = [face.aligned for face in faces]
    turned = [np.ascontiguousarray(face[:, ::-1]) for face in aligned]
    one, other = (reader.embedder.embed(each, mirrored=True) for each in (aligned, turned))
    np.testing.assert_allclose(one.unit, other.unit, atol=1e-5)


def test_many_faces_give_what_each_gives_alone(reader: FaceReader, faces: list[AlignedFace]) -> None:
    many = (faces * 2)[: MAX_BATCH // 2 + 1]
    together = reader.embed(many, mirrored=True)
    for position, face in enumerate(many):
        alone = reader.embed([face], mirrored=True)
        np.testing.assert_allclose(together.unit[position], alone.unit[0], atol=1e-5)
        np.testing.assert_allclose(together.norms[position], alone.norms[0], rtol=1e-4)


@pytest.mark.parametrize("mirrored", [False, True])
def test_no_batch_is_larger_than_the_limit(
    reader: FaceReader, faces: list[AlignedFace], mirrored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder, session = watched(reader)
    monkeypatch.setattr(reader, "embedder", embedder)
    reader.embed((faces * 4)[: MAX_BATCH + 1], mirrored=mirrored)
    assert max(session.batches) == MAX_BATCH
    assert sum(session.batches) == (MAX_BATCH + 1) * (2 if mirrored else 1)


def test_no_further_batch_runs_for_a_caller_who_has_gone(
    reader: FaceReader, faces: list[AlignedFace], monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = Caller("someone")

    def leave(rows: Rows) -> Rows:
        caller.leave()
        return rows

    def request() -> None:
        set_caller(caller)
        reader.embed((faces * 4)[:MAX_BATCH], mirrored=True)

    embedder, session = watched(reader, change=leave)
    monkeypatch.setattr(reader, "embedder", embedder)
    with pytest.raises(CallerGone):
        contextvars.copy_context().run(request)
    assert session.batches == [MAX_BATCH]


def _with_mirrored(change: Callable[[Rows, Rows], Any]) -> Callable[[Rows], Rows]:
    """Changes what the network returns for the mirror image, which follows its face."""

    def changed(rows: Rows) -> Rows:
        rows = rows.copy()
        rows[1::2] = change(rows[::2], rows[1::2])
        return rows

    return changed


@pytest.mark.parametrize(
    "change",
    [
        lambda _face, mirrored: mirrored * np.nan,
        lambda _face, mirrored: mirrored * np.inf,
        lambda _face, mirrored: mirrored * 0,
        lambda face, _mirrored: -face,
    ],
    ids=["not a number", "infinite", "zero", "opposite"],
)
def test_what_is_no_embedding_is_refused_for_the_mirror_image_too(
    reader: FaceReader, faces: list[AlignedFace], change: Callable[[Rows, Rows], Any]
) -> None:
    embedder, _session = watched(reader, change=_with_mirrored(change))
    with pytest.raises(ValueError, match="embedder returned"):
        embedder.embed([face.aligned for face in faces], mirrored=True)
    assert embedder.embed([faces[0].aligned]).unit.shape == (1, reader.spec.dim)
