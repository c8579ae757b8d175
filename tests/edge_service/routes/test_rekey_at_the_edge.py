"""A gallery's key is changed in place: nobody enrolls again, and every score stays the same."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_service.protection.keys import KeyStore
from edge_service.protection.seal import seal_matrix
from shared.contract import SealPin
from tests.support.cloud_client import assert_problem
from tests.support.edge import SAMPLES, CloudTransport, Edge, Pair, sample

OBAMA, SPEECH, BIDEN = "obama/portrait.jpg", "obama/speech.jpg", "biden/standing.jpg"
PEOPLE = {"obama": OBAMA, "biden": BIDEN}


@pytest.fixture(scope="module")
def pair(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Pair(tmp_path_factory.mktemp("pair")) as opened:
        yield opened


@pytest.fixture(scope="module")
def edge(pair: Pair) -> Edge:
    return pair.edge()


def _made(edge: Edge, gallery: str, *, verify_only: bool = False) -> None:
    made = edge.call("PUT", f"/v1/galleries/{gallery}", json={"verify_only": verify_only})
    assert made.status_code == 201, made.text
    for subject, picture in PEOPLE.items():
        assert edge.enroll(gallery, subject, sample(picture)).status_code == 201


def _rekeyed(edge: Edge, gallery: str, **wanted: Any) -> dict[str, Any]:
    answer = edge.call("POST", f"/v1/galleries/{gallery}/rekey", json=wanted)
    assert answer.status_code == 200, answer.text
    done: dict[str, Any] = answer.json()
    assert (done["state"], done["next_contract"], done["left"]) == ("settled", None, 0)
    return done


def _seal(edge: Edge, gallery: str) -> SealPin:
    return SealPin.model_validate(edge.call("GET", f"/v1/galleries/{gallery}").json()["contract"]["seal"])


def _scores(edge: Edge, gallery: str) -> dict[str, Any]:
    """The decision on every sample picture, against everybody."""
    found: dict[str, Any] = {}
    for picture in SAMPLES:
        for subject in PEOPLE:
            answer = edge.verify(gallery, subject, sample(picture), quality_filter="none")
            if answer.status_code == 200:
                found[f"{picture} {subject}"] = (answer.json()["decision"], answer.json()["similarity"])
        answer = edge.identify(gallery, sample(picture), quality_filter="none")
        if answer.status_code == 200:
            [face] = answer.json()["faces"]
            found[picture] = [(one["subject"], one["similarity"]) for one in face["candidates"]]
    return found


def _assert_alike(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    assert len(before) > 8
    for name, found in before.items():
        pairs = [found] if isinstance(found, tuple) else found
        others = [after[name]] if isinstance(found, tuple) else after[name]
        assert [word for word, _ in pairs] == [word for word, _ in others], name
        np.testing.assert_allclose([one for _, one in pairs], [one for _, one in others], atol=1e-6)


def _sent(edge: Edge) -> NDArray[np.float32]:
    """The last template that went to the cloud."""
    body = json.loads(edge.transport.requests[-1].content)
    envelope = body["probe"] if "probe" in body else body["templates"][0]["template"]
    return np.frombuffer(base64.b64decode(envelope["data"]), dtype="<f4")


@pytest.mark.parametrize(
    "verify_only",
    [False, pytest.param(True, marks=pytest.mark.slow(reason="every sample picture against everybody, a second time"))],
)
def test_every_score_and_decision_on_the_sample_pictures_stays_what_it_was(edge: Edge, verify_only: bool) -> None:
    gallery = f"same-{verify_only}"
    _made(edge, gallery, verify_only=verify_only)
    before, old = _scores(edge, gallery), _seal(edge, gallery)
    assert {"match", "no_match"} <= {one[0] for one in before.values() if isinstance(one, tuple)}
    for _ in range(2):
        done = _rekeyed(edge, gallery)
        now = _seal(edge, gallery)
        assert done["contract"]["seal"] == now.model_dump(mode="json")
        assert (now.key_id != old.key_id, now.scope, now.seeds) == (True, old.scope, old.seeds or old.epoch)
        _assert_alike(before, _scores(edge, gallery))
        assert edge.held(gallery) == (2, 2)
        old = now


def test_an_old_template_and_the_old_key_are_of_no_use_any_more(edge: Edge) -> None:
    _made(edge, "stolen")
    edge.verify("stolen", "obama", sample(SPEECH))
    stolen, old = _sent(edge), _seal(edge, "stolen")
    _rekeyed(edge, "stolen")
    edge.verify("stolen", "obama", sample(SPEECH))
    now = _sent(edge)
    assert abs(float(stolen @ now)) < 0.5, "not linked as it stands"
    key = KeyStore(edge.settings.home).gallery("stolen")
    opened = now @ seal_matrix(key.of(old), 128)
    truly = now @ seal_matrix(key.of(_seal(edge, "stolen")), 128)
    assert abs(float(opened @ truly)) < 0.5, "the old key does not open it"
    assert float((stolen @ seal_matrix(key.of(old), 128)) @ truly) > 0.999, "though it is the same template"


def test_a_face_that_is_sent_again_is_stored_once_though_the_key_was_changed(edge: Edge) -> None:
    edge.make("again")
    rows = np.random.default_rng(3).standard_normal((2, 128)).tolist()
    body = {"embeddings": [{"values": row, "face": f"badge {at}"} for at, row in enumerate(rows)]}
    path = "/v1/galleries/again/subjects/ada/embeddings"
    first = edge.call("POST", path, json=body)
    assert first.status_code == 201, first.text
    _rekeyed(edge, "again")
    second = edge.call("POST", path, json=body)
    known = [face | {"stored": "before"} for face in first.json()["faces"]]
    assert (second.status_code, second.json()["faces"]) == (201, known)
    assert edge.held("again") == (1, 2)


def test_another_edge_with_the_key_goes_on_by_itself(pair: Pair, edge: Edge) -> None:
    _made(edge, "two")
    other = pair.edge("second")
    KeyStore(other.settings.home).put(KeyStore(edge.settings.home).gallery("two"))
    assert other.verify("two", "obama", sample(SPEECH)).json()["decision"] == "match"
    _rekeyed(edge, "two")
    before = len(other.transport.requests)
    assert other.verify("two", "obama", sample(SPEECH)).json()["decision"] == "match"
    assert [request.method for request in other.transport.requests[before:]] == ["POST", "GET", "POST"], (
        "refused, contract fetched, sent again"
    )
    _rekeyed(other, "two")
    assert edge.verify("two", "biden", sample(BIDEN)).json()["decision"] == "match"


def test_an_edge_without_the_key_cannot_change_it(pair: Pair, edge: Edge) -> None:
    _made(edge, "ours")
    stranger = pair.edge("stranger")
    assert_problem(stranger.call("POST", "/v1/galleries/ours/rekey"), 409, "contract-mismatch")
    assert_problem(stranger.call("POST", "/v1/galleries/nowhere/rekey"), 404, "not-found")
    assert _seal(edge, "ours").seeds is None


def test_a_gallery_without_a_seal_has_no_key_to_change(pair: Pair) -> None:
    plain = pair.edge("unsealed", profile="plugin")
    plain.make("open")
    assert_problem(plain.call("POST", "/v1/galleries/open/rekey"), 409, "conflict", "not_sealed")


async def _cut(transport: CloudTransport, request: httpx.Request) -> httpx.Response:
    """The cloud gets it, and the edge is gone before the answer."""
    answer = await transport.deliver(request)
    await answer.aread()
    return httpx.Response(500)


def test_an_edge_that_was_stopped_finds_out_what_became_of_it(pair: Pair, edge: Edge) -> None:
    _made(edge, "cut")
    old = _seal(edge, "cut")
    # The status, the beginning, and what the cloud asked for then: the names under the next key.
    edge.transport.faults.extend([CloudTransport.deliver, CloudTransport.deliver, _cut])
    answer = edge.call("POST", "/v1/galleries/cut/rekey")
    assert answer.status_code == 502, answer.text
    for again in (edge, pair.edge("edge")):  # the one that was cut off, and one that was restarted
        assert again.verify("cut", "obama", sample(SPEECH)).json()["decision"] == "match"
    now = _seal(edge, "cut")
    assert now.epoch != old.epoch, "it was done all the same"
    assert _rekeyed(edge, "cut", epoch=now.epoch)["contract"]["seal"] == now.model_dump(mode="json"), "and once only"


def test_what_was_begun_is_gone_on_with_under_the_same_name_or_abandoned(edge: Edge, pair: Pair) -> None:
    # A verify-only gallery's cloud says first whose matrices it needs: there is something begun that has no end yet.
    _made(edge, "begun", verify_only=True)

    async def away(_transport: CloudTransport, _request: httpx.Request) -> httpx.Response:
        return httpx.Response(500)

    edge.transport.faults.extend([CloudTransport.deliver, CloudTransport.deliver, away])
    assert edge.call("POST", "/v1/galleries/begun/rekey").status_code == 502
    reply = edge.call("GET", "/v1/galleries/begun/rekey")
    assert reply.status_code == 202
    assert (reply.json()["state"], reply.json()["left"], reply.json()["working"]) == ("staging", 2, False)
    assert "subjects" not in reply.json(), "what the edge has to send next is no caller's business"
    assert edge.verify("begun", "obama", sample(SPEECH)).json()["decision"] == "match"
    done = _rekeyed(edge, "begun")
    assert done["contract"] == reply.json()["next_contract"]

    edge.transport.faults.extend([CloudTransport.deliver, CloudTransport.deliver, away])
    assert edge.call("POST", "/v1/galleries/begun/rekey").status_code == 502
    given_up = edge.call("DELETE", "/v1/galleries/begun/rekey")
    assert (given_up.status_code, given_up.json()["next_contract"]) == (200, None)
    assert given_up.json()["contract"] == done["contract"]
    assert edge.verify("begun", "obama", sample(SPEECH)).json()["decision"] == "match"


def test_after_a_theft_of_the_master_key_every_gallery_goes_on_under_a_new_one(pair: Pair) -> None:
    robbed = pair.edge("robbed")
    for gallery, one_by_one in (("door", False), ("ward", True)):
        _made(robbed, gallery, verify_only=one_by_one)
    stolen = pair.folder / "loot"
    shutil.copytree(robbed.settings.home, stolen)
    KeyStore(robbed.settings.home).renew()
    too_early = robbed.call("POST", "/v1/galleries/door/rekey", json={})
    assert (too_early.status_code, "restart the edge first" in too_early.json()["detail"]) == (409, True)
    after = pair.edge("robbed")
    for gallery in ("door", "ward"):
        assert after.verify(gallery, "obama", sample(SPEECH)).json()["decision"] == "match", "under the old key"
        old = _seal(after, gallery)
        _rekeyed(after, gallery)
        assert _seal(after, gallery).seeds is None
        for subject, picture in PEOPLE.items():
            assert after.verify(gallery, subject, sample(picture)).json()["decision"] == "match"
        assert after.verify(gallery, "biden", sample(SPEECH)).json()["decision"] == "no_match"
        loot = KeyStore(stolen).gallery(gallery)
        assert loot.of(old).key_id() == old.key_id, "the thief has the old one"
        assert KeyStore(stolen).named_by(gallery, _seal(after, gallery)) is None, "and not the new one"
    keys = KeyStore(after.settings.home)
    assert keys.has_old_keys()
    keys.forget()
    last = pair.edge("robbed")
    assert last.verify("door", "obama", sample(SPEECH)).json()["decision"] == "match"
    assert not KeyStore(last.settings.home).has_old_keys()
