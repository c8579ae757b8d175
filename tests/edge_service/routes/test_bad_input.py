"""The edge refuses bad input early, says what to do, and sends nothing to the cloud."""

from __future__ import annotations

import base64
import io
import struct
import time
import zlib
from collections.abc import AsyncIterator, Callable

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.cloud_client import assert_problem
from tests.support.edge import Edge, encoded, pasted, pixels, sample

FACE = sample("collins/portrait.png")
FACES = "/v1/galleries/door/subjects/someone/faces"
VERIFY = "/v1/galleries/door/subjects/someone/verify"
IDENTIFY = "/v1/galleries/door/identify"


def bomb() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    pixels_ = zlib.compress(bytes(64))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels_) + chunk(b"IEND", b"")


def animation() -> bytes:
    frames = [Image.new("RGB", (90, 90), colour) for colour in ("red", "green")]
    target = io.BytesIO()
    frames[0].save(target, "WEBP", save_all=True, append_images=frames[1:])
    return target.getvalue()


def face_of(side: int) -> bytes:
    """A face whose box is about this many pixels wide, in a picture of 320 x 320."""
    head = Image.fromarray(pixels("collins/portrait.png")[:256, 100:356])
    scaled = np.asarray(head.resize((round(256 * side / 90), round(256 * side / 90)), Image.Resampling.LANCZOS))
    return encoded(pasted(scaled, 320, 320, (100, 100)))


def two_faces() -> bytes:
    head = pixels("collins/portrait.png")[:300, 60:360]
    return encoded(pasted(head, 700, 320, (10, 10), (380, 10)), "JPEG")


def multipart(*parts: bytes, boundary: str = "b") -> dict[str, object]:
    body = b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"
    return {"content": body, "headers": {"Content-Type": f"multipart/form-data; boundary={boundary}"}}


def as_file(data: bytes, name: str = "image") -> dict[str, object]:
    return {"files": [(name, ("x", data, "image/jpeg"))]}


