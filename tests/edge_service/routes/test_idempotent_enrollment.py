"""The same picture of the same subject is stored once, and every answer says whether it was stored now or before."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_service.protection.key_transfer import unwrap, wrap
from edge_service.protection.keys import KeyStore
from edge_service.vision.sessions import OrtSession
from tests.support.edge import Edge, Pair, sample

PORTRAIT, SPEECH, BIDEN = sample("obama/portrait.jpg"), sample("obama/speech.jpg"), sample("biden/standing.jpg")
PASSPHRASE = "correct horse battery"


@pytest.fixture(scope="module")
def pair(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Pair(tmp_path_factory.mktemp("twice")) as opened:
        yield opened


@pytest.fixture(scope="module")
def edge(pair: Pair) -> Edge:
    return pair.edge()


def _enroll(edge: Edge, gallery: str, *pictures: bytes, subject: str = "obama") -> tuple[list[str], list[str]]:
    """Ids of the faces, and whether each was stored now or before."""
    answer = edge.enroll(gallery, subject, *pictures)
    assert answer.status_code == 201, answer.text
    faces = answer.json()["faces"]
    return [face["id"] for face in faces], [face["stored"] for face in faces]


def _last_template(edge: Edge) -> bytes:
    return base64.b64decode(json.loads(edge.transport.requests[-1].content)["templates"][0]["template"]["data"])


def _rekey(edge: Edge, gallery: str) -> None:
    answer = edge.call("POST", f"/v1/galleries/{gallery}/rekey")
    assert (answer.status_code, answer.json()["state"]) == (200, "settled"), answer.text


def test_a_picture_is_stored_once_however_often_it_is_sent(edge: Edge) -> None:
    edge.make("once")
    ids, stored = _enroll(edge, "once", PORTRAIT, SPEECH, PORTRAIT)
    assert (stored, ids[0] == ids[2], ids[0] == ids[1]) == (["now"] * 3, True, False)
    assert edge.held("once") == (1, 2)
    assert _enroll(edge, "once", SPEECH, PORTRAIT) == ([ids[1], ids[0]], ["before", "before"])
    assert _enroll(edge, "once", PORTRAIT, BIDEN)[1] == ["before", "now"]
    assert edge.held("once") == (1, 3)


def test_another_subject_or_gallery_gives_another_id(edge: Edge) -> None:
    for gallery in ("ids", "other-ids"):
        edge.make(gallery)
    found = [_enroll(edge, "ids", PORTRAIT), _enroll(edge, "ids", PORTRAIT, subject="twin")]
    found.append(_enroll(edge, "other-ids", PORTRAIT))
    assert [stored for _, stored in found] == [["now"]] * 3
    assert len({ids[0] for ids, _ in found}) == 3


def test_a_picture_that_was_erased_is_stored_again(edge: Edge) -> None:
    edge.make("erased")
    [face], _ = _enroll(edge, "erased", PORTRAIT)
    edge.erase(f"/v1/galleries/erased/subjects/obama/faces/{face}")
    assert _enroll(edge, "erased", PORTRAIT) == ([face], ["now"])
    assert edge.verify("erased", "obama", SPEECH).json()["decision"] == "match"


class _Rounding(OrtSession):
    """An embedder on a runtime that rounds more coarsely."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.input_names, self.output_names = session.input_names, session.output_names

    def run(self, inputs: Mapping[str, Any]) -> list[Any]:
        return [each.astype(np.float16).astype(np.float32) for each in self._session.run(inputs)]


def test_another_runtime_answers_before(pair: Pair, edge: Edge) -> None:
    edge.make("runtime")
    first, template = _enroll(edge, "runtime", PORTRAIT)[0], _last_template(edge)
    shutil.copytree(edge.settings.home, pair.folder / "moved")
    moved = pair.edge("moved")
    embedder = moved.app.state.services.reader.embedder
    embedder._session = _Rounding(embedder._session)
    assert _enroll(moved, "runtime", PORTRAIT) == (first, ["before"])
    assert _last_template(moved) != template
    assert edge.held("runtime") == (1, 1)


def test_a_changed_key_answers_before(edge: Edge) -> None:
    edge.make("rekeyed")
    first, template = _enroll(edge, "rekeyed", PORTRAIT)[0], _last_template(edge)
    _rekey(edge, "rekeyed")
    assert _enroll(edge, "rekeyed", PORTRAIT) == (first, ["before"])
    assert _last_template(edge) != template
    assert edge.held("rekeyed") == (1, 1)


def test_new_master_keys_answer_before(pair: Pair) -> None:
    edge = pair.edge("renewed")
    edge.make("master")
    first, _ = _enroll(edge, "master", PORTRAIT)
    for _ in range(2):
        KeyStore(edge.settings.home).renew()
        edge = pair.edge("renewed")
        assert _enroll(edge, "master", PORTRAIT) == (first, ["before"]), "under the old key"
        _rekey(edge, "master")
        assert _enroll(edge, "master", PORTRAIT) == (first, ["before"]), "under the new key"
        old = KeyStore(edge.settings.home)
        assert old.has_old_keys()
        old.forget()
    edge = pair.edge("renewed")
    assert _enroll(edge, "master", PORTRAIT) == (first, ["before"]), "without the old key"
    assert edge.held("master") == (1, 1)

    other = pair.edge("imported")
    KeyStore(other.settings.home).put(
        unwrap(wrap(KeyStore(edge.settings.home).gallery("master"), PASSPHRASE), PASSPHRASE)
    )
    assert _enroll(other, "master", PORTRAIT) == (first, ["before"]), "at another edge with the exported key"


@pytest.mark.slow(reason="scrypt, several times")
def test_an_imported_key_that_replaces_another_answers_before(pair: Pair) -> None:
    ours, theirs = pair.edge("ours"), pair.edge("theirs")
    theirs.make("lent")
    KeyStore(ours.settings.home).put(KeyStore(theirs.settings.home).gallery("lent"))
    first, _ = _enroll(ours, "lent", PORTRAIT)
    KeyStore(theirs.settings.home).renew()
    KeyStore(ours.settings.home).put(replace(KeyStore(theirs.settings.home).gallery("lent"), ids=None), replace=True)
    theirs = pair.edge("theirs")
    _rekey(theirs, "lent")
    ours.app.state.services.galleries.forget("lent")
    assert _enroll(ours, "lent", PORTRAIT) == (first, ["before"])
    assert _enroll(theirs, "lent", PORTRAIT) == (first, ["before"])
