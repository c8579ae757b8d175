"""A wrong request is answered with a problem that says how to correct it, and nothing is stored."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from cloud_service.settings import BodySettings, Settings
from tests.support.cloud_client import DIM, Cloud, assert_problem, contract_of, enveloped, random_units

VECTOR = random_units(3, 1)[0]
ENROLL = "/v1/galleries/door/subjects/anna/templates"
VERIFY = "/v1/galleries/door/subjects/known/verify"
IDENTIFY = "/v1/galleries/door/identify"


def _changed(index: int, value: float) -> np.ndarray:
    changed = VECTOR.copy()
    changed[index] = value
    return changed


BAD_TEMPLATES: dict[str, tuple[dict[str, Any], int, str]] = {
    "nan": (enveloped(_changed(0, np.nan)), 422, "invalid-template"),
    "infinite": (enveloped(_changed(0, np.inf)), 422, "invalid-template"),
    "not unit": (enveloped(VECTOR * np.float32(1.001)), 422, "invalid-template"),
    "zero": (enveloped(VECTOR * np.float32(0)), 422, "invalid-template"),
    "wrong dim": (enveloped(random_units(1, 1, DIM * 2)[0], contract_of()), 422, "invalid-template"),
    "dim and data differ": (enveloped(VECTOR, dim=DIM // 2), 422, "invalid-template"),
    "data too short": (enveloped(VECTOR, data=base64.b64encode(b"1234").decode()), 422, "invalid-template"),
    "not base64": (enveloped(VECTOR, data="*" * 44), 422, "invalid-template"),
    "foreign contract": (enveloped(VECTOR, contract_of(profile="b" * 64)), 409, "contract-mismatch"),
    "contract no digest": ({**enveloped(VECTOR), "contract": "short"}, 422, "unprocessable"),
    "unknown version": (enveloped(VECTOR, version=2), 422, "unprocessable"),
    "true for version": (enveloped(VECTOR, version=True), 422, "unprocessable"),
    "true for dim": (enveloped(VECTOR, dim=True), 422, "unprocessable"),
    "other dtype": (enveloped(VECTOR, dtype="float64"), 422, "unprocessable"),
    "unknown member": (enveloped(VECTOR, picture="..."), 422, "unprocessable"),
    "dim as text": (enveloped(VECTOR, dim=str(DIM)), 422, "unprocessable"),
    "data as numbers": (enveloped(VECTOR, data=[0.5]), 422, "unprocessable"),
    "a picture instead": ({"image": "/9j/4AAQ"}, 422, "unprocessable"),
}


@pytest.mark.parametrize("name", BAD_TEMPLATES)
def test_a_bad_template_is_refused_everywhere_and_never_stored(client: Cloud, name: str) -> None:
    bad, status, kind = BAD_TEMPLATES[name]
    client.enroll("known", [VECTOR])
    for path, body in (
        (ENROLL, {"templates": [{"id": "0" * 32, "template": bad}]}),
        (VERIFY, {"probe": bad}),
        (IDENTIFY, {"probes": [enveloped(VECTOR), bad]}),
    ):
        problem = assert_problem(client.http.post(path, json=body), status, kind)
        if kind == "contract-mismatch":
            assert (problem["expected"], problem["given"]) == (contract_of().digest(), bad["contract"])
    assert client.held() == (1, 1)


def test_a_refusal_does_not_repeat_the_values_it_refuses(client: Cloud) -> None:
    bad = enveloped(VECTOR, dim=[1])
    answer = client.http.post(VERIFY, json={"probe": bad})
    assert bad["data"][:16] not in answer.text


_GOOD = {"id": "0" * 32, "template": enveloped(VECTOR)}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (ENROLL, {"templates": []}),
        (ENROLL, {"templates": [_GOOD] * 101}),
        (ENROLL, {"templates": [{**_GOOD, "id": "0" * 31}]}),
        (ENROLL, {"templates": [{**_GOOD, "id": "G" * 32}]}),
        (ENROLL, {"templates": [{**_GOOD, "note": "x"}]}),
        (ENROLL, {"templates": _GOOD}),
        (ENROLL, {}),
        (ENROLL, []),
        (ENROLL, None),
        (IDENTIFY, {"probes": []}),
        (IDENTIFY, {"probes": [enveloped(VECTOR)] * 65}),
        (IDENTIFY, {"probes": [enveloped(VECTOR)], "top_k": 0}),
        (IDENTIFY, {"probes": [enveloped(VECTOR)], "top_k": 101}),
        (IDENTIFY, {"probes": [enveloped(VECTOR)], "top_k": "5"}),
        (IDENTIFY, {"probes": [enveloped(VECTOR)], "top_k": True}),
        (IDENTIFY, {"probes": [enveloped(VECTOR)], "tau": 0.1}),
        (VERIFY, {"probe": None}),
    ],
)
def test_a_body_of_another_form_is_refused(client: Cloud, path: str, body: Any) -> None:
    assert_problem(client.http.post(path, json=body), 422, "unprocessable", "invalid_request")
    assert client.held() == (0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": {"cosine": 0, "fmr": 0.1}},
        {"threshold": {"cosine": 1, "fmr": 0.1}},
        {"threshold": {"cosine": "0.5", "fmr": 0.1}},
        {"threshold": {"cosine": 0.5, "fmr": 1.1}},
        {"threshold": {"cosine": 1e-320, "fmr": 0.1}},
        {"threshold": {"cosine": 0.5}},
        {"contract": {"dim": 8}},
        {"contract": {**contract_of().model_dump(mode="json"), "dim": 1}},
        {"contract": {**contract_of().model_dump(mode="json"), "dim": 4097}},
        {"contract": {**contract_of().model_dump(mode="json"), "metric": "l2"}},
        {"owner": "me"},
    ],
)
def test_a_wrong_gallery_specification_is_refused(cloud: Cloud, change: dict[str, Any]) -> None:
    spec = {"contract": contract_of().model_dump(mode="json"), "threshold": {"cosine": 0.5, "fmr": 0.1}, **change}
    body = json.dumps(spec)  # httpx refuses to send NaN, which is what one of these is about
    answer = cloud.http.put("/v1/galleries/door", content=body, headers={"Content-Type": "application/json"})
    assert_problem(answer, 422, "unprocessable", "invalid_request")
    assert cloud.http.get("/v1/galleries").json()["items"] == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"templates": [NaN', b"picture"])
def test_what_is_not_json_is_refused(client: Cloud, content: bytes) -> None:
    answer = client.http.post(ENROLL, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in {400, 422}
    assert_problem(answer, answer.status_code, "unprocessable" if answer.status_code == 422 else "bad-request")
    assert client.held() == (0, 0)


def test_a_picture_is_refused(client: Cloud) -> None:
    answer = client.http.post(ENROLL, files={"image": ("face.jpg", b"\xff\xd8\xff", "image/jpeg")})
    assert_problem(answer, 422, "unprocessable", "invalid_request")


@pytest.mark.parametrize("name", ["-x", ".x", "a" * 65, "a%20b", "a%0A", "caf%C3%A9", "a@b", "a%00"])
def test_a_bad_gallery_name_is_refused(cloud: Cloud, name: str) -> None:
    assert_problem(cloud.put_gallery(name), 422, "unprocessable", "invalid_request")
    assert_problem(cloud.identify(VECTOR, gallery=name), 422, "unprocessable", "invalid_request")
    assert_problem(cloud.http.delete(f"/v1/galleries/{name}"), 422, "unprocessable", "invalid_request")
    assert cloud.http.get("/v1/galleries").json()["items"] == []


@pytest.mark.parametrize("name", ["-x", "a" * 129, "a%20b", "a%0A", "a:b"])
def test_a_bad_subject_name_is_refused(client: Cloud, name: str) -> None:
    assert_problem(client.enroll(name, [VECTOR]), 422, "unprocessable", "invalid_request")
    assert_problem(client.verify(name, VECTOR), 422, "unprocessable", "invalid_request")
    assert client.held() == (0, 0)


def test_a_bad_template_id_in_the_path_is_refused(client: Cloud) -> None:
    assert_problem(client.http.delete(f"{ENROLL}/1"), 422, "unprocessable", "invalid_request")


def test_enrolling_in_an_unknown_gallery_is_not_found(cloud: Cloud) -> None:
    assert_problem(cloud.enroll("anna", [VECTOR]), 404, "not-found", "unknown_gallery")
    assert_problem(cloud.http.get("/v1/galleries/door/names"), 404, "not-found", "unknown_gallery")
    assert_problem(cloud.http.get("/v1/galleries/door/subjects/anna"), 404, "not-found", "unknown_gallery")


def test_an_unknown_path_or_method_is_a_problem_too(cloud: Cloud) -> None:
    assert_problem(cloud.http.get("/v1/nothing"), 404, "not-found")
    assert_problem(cloud.http.post("/v1/galleries"), 405, "method-not-allowed")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_body_over_the_limit_is_cut_off(settings: Settings, streamed: bool) -> None:
    small = settings.model_copy(update={"body": BodySettings(max_bytes=4096)})
    body = json.dumps({"templates": [{"id": f"{n:032x}", "template": enveloped(VECTOR)} for n in range(30)]}).encode()
    assert len(body) > 4096

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 512):
            yield body[start : start + 512]

    with Cloud(small) as cloud:
        cloud.put_gallery()
        answer = cloud.http.post(
            ENROLL, content=chunks() if streamed else body, headers={"Content-Type": "application/json"}
        )
        assert ("content-length" in answer.request.headers) is not streamed
        problem = assert_problem(answer, 413, "too-large")
        assert problem["limit_bytes"] == 4096
        assert cloud.held() == (0, 0)


def test_the_request_id_of_the_caller_is_echoed_and_a_wild_one_replaced(client: Cloud) -> None:
    given = client.http.get("/v1/info", headers={"X-Request-ID": "edge-7.42"})
    assert given.headers["X-Request-ID"] == "edge-7.42"
    refused = client.http.get("/v1/galleries/nowhere", headers={"X-Request-ID": "edge-7.43"})
    assert assert_problem(refused, 404, "not-found")["request_id"] == "edge-7.43"
    wild = client.http.get("/v1/info", headers={"X-Request-ID": "a b<script>"})
    assert wild.headers["X-Request-ID"] not in {"", "a b<script>"}