IMAGE_PART = b'Content-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
TEXT_PART = b'Content-Disposition: form-data; name="image"\r\n\r\n'
WHOLE = sample("obama/portrait.jpg")
BAD: dict[str, tuple[Callable[[], dict[str, object]], int, str, str | None]] = {
    "no body": (dict, 400, "bad-request", "not_multipart"),
    "JSON that is not base64": (lambda: {"json": {"image": "x"}}, 422, "unprocessable", "not_base64"),
    "the bare picture": (lambda: {"content": WHOLE}, 400, "bad-request", "not_multipart"),
    "a form without a boundary": (
        lambda: {"content": b"--b--", "headers": {"Content-Type": "multipart/form-data"}},
        400,
        "bad-request",
        "broken_multipart",
    ),
    "another boundary than is said": (
        lambda: multipart(IMAGE_PART + WHOLE, boundary="other"),
        400,
        "bad-request",
        "broken_multipart",
    ),
    "a form of garbage": (
        lambda: {"content": b"\x00\xff" * 500, "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
        400,
        "bad-request",
        "broken_multipart",
    ),
    "a part without a name": (
        lambda: multipart(b"Content-Type: image/png\r\n\r\nx"),
        400,
        "bad-request",
        "broken_multipart",
    ),
    "a form that ends early": (
        lambda: {
            "content": b"--b\r\n" + IMAGE_PART + FACE[:1000],
            "headers": {"Content-Type": "multipart/form-data; boundary=b"},
        },
        400,
        "bad-request",
        "broken_multipart",
    ),
    "an empty form": (multipart, 422, "unprocessable", "no_image_part"),
    "another part": (lambda: as_file(FACE, "photo"), 422, "unprocessable", "no_image_part"),
    "the picture as text": (lambda: multipart(TEXT_PART + b"x"), 422, "unprocessable", "not_a_file"),
    "an empty file": (lambda: as_file(b""), 422, "unreadable-picture", "empty"),
    "a text file": (lambda: as_file(b"hello"), 415, "unsupported-picture", "unknown_format"),
    "a GIF": (lambda: as_file(encoded(np.zeros((90, 90, 3), np.uint8), "GIF")), 415, "unsupported-picture", None),
    "a JPEG cut off": (lambda: as_file(WHOLE[: len(WHOLE) // 2]), 422, "unreadable-picture", "damaged"),
    "a bomb": (lambda: as_file(bomb()), 413, "too-large", "too_many_pixels"),
    "an animation": (lambda: as_file(animation()), 422, "unreadable-picture", "animated"),
    "one pixel": (lambda: as_file(encoded(np.zeros((1, 1, 3), np.uint8))), 422, "face-refused", "no_face"),
    "a long thin line": (
        lambda: as_file(encoded(np.zeros((1, 9000, 3), np.uint8))),
        422,
        "unreadable-picture",
        "too_narrow",
    ),
    "no face": (lambda: as_file(encoded(np.full((400, 500, 3), 90, np.uint8))), 422, "face-refused", "no_face"),
    "a face of 20 pixels": (lambda: as_file(face_of(20)), 422, "face-refused", "too_small"),
}


@pytest.mark.parametrize("path", [FACES, VERIFY, IDENTIFY])
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_quickly_with_a_way_to_mend_it_and_the_cloud_is_not_asked(
    shared_edge: Edge, name: str, path: str
) -> None:
    make, status, kind, reason = BAD[name]
    shared_edge.make_known("door")
    before, request = len(shared_edge.transport.requests), make()
    start = time.perf_counter()
    answer = shared_edge.call("POST", path, **request)
    assert time.perf_counter() - start < 3
    assert_problem(answer, status, kind, reason)
    assert [sent.method for sent in shared_edge.transport.requests[before:] if sent.method != "GET"] == []
    assert shared_edge.held("door") == (0, 0)
    assert shared_edge.call("GET", "/healthz").status_code == 200


def test_a_form_cut_off_in_its_second_picture_does_not_pass_for_one_with_one(shared_edge: Edge) -> None:
    first = b"--b\r\n" + IMAGE_PART + FACE + b"\r\n"
    cut_off = first + b"--b\r\n" + IMAGE_PART + FACE[:1000]
    for body in (first, cut_off, first + b"--b"):
        answer = shared_edge.call(
            "POST", FACES, content=body, headers={"Content-Type": "multipart/form-data; boundary=b"}
        )
        assert_problem(answer, 400, "bad-request", "broken_multipart")
    assert shared_edge.held("door") == (0, 0)


def test_two_faces_are_refused_where_one_is_meant(shared_edge: Edge) -> None:
    for path in (FACES, VERIFY):
        assert_problem(shared_edge.send(path, two_faces()), 422, "face-refused", "several_faces")
    assert shared_edge.held("door") == (0, 0)


@pytest.mark.parametrize(("path", "count"), [(FACES, 11), (VERIFY, 2), (IDENTIFY, 2), ("/v1/detect", 2)])
def test_too_many_pictures_are_refused(shared_edge: Edge, path: str, count: int) -> None:
    answer = shared_edge.send(path, *[FACE] * count)
    assert_problem(answer, 422, "unprocessable", "wrong_number_of_images")


@pytest.mark.parametrize("count", [1, 3])
def test_compare_takes_exactly_two_pictures(shared_edge: Edge, count: int) -> None:
    answer = shared_edge.send("/v1/compare", *[FACE] * count)
    problem = assert_problem(answer, 422, "unprocessable", "wrong_number_of_images")
    assert problem["detail"] == "Send exactly 2 `image` parts, and no other part."
    text = base64.b64encode(FACE).decode()
    answer = shared_edge.call("POST", "/v1/compare", json={"images": [text] * count})
    problem = assert_problem(answer, 422, "unprocessable", "wrong_number_of_images")
    assert problem["detail"] == "Send exactly 2 pictures."


def test_compare_names_the_member_that_holds_two_pictures(shared_edge: Edge) -> None:
    answer = shared_edge.call("POST", "/v1/compare", json={"pictures": []})
    assert assert_problem(answer, 422, "unprocessable")["detail"] == (
        'There is no member `images`; this takes {"images": [BASE64, ...]}'
    )


def test_very_many_parts_are_refused(shared_edge: Edge) -> None:
    answer = shared_edge.send(FACES, *[b"x"] * 500)
    assert_problem(answer, 400, "bad-request", "broken_multipart")


def test_one_poor_picture_of_several_is_named_and_none_is_stored(shared_edge: Edge) -> None:
    answer = shared_edge.send(FACES, FACE, b"hello", FACE)
    assert assert_problem(answer, 415, "unsupported-picture")["picture"] == 1
    assert shared_edge.held("door") == (0, 0)


def test_a_body_over_the_limit_is_refused_by_its_length(shared_edge: Edge) -> None:
    answer = shared_edge.send(IDENTIFY, bytes(16 * 1024 * 1024))
    assert assert_problem(answer, 413, "too-large")["limit_bytes"] < 16 * 1024 * 1024


def test_a_body_without_a_length_is_cut_off_while_it_streams(shared_edge: Edge) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b"--b\r\n" + IMAGE_PART
        for _ in range(256):
            sent += 1
            yield bytes(1024 * 1024)

    answer = shared_edge.call(
        "POST", IDENTIFY, content=endless(), headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert_problem(answer, 413, "too-large")
    assert sent < 256


def test_one_picture_over_the_limit_among_several_is_refused(shared_edge: Edge) -> None:
    answer = shared_edge.send(FACES, FACE, bytes(15 * 1024 * 1024 + 1))
    assert_problem(answer, 413, "too-large", "too_many_bytes")


def test_a_very_wide_picture_with_a_face_is_answered(shared_edge: Edge) -> None:
    side = 33_000  # OpenCV 4 could not turn pictures wider than 32,766 pixels
    head = Image.fromarray(pixels("collins/portrait.png")[:400, 40:440]).resize((1100, 1100))
    wide = encoded(pasted(np.asarray(head), side, 1100, (15_000, 0)), "JPEG")
    answer = shared_edge.send("/v1/detect", wide)
    assert answer.status_code == 200, answer.text
    [face] = answer.json()["faces"]
    assert 15_000 < face["landmarks"]["nose"]["x"] < 16_100


@pytest.mark.parametrize(
    "name", [".hidden", "-x", "a" * 65, "a%20b", "b%C3%A4r", "a%2Fb", "%2E%2E", "%2e%2e%2fetc", "a%00b", "a%0Ab", "a:b"]
)
def test_a_gallery_has_a_plain_name(shared_edge: Edge, name: str) -> None:
    before = len(shared_edge.transport.requests)
    answer = shared_edge.call("PUT", f"/v1/galleries/{name}")
    assert answer.status_code in {404, 405, 422}
    assert_problem(answer, answer.status_code, answer.json()["type"].rpartition(":")[2])
    assert len(shared_edge.transport.requests) == before


@pytest.mark.parametrize("name", ["a" * 129, "%C3%A9" * 129, "a%2Fb", "..%2F..%2Fkeys", "a%20", "%E9", "a%0Ab"])
def test_a_subject_has_a_name(shared_edge: Edge, name: str) -> None:
    before = len(shared_edge.transport.requests)
    for method, path in (("POST", f"{name}/faces"), ("POST", f"{name}/verify"), ("GET", name), ("DELETE", name)):
        answer = shared_edge.call(method, f"/v1/galleries/door/subjects/{path}")
        assert answer.status_code in {404, 405, 422}
        assert_problem(answer, answer.status_code, answer.json()["type"].rpartition(":")[2])
    assert len(shared_edge.transport.requests) == before


def test_names_at_the_limit_are_taken(edge: Edge) -> None:
    gallery, subject = "g" * 64, "s" * 124 + "@._-"
    edge.make(gallery)
    assert edge.enroll(gallery, subject, FACE).status_code == 201
    assert edge.call("GET", f"/v1/galleries/{gallery}/subjects/{subject}").json()["subject"] == subject


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (IDENTIFY, {"top_k": 0}),
        (IDENTIFY, {"top_k": "many"}),
        (IDENTIFY, {"max_faces": 201}),
        (VERIFY, {"quality_filter": "best"}),
        (FACES, {"quality_filter": ""}),
    ],
)
def test_a_wrong_parameter_is_named(shared_edge: Edge, path: str, query: dict[str, object]) -> None:
    body = assert_problem(shared_edge.send(path, FACE, **query), 422, "unprocessable", "invalid_request")
    assert body["errors"][0]["at"] == f"query/{next(iter(query))}"


@pytest.mark.parametrize("threshold", [{"cosine": 2, "fmr": 0.1}, {"cosine": 0.4}, {"cosine": "0.4", "fmr": 0.1}])
def test_a_threshold_is_a_cosine_with_its_rate(shared_edge: Edge, threshold: dict[str, object]) -> None:
    answer = shared_edge.call("PUT", "/v1/galleries/other", json={"threshold": threshold})
    assert_problem(answer, 422, "unprocessable", "invalid_request")


def test_what_is_not_there_is_not_found(shared_edge: Edge) -> None:
    there: list[httpx.Response] = [
        shared_edge.enroll("nowhere", "someone", FACE),
        shared_edge.verify("nowhere", "someone", FACE),
        shared_edge.identify("nowhere", FACE),
        shared_edge.verify("door", "nobody", FACE),
        shared_edge.call("GET", "/v1/galleries/nowhere"),
        shared_edge.call("GET", "/v1/galleries/nowhere/subjects"),
        shared_edge.call("GET", "/v1/galleries/door/subjects/nobody"),
        shared_edge.call("DELETE", "/v1/galleries/nowhere"),
        shared_edge.call("DELETE", "/v1/galleries/door/subjects/nobody"),
        shared_edge.call("DELETE", f"/v1/galleries/door/subjects/nobody/faces/{'0' * 32}"),
        shared_edge.call("GET", "/v1/nothing"),
    ]
    for answer in there:
        assert_problem(answer, 404, "not-found")


def test_a_method_that_a_path_does_not_take_is_refused(shared_edge: Edge) -> None:
    assert_problem(shared_edge.call("GET", IDENTIFY), 405, "method-not-allowed")
