"""What the edge shows as sent is what crossed the line to the cloud, byte for byte but for the key."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from shared.security.secret_files import read_secret
from tests.support.servers import PICTURES, RunningPair

GALLERY = "/v1/galleries/shown"
SUBJECT = f"{GALLERY}/subjects/J%C3%BCrgen%20%F0%9F%98%80"
RECORD = {"X-Patronus-Record": "1"}


@pytest.fixture(scope="module")
def gallery(pair: RunningPair) -> str:
    pair.edge.put(GALLERY).raise_for_status()
    pair.edge.post(f"{SUBJECT}/faces", files={"image": picture("portrait")}).raise_for_status()
    return GALLERY


def picture(name: str) -> bytes:
    return (PICTURES / "obama" / f"{name}.jpg").read_bytes()


def on_the_line(request: dict[str, Any], key: bytes) -> bytes:
    """A shown request as it is on the line, with the key in its place."""
    head = "".join(f"{name}: {value}\r\n" for name, value in request["headers"])
    shown = f"{request['method']} {request['target']} HTTP/1.1\r\n{head}\r\n{request['body'] or ''}".encode()
    assert shown.count("Bearer …".encode()) == 1
    return shown.replace("Bearer …".encode(), b"Bearer " + key)


@pytest.mark.parametrize("what", [f"{SUBJECT}/verify", f"{GALLERY}/identify?top_k=3", f"{SUBJECT}/faces"])
def test_the_shown_requests_are_the_bytes_on_the_line_and_all_of_them(
    pair: RunningPair, gallery: str, what: str
) -> None:
    key = read_secret(pair.home / "cloud" / "api_key").strip()
    before = len(pair.relay.to_cloud)
    answer = pair.edge.post(what, files={"image": picture("speech")}, headers=RECORD)
    answer.raise_for_status()
    crossed = bytes(pair.relay.to_cloud[before:])
    sent = pair.edge.get(f"/v1/sent/{answer.headers['X-Request-ID']}").json()
    assert b"".join(on_the_line(request, key) for request in sent["requests"]) == crossed
    assert key not in str(sent).encode()
    assert len(sent["requests"]) == len(re.findall(rb"(?:POST|GET|PUT) /v1/", crossed)) > 0
    assert len(re.findall(rb'"data":"', crossed)) == sum(len(one["decoded"]["templates"]) for one in sent["requests"])
    for request in sent["requests"]:
        assert request["body_bytes"] == len((request["body"] or "").encode())
        assert request["answered"] == 200 or request["answered"] == 201


def test_while_the_cloud_is_away_each_try_is_shown(pair: RunningPair, gallery: str) -> None:
    pair.edge.post(f"{SUBJECT}/verify", files={"image": picture("speech")}).raise_for_status()
    pair.processes.stop_one("cloud")
    try:
        answer = pair.edge.post(f"{SUBJECT}/verify", files={"image": picture("speech")}, headers=RECORD)
        assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
        requests = pair.edge.get(f"/v1/sent/{answer.headers['X-Request-ID']}").json()["requests"]
    finally:
        pair.start_cloud()
    assert [request["answered"] for request in requests] == [None] * 3
    assert len({(request["target"], request["body"]) for request in requests}) == 1
    assert requests[0]["decoded"]["subject"] == "Jürgen 😀"
