"""Verify-only galleries: each subject has a seal of its own, and templates of two subjects cannot be compared."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_service.gallery_contexts import GalleryContext
from edge_service.protection.keys import KeyStore
from edge_service.protection.seal import seal_matrix
from shared.contract import Contract
from shared.errors import ProtectionFailed
from tests.support.cloud_client import assert_problem
from tests.support.edge import CloudTransport, Edge, Pair, sample

GALLERY = "/v1/galleries/clinic"
OBAMA, SPEECH, BIDEN = "obama/portrait.jpg", "obama/speech.jpg", "biden/standing.jpg"


@pytest.fixture(scope="module")
def pair(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Pair(tmp_path_factory.mktemp("pair")) as opened:
        yield opened


@pytest.fixture(scope="module")
def edge(pair: Pair) -> Edge:
    """An edge with the verify-only gallery ``clinic``, in which two people are enrolled."""
    found = pair.edge()
    answer = found.call("PUT", GALLERY, json={"verify_only": True})
    assert answer.status_code == 201, answer.text
    assert answer.json()["contract"]["seal"]["scope"] == "subject"
    for subject, picture in (("obama", OBAMA), ("biden", BIDEN)):
        assert found.enroll("clinic", subject, sample(picture)).status_code == 201
    return found


def _sent(edge: Edge) -> NDArray[np.float32]:
    """The last template that went to the cloud."""
    body = json.loads(edge.transport.requests[-1].content)
    envelope = body["probe"] if "probe" in body else body["templates"][0]["template"]
    return np.frombuffer(base64.b64decode(envelope["data"]), dtype="<f4")


def test_every_answer_about_a_gallery_says_whether_it_is_verify_only(edge: Edge) -> None:
    edge.make("open")
    for name, expected in (("clinic", True), ("open", False)):
        at = f"/v1/galleries/{name}"
        assert edge.call("GET", at).json()["verify_only"] is expected
        assert edge.call("PUT", at, json={}).json()["verify_only"] is expected
        assert edge.call("PUT", f"{at}/retention", json={"max_age_seconds": 86_400}).json()["verify_only"] is expected
        assert edge.call("DELETE", f"{at}/retention").json()["verify_only"] is expected
    listed = {one["gallery"]: one["verify_only"] for one in edge.call("GET", "/v1/galleries").json()["items"]}
    assert (listed["clinic"], listed["open"]) == (True, False)


def test_people_are_verified_and_strangers_are_not(edge: Edge) -> None:
    assert edge.verify("clinic", "obama", sample(SPEECH)).json()["decision"] == "match"
    assert edge.verify("clinic", "biden", sample(SPEECH)).json()["decision"] == "no_match"


def test_scores_are_those_of_a_gallery_with_one_seal(edge: Edge) -> None:
    edge.make("plain")
    edge.enroll("plain", "obama", sample(OBAMA))
    both = [edge.verify(name, "obama", sample(SPEECH)).json()["similarity"] for name in ("clinic", "plain")]
    # The keyed part of the perturbation differs; it was calibrated to leave scores where they are.
    assert both[0] == pytest.approx(both[1], abs=0.05)


def test_nobody_is_identified(edge: Edge) -> None:
    before = len(edge.transport.requests)
    assert_problem(edge.identify("clinic", sample(SPEECH)), 409, "conflict", "verify_only")
    assert not [request for request in edge.transport.requests[before:] if request.method == "POST"]


def test_and_the_cloud_refuses_it_too(edge: Edge, pair: Pair) -> None:
    edge.verify("clinic", "obama", sample(SPEECH))
    sent = edge.transport.requests[-1]
    body = {"probes": [json.loads(sent.content)["probe"]], "top_k": 1}

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(pair.cloud, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://cloud") as client:
            return await client.post(
                "/v1/galleries/clinic/identify", json=body, headers={"Authorization": sent.headers["Authorization"]}
            )

    assert_problem(pair.portal.call(ask), 409, "conflict", "verify_only")


def test_one_embedding_is_another_template_for_each_subject_under_the_key_of_each(edge: Edge) -> None:
    key = (
        KeyStore(edge.settings.home)
        .gallery("clinic")
        .epoch(edge.call("GET", GALLERY).json()["contract"]["seal"]["epoch"], "subject")
    )
    made = {}
    for subject in ("obama", "biden"):
        edge.verify("clinic", subject, sample(SPEECH))
        made[subject] = _sent(edge)
    assert abs(float(made["obama"] @ made["biden"])) < 0.5
    plain = {name: row @ seal_matrix(key.of_subject(name), 128) for name, row in made.items()}
    assert float(plain["obama"] @ plain["biden"]) > 0.9
    whole = {name: row @ seal_matrix(key, 128) for name, row in made.items()}
    assert abs(float(whole["obama"] @ plain["obama"])) < 0.5


def test_a_template_moved_to_another_subject_matches_nobody(edge: Edge) -> None:
    """Whoever can write the cloud's record cannot make one subject pass for another."""
    edge.verify("clinic", "obama", sample(OBAMA))
    probe = _sent(edge)
    edge.enroll("clinic", "obama-again", sample(OBAMA))
    moved = _sent(edge)
    assert float(probe @ moved) < 0.384


