"""A pair recognizes an enrolled person in another picture, and no stranger; nothing is lost, nothing erased returns."""

from __future__ import annotations

import socket
import uuid

import numpy as np
import pytest

from edge_service.protection.keys import KeyStore
from edge_service.protection.names import SealedNames
from shared.envelope import TemplateEnvelope
from tests.support.servers import RunningPair

Pictures = dict[str, bytes]
STAFF = "/v1/galleries/staff"


@pytest.fixture(scope="module", autouse=True)
def _gallery(pair: RunningPair) -> None:
    assert pair.edge.put(STAFF).status_code == 201


def _enroll(pair: RunningPair, subject: str, *pictures: bytes) -> dict[str, object]:
    files = [("image", (f"{number}.jpg", data)) for number, data in enumerate(pictures)]
    answer = pair.edge.post(f"{STAFF}/subjects/{subject}/faces", files=files)
    assert answer.status_code == 201, answer.text
    body: dict[str, object] = answer.json()
    return body


def _verify(pair: RunningPair, subject: str, picture: bytes) -> str:
    answer = pair.edge.post(f"{STAFF}/subjects/{subject}/verify", files={"image": picture})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["decision"])


def _identify(pair: RunningPair, picture: bytes) -> dict[str, object]:
    answer = pair.edge.post(f"{STAFF}/identify", files={"image": picture})
    assert answer.status_code == 200, answer.text
    [face] = answer.json()["faces"]
    found: dict[str, object] = face
    return found


def test_another_picture_of_an_enrolled_person_verifies_and_a_stranger_does_not(
    pair: RunningPair, picture: Pictures
) -> None:
    _enroll(pair, "obama", picture["obama/portrait"])

    assert _verify(pair, "obama", picture["obama/speech"]) == "match"
    assert _verify(pair, "obama", picture["obama/standing"]) == "match"
    assert _verify(pair, "obama", picture["biden/standing"]) == "no_match"
    assert _verify(pair, "obama", picture["collins/portrait"]) == "no_match"


def test_the_right_subject_is_found_among_many(pair: RunningPair, picture: Pictures) -> None:
    _enroll(pair, "obama", picture["obama/portrait"])
    _enroll(pair, "biden", picture["biden/standing"])
    staff = pair.edge.get(STAFF).json()
    key = KeyStore(pair.home / "edge").gallery("staff")
    names, digest = SealedNames(key.epoch(staff["contract"]["seal"]["epoch"])), staff["contract_digest"]
    random = np.random.default_rng(7)
    for number in range(100):
        vector = random.normal(size=128)
        template = TemplateEnvelope.pack((vector / np.linalg.norm(vector)).astype(np.float32), digest)
        body = {"templates": [{"id": uuid.uuid4().hex, "template": template.model_dump()}]}
        pair.cloud.post(
            f"{STAFF}/subjects/{names.stored(f'stranger {number}')}/templates", json=body
        ).raise_for_status()

    found = _identify(pair, picture["obama/speech"])
    assert found["decision"] == "match"
    assert [one["subject"] for one in found["candidates"]] == ["obama"]  # type: ignore[attr-defined]
    assert _identify(pair, picture["collins/portrait"]) | {"box": 0, "quality": 0} == {
        "box": 0,
        "quality": 0,
        "decision": "unknown",
        "candidates": [],
    }


def test_acknowledged_changes_survive_a_restart_of_the_cloud(pair: RunningPair, picture: Pictures) -> None:
    _enroll(pair, "obama", picture["obama/portrait"])
    _enroll(pair, "collins", picture["collins/portrait"])
    pair.edge.delete(f"{STAFF}/subjects/collins").raise_for_status()

    pair.restart_cloud()

    assert _verify(pair, "obama", picture["obama/speech"]) == "match"
    assert (
        pair.edge.post(f"{STAFF}/subjects/collins/verify", files={"image": picture["obama/speech"]}).status_code == 404
    )


def test_the_edge_reports_that_the_cloud_is_away_and_recovers(pair: RunningPair, picture: Pictures) -> None:
    _enroll(pair, "obama", picture["obama/portrait"])
    pair.processes.stop_one("cloud")
    try:
        answer = pair.edge.post(f"{STAFF}/subjects/obama/verify", files={"image": picture["obama/speech"]})
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert pair.edge.get("/readyz").status_code == 503
        assert pair.edge.get("/healthz").status_code == 200
    finally:
        pair.start_cloud()
    assert _verify(pair, "obama", picture["obama/speech"]) == "match"


def test_an_erased_subject_is_not_found_again(pair: RunningPair, picture: Pictures) -> None:
    _enroll(pair, "leaving", picture["collins/portrait"], picture["collins/portrait"])
    assert _identify(pair, picture["collins/portrait"])["decision"] == "match"

    erased = pair.edge.delete(f"{STAFF}/subjects/leaving").json()
    assert (erased["subjects"], erased["templates"], erased["pending"]) == (1, 1, []), "one picture, sent twice"

    assert _identify(pair, picture["collins/portrait"])["decision"] == "unknown"
    assert pair.edge.delete(f"{STAFF}/subjects/leaving").status_code == 404


@pytest.mark.slow(reason="waits for the 10 s of the limit; tests/shared/http/test_connections.py has a shorter one")
def test_a_silent_connection_is_closed(pair: RunningPair) -> None:
    address = (pair.edge.base_url.host, pair.edge.base_url.port)
    with socket.create_connection(address) as silent, socket.create_connection(address) as slow:
        slow.sendall(b"GET /healthz HTT")
        for line in (silent, slow):
            line.settimeout(20)
            assert line.recv(100) == b""
    assert pair.edge.get("/healthz").status_code == 200
