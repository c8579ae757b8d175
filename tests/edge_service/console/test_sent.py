"""What left for one request, for the key that asked for it, for a minute; numbers only for keys with manage."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from edge_service.cloud import recorder
from shared.envelope import TemplateEnvelope
from shared.security.credentials import Scope
from tests.support.cloud_client import assert_problem
from tests.support.edge import CloudTransport, Edge, encoded, sample

PORTRAIT, SPEECH = sample("obama/portrait.jpg"), sample("obama/speech.jpg")
NOBODY = encoded(np.full((200, 200, 3), 128, np.uint8))
NAME = "<img src=x onerror=alert(1)> \u202e\u0645\u0631\u062d\u0628\u0627"


@pytest.fixture(scope="module")
def door(session_edge: Edge) -> Iterator[Edge]:
    session_edge.transport.reset()
    session_edge.make("door")
    assert session_edge.enroll("door", NAME, PORTRAIT).status_code == 201
    yield session_edge
    session_edge.transport.reset()
    session_edge.call("DELETE", "/v1/galleries/door")


def verified(edge: Edge, picture: bytes = SPEECH, name: str | None = None, **headers: str) -> httpx.Response:
    if name is not None:
        headers["X-Request-ID"] = name
    path = f"/v1/galleries/door/subjects/{NAME}/verify"
    return edge.send(path, picture, headers={"X-Patronus-Record": "1", **headers})


def sent(edge: Edge, name: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    answer = edge.call("GET", f"/v1/sent/{name}", headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refused(edge: Edge, name: str, headers: dict[str, str] | None = None) -> None:
    assert_problem(edge.call("GET", f"/v1/sent/{name}", headers), 404, "not-found", "not_recorded")


def test_a_request_is_shown_as_it_left_and_decoded(door: Edge) -> None:
    door.transport.reset()
    answer = verified(door)
    [left] = [request for request in door.transport.requests if request.url.path.endswith("/verify")]
    found = sent(door, answer.headers["X-Request-ID"])
    assert found["request_id"] == answer.headers["X-Request-ID"]
    [request] = [one for one in found["requests"] if one["target"].endswith("/verify")]
    assert (request["method"], request["target"]) == ("POST", left.url.raw_path.decode())
    assert (request["body"], request["body_bytes"]) == (left.content.decode(), len(left.content))
    assert (request["answered"], request["withheld"]) == (200, False)
    shown = {one["name"]: one["value"] for one in request["headers"]}
    assert shown.pop("Authorization") == "Bearer …"
    assert shown.items() <= {name.decode(): value.decode() for name, value in left.headers.raw}.items()
    decoded = request["decoded"]
    assert (decoded["gallery"], decoded["subject"]) == ("door", NAME)
    assert f"/subjects/{decoded['sealed_subject']}/verify" in request["target"]
    envelope = TemplateEnvelope.model_validate_json(json.dumps(json.loads(left.content)["probe"]))
    assert decoded["contract"] == envelope.contract
    [template] = decoded["templates"]
    data = base64.b64decode(envelope.data)
    assert (template["dim"], template["bytes"]) == (128, 512)
    assert template["sha256"] == hashlib.sha256(data).hexdigest()
    assert np.array_equal(np.array(template["values"], np.float32), envelope.open())


@pytest.mark.parametrize("path", ["identify", f"subjects/{NAME}/faces"])
def test_identification_and_enrollment_are_recorded_too(door: Edge, path: str) -> None:
    headers = {"X-Patronus-Record": "1"}
    answer = door.send(f"/v1/galleries/door/{path}", SPEECH, headers=headers)
    assert answer.is_success, answer.text
    found = sent(door, answer.headers["X-Request-ID"])["requests"]
    assert [len(one["decoded"]["templates"]) for one in found if one["body"]] == [1] * len(
        [f for f in found if f["body"]]
    )


def test_without_the_header_nothing_is_kept_and_another_value_is_refused(door: Edge) -> None:
    plain = door.verify("door", NAME, SPEECH)
    assert plain.status_code == 200
    refused(door, plain.headers["X-Request-ID"])
    assert verified(door, **{"X-Patronus-Record": "yes"}).status_code == 422


def test_a_key_without_manage_sees_lengths_and_digests_in_place_of_the_numbers(door: Edge) -> None:
    key = door.key(Scope.MATCH, galleries=["door"])
    door.transport.reset()
    answer = verified(door, **key)
    numbers = json.loads(door.transport.requests[-1].content)["probe"]["data"]
    text = door.call("GET", f"/v1/sent/{answer.headers['X-Request-ID']}", key).text
    assert numbers not in text
    request = json.loads(text)["requests"][-1]
    digest = hashlib.sha256(base64.b64decode(numbers)).hexdigest()
    assert request["withheld"] is True
    assert json.loads(request["body"])["probe"]["data"] == f"… 512 bytes, SHA-256 {digest}"
    assert request["body_bytes"] == len(door.transport.requests[-1].content)
    assert request["decoded"]["templates"] == [{"dim": 128, "bytes": 512, "sha256": digest, "values": None}]
    assert request["decoded"]["subject"] == NAME


def test_another_key_does_not_see_it_whatever_it_may_do(door: Edge) -> None:
    name = verified(door, name="mine").headers["X-Request-ID"]
    refused(door, name, door.key(*Scope))
    assert sent(door, name)["requests"]


def test_two_keys_under_one_request_id_do_not_mix(door: Edge) -> None:
    other = door.key(Scope.MATCH)
    verified(door, name="same")
    verified(door, NOBODY, name="same", **other)
    assert len(sent(door, "same")["requests"]) > 0
    assert sent(door, "same", other)["requests"] == []


def test_of_two_requests_of_one_key_under_one_id_the_later_is_shown(door: Edge) -> None:
    verified(door, name="twice")
    assert sent(door, "twice")["requests"]
    verified(door, NOBODY, name="twice")
    assert sent(door, "twice")["requests"] == []


def test_requests_under_one_id_at_the_same_moment_do_not_mix(door: Edge) -> None:
    headers = door.headers | {"X-Patronus-Record": "1", "X-Request-ID": "at-once"}

    async def both() -> None:
        client = door._client
        files = {"image": ("p", SPEECH, "image/jpeg")}
        verify = f"/v1/galleries/door/subjects/{NAME}/verify"
        calls = [
            client.post(path, headers=headers, files=files) for path in (verify, "/v1/galleries/door/identify") * 3
        ]
        for answer in await asyncio.gather(*calls):
            assert answer.status_code == 200

    door.pair.portal.call(both)
    requests = sent(door, "at-once")["requests"]
    assert len([one for one in requests if one["decoded"]["templates"]]) == 1


def test_nothing_was_sent_for_a_picture_without_a_face(door: Edge) -> None:
    door.make_known("door")
    answer = verified(door, NOBODY)
    assert answer.status_code == 422
    assert sent(door, answer.headers["X-Request-ID"])["requests"] == []


def test_each_try_is_shown(door: Edge) -> None:
    async def cut(_transport: CloudTransport, request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("cut", request=request)

    async def busy(_transport: CloudTransport, _request: httpx.Request) -> httpx.Response:
        return httpx.Response(503, headers={"Retry-After": "1"})

    door.make_known("door")
    door.transport.faults.extend([cut, busy])
    answer = verified(door)
    assert answer.status_code == 200
    found = sent(door, answer.headers["X-Request-ID"])["requests"]
    assert [one["answered"] for one in found] == [None, 503, 200]
    assert len({(one["body"], str(one["headers"])) for one in found}) == 1


def test_what_was_sent_is_forgotten_and_overwritten_after_its_time(door: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_KEPT_SECONDS", 0.3)
    verified(door, name="short")
    kept = door.app.state.services.recorder
    [key_id] = {key for key, name in kept._kept if name == "short"}
    requests = list(kept.found(key_id, "short").requests)
    assert b"probe" in requests[-1].body
    time.sleep(0.6)
    assert kept.found(key_id, "short") is None
    assert not any(any(request.body) for request in requests)
    refused(door, "short")


def test_the_oldest_go_where_there_are_too_many(door: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_MOST_RECORDINGS", 2)
    for name in ("first", "second", "third"):
        verified(door, name=name)
    refused(door, "first")
    assert sent(door, "second")["requests"]
    assert sent(door, "third")["requests"]


def test_the_oldest_go_where_they_are_too_large_and_one_that_is_too_large_is_not_kept(
    door: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.app.state.services.recorder.close()
    door.make_known("door")
    verified(door, name="size")
    size = sum(one.size for one in next(iter(door.app.state.services.recorder._kept.values())).requests)
    monkeypatch.setattr(recorder, "_MOST_BYTES", size + size // 2)
    verified(door, name="next")
    refused(door, "size")
    assert sent(door, "next")["requests"]
    monkeypatch.setattr(recorder, "_MOST_BYTES", size // 2)
    assert verified(door, name="huge").status_code == 200
    refused(door, "huge")


def test_a_key_displaces_only_its_own_recordings(door: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_MOST_RECORDINGS", 3)
    greedy = door.key(Scope.MATCH, galleries=["door"])
    verified(door, name="mine")
    for number in range(5):
        assert verified(door, name=f"greedy{number}", **greedy).status_code == 200
    assert sent(door, "mine")["requests"]
    refused(door, "greedy1", greedy)
    assert sent(door, "greedy4", greedy)["requests"]


def test_a_request_for_which_nothing_was_sent_displaces_none_that_sent_something(
    door: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_MOST_RECORDINGS", 2)
    verified(door, name="sent")
    for number in range(4):
        assert verified(door, b"no picture", name=f"nothing{number}").status_code == 415
    assert sent(door, "sent")["requests"]
    assert sent(door, "nothing3")["requests"] == []
    refused(door, "nothing2")


@pytest.mark.parametrize("limit", ["_MOST_RECORDINGS_IN_ALL", "_MOST_BYTES_IN_ALL"])
def test_over_the_limits_of_all_keys_those_of_the_key_that_has_most_go_first(
    door: Edge, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    kept = door.app.state.services.recorder
    kept.close()
    door.make_known("door")
    greedy = door.key(Scope.MATCH, galleries=["door"])
    verified(door, name="mine")
    for number in range(6):
        verified(door, name=f"greedy{number}", **greedy)
    sizes = [recording.size for recording in kept._kept.values()]
    monkeypatch.setattr(recorder, limit, len(sizes) if "RECORDINGS" in limit else sum(sizes))
    verified(door, name="also-mine")
    assert sent(door, "mine")["requests"]
    assert sent(door, "also-mine")["requests"]
    refused(door, "greedy0", greedy)
    assert sent(door, "greedy5", greedy)["requests"]


@pytest.mark.parametrize("name", ["x" * 65, "a b", "%00", "..%2f..%2fkeys", "é", "a;b", "'--", "{request_id}"])
def test_a_hostile_id_is_refused(door: Edge, name: str) -> None:
    assert door.call("GET", f"/v1/sent/{name}").status_code in {404, 422}


def test_a_hostile_request_id_is_replaced_and_its_replacement_is_recorded(door: Edge) -> None:
    answer = verified(door, name="../../keys")
    assert answer.headers["X-Request-ID"] != "../../keys"
    assert sent(door, answer.headers["X-Request-ID"])["requests"]


def test_a_setting_turns_recording_off(door: Edge) -> None:
    off = door.pair.edge("records-nothing", record_sent=False)
    off.make("off")
    headers = {"X-Patronus-Record": "1", "X-Request-ID": "off"}
    assert off.send("/v1/galleries/off/identify", SPEECH, headers=headers).status_code == 200
    assert_problem(off.call("GET", "/v1/sent/off"), 403, "forbidden", "recording_off")
    assert off.app.state.services.recorder._kept == {}
    assert off.call("GET", "/v1/info").json()["console"]["recording"] is False
    off.call("DELETE", "/v1/galleries/off")


def test_a_name_is_known_after_the_gallerys_key_was_changed(door: Edge) -> None:
    answer = verified(door)
    assert door.call("POST", "/v1/galleries/door/rekey").status_code == 200
    [request] = sent(door, answer.headers["X-Request-ID"])["requests"][-1:]
    assert request["decoded"]["subject"] == NAME
