"""Pictures in base64 in a JSON body: the same answers and the same refusals as from a form, and one reading."""

from __future__ import annotations

import base64
import contextlib
import json
import time
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_service.settings import PictureLimits
from edge_service.uploads import pictures_in
from shared.errors import BadRequest, TooLarge, Unprocessable
from tests.support.cloud_client import assert_problem
from tests.support.edge import Edge, encoded, pixels, sample

OBAMA = [
    encoded(np.asarray(Image.fromarray(pixels(f"obama/{name}.jpg")).reduce(by)), "JPEG")
    for name, by in (("portrait", 3), ("speech", 2))
]
BIDEN = sample("biden/standing.jpg")
FACES, VERIFY = "/v1/galleries/door/subjects/collins/faces", "/v1/galleries/door/subjects/collins/verify"
IDENTIFY = "/v1/galleries/door/identify"
LIMITS = PictureLimits(max_bytes=1024)
MIB = 1024 * 1024


def coded(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def body_of(*pictures: bytes) -> dict[str, Any]:
    return {"image": coded(pictures[0])} if len(pictures) == 1 else {"images": [coded(one) for one in pictures]}


def post(edge: Edge, path: str, body: Any, **headers: str) -> httpx.Response:
    """A JSON body; bytes are sent as they are."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return edge.call("POST", path, {"Content-Type": "application/json", **headers}, content=content)


def read(body: bytes, at_most: int = 10, *, exactly: bool = False) -> list[bytes]:
    return pictures_in(bytearray(body), LIMITS, at_most=at_most, exactly=exactly)


def test_every_route_answers_as_to_a_form(edge: Edge) -> None:
    edge.make("door")
    subject = "/v1/galleries/door/subjects/obama"
    assert post(edge, f"{subject}/faces", body_of(*OBAMA)).status_code == 201
    for path, pictures, query in (
        (f"{subject}/faces", OBAMA[:1], {}),
        (f"{subject}/verify", OBAMA[1:], {"quality_filter": "none"}),
        ("/v1/galleries/door/identify", OBAMA[1:], {"top_k": 1}),
        ("/v1/detect", OBAMA[1:], {}),
        ("/v1/compare", OBAMA, {}),
        ("/v1/protect", OBAMA[:1], {"gallery": "door"}),
    ):
        one = post(edge, f"{path}?{urlencode(query)}", body_of(*pictures))
        other = edge.send(path, *pictures, **query)
        assert one.is_success, one.text
        assert (one.status_code, one.json()) == (other.status_code, other.json())


@pytest.mark.parametrize("before", ["data:image/jpeg;base64,", "data:;base64,", "DATA:image/png;name=x;BASE64,", ""])
def test_a_data_uri_is_taken_whatever_it_says_of_the_format(shared_edge: Edge, before: str) -> None:
    answer = post(shared_edge, "/v1/detect", {"image": before + coded(OBAMA[1])})
    assert (answer.status_code, answer.json()["faces_found"]) == (200, 1), answer.text


def test_what_usual_encoders_escape_in_base64_is_read() -> None:
    picture = bytes(range(251, 256)) * 60 + b"?>"
    text = coded(picture)
    assert {"+", "/", "="} <= set(text)
    for plus, slash in (("+", "\\/"), ("\\u002B", "/"), ("\\u002b", "\\/")):
        escaped = text.replace("/", slash).replace("+", plus)
        assert read(f'{{"image": "{escaped}"}}'.encode()) == [picture]


def test_blanks_of_json_are_no_part_of_it() -> None:
    assert read(b' {\r\n\t"images" : [ "AAAA" , "AAE=" ]\n } ') == [b"\0\0\0", b"\0\1"]


BROKEN: dict[str, tuple[Any, int, str, str]] = {
    "nothing": (b"", 422, "unprocessable", "bad_body"),
    "no JSON": (b"{", 422, "unprocessable", "bad_body"),
    "cut off": (b'{"image": "AAAA', 422, "unprocessable", "bad_body"),
    "something behind it": (b'{"image": "AAAA"} {}', 422, "unprocessable", "bad_body"),
    "a vertical tab": (b'{"image": "AAAA"}\x0b', 422, "unprocessable", "bad_body"),
    "a list": ([coded(BIDEN)], 422, "unprocessable", "bad_body"),
    "a number": ({"image": 5}, 422, "unprocessable", "bad_body"),
    "null": ({"image": None}, 422, "unprocessable", "bad_body"),
    "an object": ({"image": {"data": "AAAA"}}, 422, "unprocessable", "bad_body"),
    "another member": ({"picture": coded(BIDEN)}, 422, "unprocessable", "no_image_part"),
    "one member more": ({"image": "AAAA", "quality": "low"}, 422, "unprocessable", "bad_body"),
    "the member twice": (b'{"image": "AAAA", "image": "AAAA"}', 400, "bad-request", "repeated_member"),
    "UTF-16": ('{"image": "AAAA"}'.encode("utf-16"), 400, "bad-request", "not_utf8"),
    "a byte order mark": (b'\xef\xbb\xbf{"image": "AAAA"}', 400, "bad-request", "not_utf8"),
    "no base64": ({"image": "hello, world"}, 422, "unprocessable", "not_base64"),
    "without padding": ({"image": "AAE"}, 422, "unprocessable", "not_base64"),
    "bits left over": ({"image": "AAF="}, 422, "unprocessable", "not_base64"),
    "the alphabet of URLs": ({"image": "-_-_"}, 422, "unprocessable", "not_base64"),
    "line breaks": ({"image": "AAAA\nAAAA"}, 422, "unprocessable", "not_base64"),
    "an escape that is none of base64": (b'{"image": "\\u0041AAA"}', 422, "unprocessable", "not_base64"),
    "a URI of another kind": ({"image": "https://example.org/a.jpg"}, 422, "unprocessable", "not_base64"),
    "a data URI without base64": ({"image": "data:image/png,AAAA"}, 422, "unprocessable", "not_base64"),
    "no bytes": ({"image": ""}, 422, "unreadable-picture", "empty"),
    "no picture": ({"image": coded(b"hello, this is text" * 50)}, 415, "unsupported-picture", "unknown_format"),
}


PATHS = [FACES, VERIFY, IDENTIFY, "/v1/detect", "/v1/protect?gallery=door"]


@pytest.mark.parametrize(("name", "path"), [(name, PATHS[at % len(PATHS)]) for at, name in enumerate(BROKEN)])
def test_anything_else_is_refused_and_the_cloud_is_not_asked(shared_edge: Edge, name: str, path: str) -> None:
    body, status, kind, reason = BROKEN[name]
    if "/protect" in path and reason in {"bad_body", "no_image_part"}:
        reason = "bad_body"  # as of embeddings, which it takes too
    shared_edge.make_known("door")
    before = len(shared_edge.transport.requests)
    answer = post(shared_edge, path, body)
    assert_problem(answer, status, kind, reason)
    assert [sent.method for sent in shared_edge.transport.requests[before:] if sent.method != "GET"] == []
    assert len(answer.content) < 2000


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (FACES, {"images": []}),
        (FACES, {"images": ["AAAA"] * 11}),
        (FACES, {"images": ["AAAA"] * 5000}),
        ("/v1/compare", {"images": ["AAAA"]}),
        ("/v1/compare", {"images": ["AAAA"] * 3}),
        ("/v1/compare", {"image": "AAAA"}),
    ],
)
def test_another_number_of_pictures_is_refused(shared_edge: Edge, path: str, body: Any) -> None:
    assert_problem(post(shared_edge, path, body), 422, "unprocessable", "wrong_number_of_images")


def test_a_route_for_one_picture_takes_no_list(shared_edge: Edge) -> None:
    for path in (VERIFY, IDENTIFY, "/v1/detect"):
        assert_problem(post(shared_edge, path, {"images": ["AAAA"]}), 422, "unprocessable", "no_image_part")


def test_the_picture_that_is_refused_is_named(shared_edge: Edge) -> None:
    answer = post(shared_edge, FACES, body_of(BIDEN, b"hello"))
    assert assert_problem(answer, 415, "unsupported-picture")["picture"] == 1


def test_a_picture_of_the_most_bytes_is_read_and_one_byte_more_is_refused(shared_edge: Edge) -> None:
    for size, status, reason in ((15 * MIB, 415, "unknown_format"), (15 * MIB + 1, 413, "too_many_bytes")):
        answer = post(shared_edge, "/v1/detect", body_of(bytes(size)))
        assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    answer = post(shared_edge, "/v1/detect", body_of(bytes(15 * MIB + 100_000)))
    assert assert_problem(answer, 413, "too-large")["limit_bytes"] == 20 * MIB + 64 * 1024
    assert_problem(shared_edge.send("/v1/detect", bytes(16 * MIB)), 413, "too-large")


def test_a_body_without_a_length_is_cut_off_while_it_streams(shared_edge: Edge) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'{"image": "'
        for _ in range(256):
            sent += 1
            yield b"A" * MIB

    answer = shared_edge.call("POST", IDENTIFY, {"Content-Type": "application/json"}, content=endless())
    assert_problem(answer, 413, "too-large")
    assert sent < 256


def test_reading_takes_no_more_memory_than_the_body_and_the_picture() -> None:
    body = bytearray(json.dumps(body_of(bytes(4 * MIB))).encode())
    tracemalloc.start()
    try:
        [picture] = pictures_in(body, PictureLimits(), at_most=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(picture) == 4 * MIB
    assert peak < 4.5 * MIB, "the text is not copied"


def test_a_picture_that_does_not_fit_is_refused_before_it_is_decoded() -> None:
    body = bytearray(json.dumps(body_of(bytes(4 * MIB))).encode())
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            pictures_in(body, LIMITS, at_most=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize(
    "hostile",
    [
        b'{"image": "' + b"\\" * 2 * MIB + b'"}',
        b'{"image": "' + b'\\"' * MIB + b'"}',
        b" " * 2 * MIB + b'{"image": "AAAA"}',
        b'{"images": [' + b'"",' * MIB + b'""]}',
        b'"' * 2 * MIB,
        b"{" * 2 * MIB,
        b'{"image": "' + b"A" * 2 * MIB,
    ],
    ids=["backslashes", "quotes", "blanks", "strings", "empty strings", "braces", "open"],
)
def test_a_hostile_body_costs_little_time(hostile: bytes) -> None:
    began = time.process_time()
    with contextlib.suppress(Unprocessable, BadRequest):
        assert read(hostile) == [b"\0\0\0"], "behind blanks"
    assert time.process_time() - began < 0.5


def test_nothing_touches_the_disk(shared_edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    monkeypatch.setattr("tempfile.SpooledTemporaryFile.rollover", lambda *_: opened.append(_))
    monkeypatch.setattr("tempfile.TemporaryFile", lambda *_, **__: opened.append(_))
    assert post(shared_edge, "/v1/detect", body_of(OBAMA[1])).status_code == 200
    assert opened == []


NAMES = st.sampled_from(["image", "images", "Image", "", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.binary(max_size=9).map(coded),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(NAMES, VALUES, max_size=2) | VALUES, st.booleans())
def test_a_body_is_taken_if_and_only_if_a_parser_finds_base64_in_it(body: Any, ascii_only: bool) -> None:
    try:
        found = read(json.dumps(body, ensure_ascii=ascii_only).encode())
    except (Unprocessable, BadRequest):
        found = None
    assert found == _expected(body)


def _expected(body: Any) -> list[bytes] | None:
    if not isinstance(body, dict) or len(body) != 1:
        return None
    [(name, value)] = body.items()
    values = {"image": [value], "images": value}.get(name)
    if not isinstance(values, list) or not values or not all(isinstance(each, str) for each in values):
        return None
    try:
        raw = [base64.b64decode(each, validate=True) for each in values]
    except ValueError:
        return None
    return raw if [coded(each) for each in raw] == values else None