def test_a_context_without_a_subject_makes_no_template(edge: Edge) -> None:
    found: GalleryContext = edge.pair.portal.call(edge.app.state.services.galleries.context, "clinic")
    protector, context = found.protector, found.protection
    rows = np.eye(1, 128, dtype=np.float32)
    with pytest.raises(ProtectionFailed, match="needs a key"):
        protector.protect(rows, context)
    assert len(protector.protect(rows, context.for_subject("ada")).envelopes) == 1


def test_embeddings_of_other_systems_name_their_subject(edge: Edge) -> None:
    rows = np.eye(2, 128).tolist()
    call = ("POST", "/v1/protect")
    assert_problem(
        edge.call(*call, json={"embeddings": rows}, params={"gallery": "clinic"}), 422, "unprocessable", "no_subject"
    )
    made = {
        subject: edge.call(*call, json={"embeddings": rows}, params={"gallery": "clinic", "subject": subject})
        for subject in ("ada", "bob")
    }
    assert {answer.status_code for answer in made.values()} == {200}
    assert made["ada"].json()["templates"] != made["bob"].json()["templates"]
    assert (
        edge.call(*call, json={"embeddings": rows}, params={"gallery": "clinic", "subject": "a/b"}).status_code == 422
    )
    edge.make("lobby")
    named = edge.call(*call, json={"embeddings": rows}, params={"gallery": "lobby", "subject": "ada"})
    assert_problem(named, 409, "conflict", "not_verify_only")
    homeless = edge.call(*call, json={"embeddings": rows}, params={"subject": "ada"})
    assert_problem(homeless, 422, "unprocessable", "no_gallery")


def test_making_it_again_changes_nothing_and_another_kind_is_refused(edge: Edge) -> None:
    for wanted in ({"verify_only": True}, {}, None):
        assert edge.call("PUT", GALLERY, json=wanted).status_code == 200
    assert (
        "is verify-only"
        in assert_problem(edge.call("PUT", GALLERY, json={"verify_only": False}), 409, "conflict")["detail"]
    )
    edge.make("both-ways")
    again = edge.call("PUT", "/v1/galleries/both-ways", json={"verify_only": True})
    assert "not verify-only" in assert_problem(again, 409, "conflict")["detail"]


def test_a_profile_that_does_not_seal_has_no_such_galleries(pair: Pair) -> None:
    edge = pair.edge("unsealed", profile="plugin")
    answer = edge.call("PUT", "/v1/galleries/unsealed", json={"verify_only": True})
    assert_problem(answer, 422, "unprocessable", "profile_does_not_seal")


@pytest.mark.parametrize(("gallery", "theirs"), [("clinic", "gallery"), ("flipped", "subject")])
def test_a_cloud_that_says_otherwise_of_what_is_sealed_alike_gets_no_template(
    edge: Edge, gallery: str, theirs: str
) -> None:
    """The scope is in the key, and so in the key's id, of which the cloud can make none."""
    if gallery == "flipped":
        edge.make(gallery)

    async def flipped(transport: CloudTransport, request: httpx.Request) -> httpx.Response:
        answer = await transport.deliver(request)
        await answer.aread()
        info = answer.json()
        assert info["contract"]["seal"]["scope"] != theirs
        info["contract"]["seal"]["scope"] = theirs
        info["contract_digest"] = Contract.model_validate(info["contract"]).digest()
        return httpx.Response(200, json=info)

    edge.app.state.services.galleries.forget(gallery)
    before = len(edge.transport.requests)
    edge.transport.faults.append(flipped)
    assert_problem(edge.verify(gallery, "obama", sample(SPEECH)), 409, "contract-mismatch")
    assert [request.method for request in edge.transport.requests[before:]] == ["GET"]


@pytest.mark.parametrize("said", ["yes", "true", 1, 0])
def test_the_wish_is_true_or_false_and_nothing_like_it(edge: Edge, said: Any) -> None:
    assert edge.call("PUT", "/v1/galleries/perhaps", json={"verify_only": said}).status_code == 422
    assert edge.call("GET", "/v1/galleries/perhaps").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "there"),
    [
        ("PUT", "/v1/galleries/perhaps?verify_only=true", "none"),
        ("GET", "/v1/galleries?limits=3", "after, limit"),
        ("POST", "/v1/galleries/clinic/identify?topk=3", "max_faces, quality_filter, top_k"),
    ],
)
def test_a_parameter_that_is_not_known_is_not_passed_over(edge: Edge, method: str, path: str, there: str) -> None:
    said = assert_problem(edge.call(method, path), 400, "bad-request")["detail"]
    assert said.endswith(f"there are: {there}.")
    assert edge.call("GET", "/v1/galleries/perhaps").status_code == 404
    assert edge.call("GET", "/metrics?any=thing").status_code == 200


def test_a_second_edge_with_the_key_serves_it_too(pair: Pair, edge: Edge) -> None:
    other = pair.edge("second")
    answer = other.verify("clinic", "obama", sample(SPEECH))
    assert_problem(answer, 409, "contract-mismatch")
    KeyStore(other.settings.home).put(KeyStore(edge.settings.home).gallery("clinic"))
    third = pair.edge("second")
    assert third.verify("clinic", "obama", sample(SPEECH)).json()["decision"] == "match"
