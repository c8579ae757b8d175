"""``PATRONUS_EDGE__MIRRORED``: of which pictures the mirrored face is embedded too, and what that does not change."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_service.models.store import locate
from edge_service.settings import EdgeSettings
from edge_service.vision.embed import DLIB, MAX_BATCH
from edge_service.vision.reader import FaceReader
from edge_service.vision.sessions import OrtSession
from shared.errors import SetupError
from shared.security.credentials import Scope
from shared.service_settings import load_settings
from tests.support.cloud_client import assert_problem
from tests.support.edge import Edge, Pair, encoded, pasted, pixels, sample

PORTRAIT, SPEECH, BIDEN = sample("obama/portrait.jpg"), sample("obama/speech.jpg"), sample("biden/standing.jpg")
CHOICES = ("off", "enrollment", "both")
Rows = NDArray[np.float32]


@pytest.fixture(scope="module")
def edges(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Edge]]:
    """An edge of each choice, with one folder of keys, before one cloud. The profile keeps scores as they are."""
    with Pair(tmp_path_factory.mktemp("mirrored")) as pair:
        made = {}
        for choice in CHOICES:
            made[choice] = pair.edge(profile="seal", mirrored=choice)
            assert made[choice].call("PUT", "/v1/galleries/shared").status_code in {200, 201}
        yield made


@contextmanager
def faces_embedded(edge: Edge, change: Callable[[Rows], Rows] = lambda rows: rows) -> Iterator[list[int]]:
    """How many faces each run of the network has, meanwhile; what it returns may be changed."""
    embedder = edge.app.state.services.reader.embedder
    session, batches = embedder._session, []

    class Watched(OrtSession):
        def __init__(self) -> None:
            pass

        input_names, output_names = session.input_names, session.output_names

        def run(self, inputs: Any) -> list[Any]:
            [blob] = inputs.values()
            batches.append(len(blob))
            return [change(each) for each in session.run(inputs)]

    embedder._session = Watched()
    try:
        yield batches
    finally:
        embedder._session = session


@pytest.fixture(scope="module")
def rows(reader: FaceReader) -> dict[tuple[bytes, bool], NDArray[np.float64]]:
    """Unit embeddings of the pictures, as they are and with the mirrored face."""
    made = {}
    for picture in (PORTRAIT, SPEECH):
        [aligned] = reader._aligned(reader.read(picture).faces)
        both = reader.embedder.embed([aligned, aligned[:, ::-1]])
        raw = both.unit.astype(np.float64) * both.norms[:, None]
        made[picture, False], made[picture, True] = raw[0], raw.mean(axis=0)
    return {name: row / np.linalg.norm(row) for name, row in made.items()}


@pytest.mark.parametrize("choice", CHOICES)
def test_the_setting_says_what_is_embedded_mirrored(
    edges: dict[str, Edge], rows: dict[tuple[bytes, bool], NDArray[np.float64]], choice: str
) -> None:
    edge = edges[choice]
    edge.make(choice)
    assert edge.enroll(choice, "obama", PORTRAIT).status_code == 201
    expected = rows[PORTRAIT, choice != "off"] @ rows[SPEECH, choice == "both"]
    others = [rows[PORTRAIT, one] @ rows[SPEECH, other] for one in (False, True) for other in (False, True)]
    assert len({round(other, 4) for other in others}) == 4
    verified = edge.verify(choice, "obama", SPEECH).json()
    [face] = edge.identify(choice, SPEECH).json()["faces"]
    for similarity in (verified["similarity"], face["candidates"][0]["similarity"]):
        assert similarity == pytest.approx(expected, abs=1e-5)
    assert edge.verify(choice, "obama", BIDEN).json()["decision"] == "no_match"


@pytest.mark.parametrize("choice", CHOICES)
def test_compare_and_protect_embed_a_face_once(
    edges: dict[str, Edge], rows: dict[tuple[bytes, bool], NDArray[np.float64]], choice: str
) -> None:
    edge, plain = edges[choice], rows[PORTRAIT, False] @ rows[SPEECH, False]
    compared = edge.send("/v1/compare", PORTRAIT, SPEECH).json()["similarity"]
    assert compared == pytest.approx(plain, abs=1e-5)
    made = [edge.send("/v1/protect", one, gallery="shared").json()["templates"][0] for one in (PORTRAIT, SPEECH)]
    assert np.dot(*made) == pytest.approx(plain, abs=1e-5)


def test_faces_are_embedded_as_often_as_the_setting_says(edges: dict[str, Edge]) -> None:
    found: dict[str, list[int]] = {}
    for edge in edges.values():
        calls: dict[str, Callable[[Edge], Any]] = {
            "enroll": lambda one: one.enroll("shared", "counted", PORTRAIT, SPEECH),
            "verify": lambda one: one.verify("shared", "counted", SPEECH),
            "identify": lambda one: one.identify("shared", SPEECH),
            "compare": lambda one: one.send("/v1/compare", PORTRAIT, SPEECH),
            "protect": lambda one: one.send("/v1/protect", SPEECH, gallery="shared"),
            "detect": lambda one: one.send("/v1/detect", SPEECH),
        }
        for name, call in calls.items():
            with faces_embedded(edge) as batches:
                assert call(edge).status_code in {200, 201}
            found.setdefault(name, []).append(sum(batches))
    assert found == {
        "enroll": [2, 4, 4],
        "verify": [1, 1, 2],
        "identify": [1, 1, 2],
        "compare": [2, 2, 2],
        "protect": [1, 1, 1],
        "detect": [0, 0, 0],
    }


def crowd(faces: int) -> bytes:
    """So many faces in a row."""
    head = pixels("collins/portrait.png")[20:220, 120:320]
    return encoded(pasted(head, 200 * faces, 200, *((200 * at, 0) for at in range(faces))), "JPEG", quality=95)


def test_a_crowd_goes_in_batches_that_are_no_larger_and_counts_each_face_once(edges: dict[str, Edge]) -> None:
    edge, faces = edges["both"], MAX_BATCH // 2 + 1
    key, _record = edge.app.state.services.key_ring.add("slow", [Scope.MATCH], None, rate=f"{faces}/hour")
    slow = {"Authorization": f"Bearer {key}"}
    with faces_embedded(edge) as batches:
        answer = edge.identify("shared", crowd(faces), max_faces=faces, headers=slow)
    assert (answer.status_code, len(answer.json()["faces"])) == (200, faces)
    assert batches == [MAX_BATCH, 2]
    assert_problem(edge.identify("shared", SPEECH, headers=slow), 429, "rate-limited")


def test_the_setting_belongs_to_no_contract_and_a_gallery_mixes_them(edges: dict[str, Edge]) -> None:
    contracts = [edge.call("GET", "/v1/galleries/shared").json()["contract"] for edge in edges.values()]
    assert contracts[0] == contracts[1] == contracts[2]
    for choice, edge in edges.items():
        assert edge.enroll("shared", f"by-{choice}", PORTRAIT).status_code == 201
    for edge in edges.values():
        for choice in CHOICES:
            assert edge.verify("shared", f"by-{choice}", SPEECH).json()["decision"] == "match"
    added = [
        edge.enroll("shared", "mixed", one).json()
        for edge, one in zip(edges.values(), (PORTRAIT, SPEECH), strict=False)
    ]
    assert (added[1]["faces_enrolled"], added[1]["faces"][0]["agrees"]) == (2, True)


def test_a_picture_is_stored_once_under_whatever_setting(edges: dict[str, Edge]) -> None:
    faces = [edge.enroll("shared", "once", PORTRAIT).json()["faces"][0] for edge in edges.values()]
    assert [face["stored"] for face in faces] == ["now", "before", "before"]
    assert len({face["id"] for face in faces}) == 1


def _embed_steps(edge: Edge) -> float:
    text = edge.call("GET", "/metrics").text
    found = re.search(r'^patronus_edge_step_seconds_count\{step="embed"\} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_both_embeddings_are_one_step_of_the_metrics(edges: dict[str, Edge]) -> None:
    edge = edges["enrollment"]
    before = _embed_steps(edge)
    answer = edge.enroll("shared", "timed", PORTRAIT, SPEECH)
    assert "embed;dur=" in answer.headers["Server-Timing"]
    assert _embed_steps(edge) == before + 1


@pytest.mark.parametrize("spoilt", [np.nan, 0.0])
def test_nothing_is_sent_where_the_mirror_image_gives_no_embedding(edges: dict[str, Edge], spoilt: float) -> None:
    def change(found: Rows) -> Rows:
        found = found.copy()
        found[1::2] *= spoilt
        return found

    edge = edges["enrollment"]
    edge.make_known("shared")
    before = len(edge.transport.requests)
    with faces_embedded(edge, change):
        assert_problem(edge.enroll("shared", "spoilt", PORTRAIT), 500, "unexpected-error")
    assert len(edge.transport.requests) == before
    assert_problem(edge.verify("shared", "spoilt", PORTRAIT), 404, "not-found", "unknown_subject")


def test_under_dlib_no_face_is_mirrored(models_folder: Path, tmp_path: Path) -> None:
    try:
        locate("face-embedder", models_folder, name=DLIB.name)
    except SetupError as missing:
        pytest.skip(missing.detail)
    with Pair(tmp_path) as pair:
        edge = pair.edge(profile="seal", embedder=DLIB.name, mirrored="both")
        edge.make("door")
        with faces_embedded(edge) as batches:
            assert edge.enroll("door", "obama", PORTRAIT).status_code == 201
            assert edge.verify("door", "obama", PORTRAIT).json()["similarity"] == pytest.approx(1, abs=1e-5)
        assert batches == [1, 1]


def test_another_word_stops_the_start_and_enrollment_is_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert EdgeSettings(home=tmp_path).mirrored == "enrollment"
    monkeypatch.setenv("PATRONUS_EDGE__MIRRORED", "both")
    assert load_settings(EdgeSettings, home=tmp_path).mirrored == "both"
    monkeypatch.setenv("PATRONUS_EDGE__MIRRORED", "probes")
    with pytest.raises(SetupError, match="PATRONUS_EDGE__MIRRORED"):
        load_settings(EdgeSettings, home=tmp_path)
