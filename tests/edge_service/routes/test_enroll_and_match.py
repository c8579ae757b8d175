"""From pictures to decisions, by way of a cloud that sees only sealed templates."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from edge_service.vision.formats import FORMATS
from shared.security.credentials import Scope
from tests.support.cloud_client import assert_problem
from tests.support.edge import Edge, Pair, encoded, pasted, pixels, sample

OBAMA = [sample(f"obama/{name}.jpg") for name in ("portrait", "speech", "standing")]
BIDEN, COLLINS = sample("biden/standing.jpg"), sample("collins/portrait.png")


def both() -> bytes:
    """Collins on the left, Obama, larger, on the right."""
    left, right = pixels("collins/portrait.png")[:300, 60:360], pixels("obama/portrait.jpg")[100:700, 200:800]
    canvas = pasted(left, 1000, 620, (10, 10))
    canvas[10:610, 390:990] = right
    return encoded(canvas, "JPEG", quality=95)


def test_a_gallery_is_made_once(edge: Edge) -> None:
    first, second = (edge.call("PUT", "/v1/galleries/door") for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    contract = first.json()["contract"]
    assert (contract["dim"], contract["profile"]["name"], contract["metric"]) == (128, "default-2", "cosine")
    assert re.fullmatch("[0-9a-f]{32}", contract["seal"]["key_id"])


def test_a_gallery_keeps_the_threshold_that_it_was_made_with(edge: Edge) -> None:
    chosen = {"threshold": {"cosine": 0.9, "fmr": 0.00001}}
    assert edge.call("PUT", "/v1/galleries/strict", json=chosen).json()["threshold"] == chosen["threshold"]
    edge.enroll("strict", "obama", OBAMA[0])
    assert edge.verify("strict", "obama", OBAMA[1]).json()["decision"] == "no_match"


def test_the_same_person_matches_and_another_does_not(edge: Edge) -> None:
    edge.make("door")
    answer = edge.enroll("door", "obama", OBAMA[0], OBAMA[1])
    assert answer.status_code == 201
    faces = answer.json()["faces"]
    assert [face["picture"] for face in faces] == [0, 1]
    assert len({face["id"] for face in faces}) == 2
    assert edge.held("door") == (1, 2)
    same, other = edge.verify("door", "obama", OBAMA[2]).json(), edge.verify("door", "obama", BIDEN).json()
    assert (same["decision"], other["decision"]) == ("match", "no_match")
    assert same["similarity"] > same["threshold"] > other["similarity"]
    assert (same["threshold_from"], same["fmr_measured_on"]) == ("gallery", "lfw_adults")
    assert same["reference_fmr"] > 0


def test_every_face_of_a_picture_is_identified_or_unknown(edge: Edge) -> None:
    edge.make("door")
    for subject, picture in (("obama", OBAMA[1]), ("biden", BIDEN)):
        assert edge.enroll("door", subject, picture).status_code == 201
    faces = edge.identify("door", both(), max_faces=5).json()["faces"]
    assert [[one["subject"] for one in face["candidates"]] for face in faces] == [["obama"], []]
    assert [face["decision"] for face in faces] == ["match", "unknown"]
    assert faces[0]["box"]["width"] > faces[1]["box"]["width"]
    assert len(edge.identify("door", both()).json()["faces"]) == 1


def test_identify_says_how_many_faces_it_left_out(edge: Edge) -> None:
    edge.make("door")
    answer = edge.identify("door", both()).json()
    assert (len(answer["faces"]), answer["faces_found"]) == (1, 2)
    assert answer["faces_left_out"] == {"over_max_faces": 1, "poor_quality": 0, "reasons": {}}
    answer = edge.identify("door", both(), max_faces=2).json()
    assert (len(answer["faces"]), answer["faces_found"]) == (2, 2)
    assert answer["faces_left_out"] == {"over_max_faces": 0, "poor_quality": 0, "reasons": {}}


def test_identify_says_why_it_left_out_poor_faces(edge: Edge) -> None:
    edge.make("door")
    head = pixels("collins/portrait.png")[:300, 60:360]
    picture = pasted(head, 700, 320, (10, 10))
    picture[10:310, 380:680] = (head * 0.08).astype(np.uint8)
    answer = edge.identify("door", encoded(picture), max_faces=5, quality_filter="medium").json()
    assert (len(answer["faces"]), answer["faces_found"]) == (1, 2)
    assert answer["faces_left_out"] == {"over_max_faces": 0, "poor_quality": 1, "reasons": {"too_dark": 1}}


@pytest.mark.slow(reason="embeds 70 faces, and 34 again")
def test_every_face_of_a_crowd_is_looked_for_and_counted_as_a_probe(edge: Edge) -> None:
    edge.make("door")
    assert edge.enroll("door", "collins", COLLINS).status_code == 201
    crowd = encoded(np.tile(pixels("collins/portrait.png")[20:220, 120:320], (7, 10, 1)), "JPEG", quality=95)
    before = len(edge.transport.requests)
    answer = edge.identify("door", crowd, max_faces=200).json()
    assert (len(answer["faces"]), answer["faces_found"]) == (70, 70)
    assert {face["candidates"][0]["subject"] for face in answer["faces"]} == {"collins"}
    requests = [json.loads(request.content) for request in edge.transport.requests[before:]]
    assert [len(request["probes"]) for request in requests] == [64, 6]
    key, _record = edge.app.state.services.key_ring.add("slow", [Scope.MATCH], None, rate="20/hour")
    slow = {"Authorization": f"Bearer {key}"}
    assert edge.identify("door", crowd, max_faces=15, headers=slow).status_code == 200
    assert_problem(edge.identify("door", crowd, max_faces=15, headers=slow), 429, "rate-limited")
    left = edge.identify("door", crowd, max_faces=4, headers=slow).json()["faces_left_out"]["over_max_faces"]
    assert left == 66


def test_a_second_face_beside_the_one_that_is_used_is_reported(edge: Edge) -> None:
    edge.make("door")
    small = pixels("collins/portrait.png")[20:220, 120:320][::2, ::2]
    picture = pasted(pixels("obama/portrait.jpg")[100:700, 200:800], 900, 620, (10, 10))
    picture[10:110, 700:800] = small
    answer = edge.enroll("door", "obama", encoded(picture), OBAMA[0]).json()
    assert [face["faces_found"] for face in answer["faces"]] == [2, 1]
    assert edge.verify("door", "obama", encoded(picture)).json()["faces_found"] == 2
    compared = edge.send("/v1/compare", encoded(picture), OBAMA[1]).json()
    assert compared["faces_found"] == [2, 1]
    detected = edge.send("/v1/detect", encoded(picture)).json()
    assert (detected["faces_found"], len(detected["faces"]), detected["rotation"]) == (2, 2, 0)
    protected = edge.send("/v1/protect", encoded(picture), gallery="door")
    assert protected.json()["faces_found"] == 2


def test_a_photo_on_its_side_is_enrolled_and_says_how_it_lies(edge: Edge) -> None:
    edge.make("door")
    lying = encoded(np.ascontiguousarray(np.rot90(pixels("obama/portrait.jpg"))), "JPEG", quality=95)
    assert edge.enroll("door", "obama", lying).status_code == 201
    assert edge.verify("door", "obama", OBAMA[1]).json()["decision"] == "match"
    assert edge.send("/v1/detect", lying).json()["rotation"] == 90


def test_the_cloud_sees_sealed_templates_and_nothing_else(edge: Edge) -> None:
    edge.make("door")
    edge.enroll("door", "obama", OBAMA[0])
    edge.verify("door", "obama", OBAMA[1])
    edge.identify("door", OBAMA[2])
    bodies = [json.loads(sent.content) for sent in edge.transport.requests if sent.method == "POST"]
    searched, enrolled, verified, identified = bodies
    assert set(enrolled) == {"templates"}
    assert set(enrolled["templates"][0]) == {"id", "template", "weight"}
    assert set(verified) == {"probe"}
    assert set(searched) == set(identified) == {"probes", "top_k"}
    raw = edge.app.state.services.reader
    for picture, envelope in zip(
        [OBAMA[0], *OBAMA],
        [searched["probes"][0], enrolled["templates"][0]["template"], verified["probe"], identified["probes"][0]],
        strict=True,
    ):
        assert set(envelope) == {"version", "contract", "dim", "dtype", "data"}
        from shared.envelope import TemplateEnvelope

        template = TemplateEnvelope.model_validate_json(json.dumps(envelope)).open()
        for mirrored in (False, True):
            embedding = raw.embed(raw.read(picture).faces[:1], mirrored=mirrored).unit[0]
            assert abs(float(template @ embedding)) < 8 / np.sqrt(128)


def test_scores_of_sealed_templates_are_those_of_the_faces(session_pair: Pair) -> None:
    edge = session_pair.edge("sealing", profile="seal", mirrored="off")
    edge.make("scores")
    edge.enroll("scores", "obama", OBAMA[0])
    far = edge.verify("scores", "obama", OBAMA[1]).json()["similarity"]
    near = edge.send("/v1/compare", OBAMA[0], OBAMA[1]).json()["similarity"]
    assert abs(far - near) < 1e-5


def test_making_a_gallery_again_changes_nothing_whatever_its_threshold(edge: Edge) -> None:
    path, own = "/v1/galleries/strict", {"threshold": {"cosine": 0.45, "fmr": 0.0001}}
    assert edge.call("PUT", path, json=own).status_code == 201
    again = edge.call("PUT", path)
    assert (again.status_code, again.json()["threshold"]["cosine"]) == (200, 0.45)
    assert edge.call("PUT", path, json=own).status_code == 200
    other = edge.call("PUT", path, json={"threshold": {"cosine": 0.5, "fmr": 0.0001}})
    assert_problem(other, 409, "conflict")


def test_what_is_erased_is_gone(edge: Edge) -> None:
    edge.make("door")
    faces = edge.enroll("door", "obama", *OBAMA[:2]).json()["faces"]
    edge.enroll("door", "biden", BIDEN)
    base = "/v1/galleries/door"
    assert edge.erase(f"{base}/subjects/obama/faces/{faces[0]['id']}") == (0, 1)
    assert [face["id"] for face in edge.call("GET", f"{base}/subjects/obama").json()["faces"]] == [faces[1]["id"]]
    assert edge.erase(f"{base}/subjects/obama") == (1, 1)
    assert_problem(edge.verify("door", "obama", OBAMA[0]), 404, "not-found")
    assert edge.identify("door", OBAMA[0]).json()["faces"][0]["decision"] == "unknown"
    assert edge.erase(base) == (1, 1)
    assert_problem(edge.identify("door", BIDEN), 404, "not-found")
    assert_problem(edge.call("DELETE", base), 404, "not-found")


def test_an_erasure_comes_with_the_clouds_receipt_and_says_what_is_left(edge: Edge) -> None:
    edge.make("door")
    edge.enroll("door", "biden", BIDEN)
    erasures = "/v1/galleries/door/erasures"
    reader = sqlite3.connect(edge.pair.cloud_settings.home / "record.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM template").fetchone()
    answer = edge.call("DELETE", "/v1/galleries/door/subjects/biden")
    assert (answer.status_code, answer.json()["pending"]) == (202, ["write-ahead log"])
    receipt = answer.json()["receipt"]
    status = edge.call("GET", f"{erasures}/{receipt['id']}").json()
    assert (status["status"], status["receipt"]) == ("pending", receipt)
    reader.close()
    edge.pair.cloud.state.services.store.finish_erasures()
    assert edge.call("GET", f"{erasures}/{receipt['id']}").json()["status"] == "done"
    assert_problem(edge.call("GET", f"{erasures}/{receipt['id'] + 1}"), 404, "not-found", "unknown_erasure")


def test_faces_expire_at_an_age_that_is_set_here(edge: Edge) -> None:
    assert edge.make("door")["max_age_seconds"] is None
    edge.enroll("door", "biden", BIDEN)
    retention = "/v1/galleries/door/retention"
    set_to = edge.call("PUT", retention, json={"max_age_seconds": 3600})
    assert (set_to.status_code, set_to.json()["max_age_seconds"]) == (200, 3600)
    assert edge.verify("door", "biden", BIDEN).json()["decision"] == "match"
    edge.call("PUT", retention, json={"max_age_seconds": 1})
    time.sleep(1)
    assert_problem(edge.verify("door", "biden", BIDEN), 404, "not-found", "unknown_subject")
    assert edge.identify("door", BIDEN).json()["faces"][0]["decision"] == "unknown"
    assert edge.call("DELETE", retention).json()["max_age_seconds"] is None
    assert edge.held("door") == (0, 0)
    assert_problem(edge.call("PUT", retention, json={"max_age_seconds": 0}), 422, "unprocessable")
    assert_problem(edge.call("DELETE", "/v1/galleries/nowhere/retention"), 404, "not-found", "unknown_gallery")


def test_a_gallery_made_again_under_its_name_has_a_key_of_its_own(edge: Edge) -> None:
    first = edge.make("door")["contract"]["seal"]
    edge.enroll("door", "obama", OBAMA[0])
    edge.call("DELETE", "/v1/galleries/door")
    second = edge.make("door")["contract"]["seal"]
    assert first["epoch"] != second["epoch"]
    assert first["key_id"] != second["key_id"]
    assert edge.held("door") == (0, 0)


def test_a_gallery_that_another_edge_erased_and_made_again_is_used_under_its_new_key(pair: Pair) -> None:
    import shutil

    first = pair.edge("first")
    first.make("door")
    first.enroll("door", "obama", OBAMA[0])
    (pair.folder / "second").mkdir(mode=0o700)
    shutil.copy2(pair.folder / "first" / "master.key", pair.folder / "second" / "master.key")
    second = pair.edge("second")
    second.call("DELETE", "/v1/galleries/door")
    second.make("door")
    assert first.enroll("door", "biden", BIDEN).status_code == 201
    assert second.verify("door", "biden", BIDEN).json()["decision"] == "match"


def test_listings_go_page_by_page(edge: Edge) -> None:
    edge.make("door")
    for number in range(3):
        edge.enroll("door", f"s{number}", COLLINS)
    seen, after = [], None
    while True:
        query = {"limit": 2} | ({"after": after} if after else {})
        page = edge.call("GET", "/v1/galleries/door/subjects", params=query).json()
        assert len(page["items"]) <= 2
        seen += [(info["subject"], info["templates"]) for info in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert seen == [("s0", 1), ("s1", 1), ("s2", 1)]


def test_detect_and_compare_send_nothing(shared_edge: Edge) -> None:
    before = len(shared_edge.transport.requests)
    found = shared_edge.send("/v1/detect", both()).json()
    assert (found["width"], found["height"], len(found["faces"])) == (1000, 620, 2)
    eyes = found["faces"][0]["landmarks"]
    assert eyes["right_eye"]["x"] < eyes["left_eye"]["x"]
    same, other = (shared_edge.send("/v1/compare", OBAMA[0], two).json() for two in (OBAMA[1], BIDEN))
    assert (same["decision"], other["decision"]) == ("match", "no_match")
    assert len(same["qualities"]) == 2
    assert len(shared_edge.transport.requests) == before


def test_an_answer_tells_its_request_and_its_times(edge: Edge) -> None:
    edge.make("door")
    answer = edge.enroll("door", "obama", OBAMA[0])
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-ID"])
    named = dict(part.split(";dur=") for part in answer.headers["Server-Timing"].split(", "))
    assert set(named) >= {"decode", "detect", "align", "embed", "protect", "cloud"}
    assert all(float(milliseconds) >= 0 for milliseconds in named.values())
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_callers_request_id_travels_to_the_cloud(edge: Edge) -> None:
    edge.make("door")
    path = "/v1/galleries/door/subjects/obama/verify"
    answer = edge.send(path, OBAMA[0], headers={"X-Request-ID": "call-42"})
    assert answer.headers["X-Request-ID"] == "call-42"
    assert edge.transport.requests[-1].headers["X-Request-ID"] == "call-42"
    hostile = edge.send("/v1/detect", OBAMA[0], headers={"X-Request-ID": 'a" b'})
    assert re.fullmatch("[0-9a-f]{32}", hostile.headers["X-Request-ID"])


def test_the_edge_tells_what_it_is(shared_edge: Edge) -> None:
    info = shared_edge.call("GET", "/v1/info").json()
    assert (info["service"], info["dim"], info["sealed"]) == ("patronus-edge", 128, True)
    assert info["formats"] == list(FORMATS)


@contextmanager
def opened_for_writing() -> Iterator[list[str]]:
    """Files that are opened for writing meanwhile, by whatever Python code."""
    found: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event in {"tempfile.mkstemp", "tempfile.mkdtemp"}:
            found.append(str(arguments[0]))
        elif watching and event == "open":
            path, mode, flags = arguments
            written = any(letter in str(mode) for letter in "wax+") if mode else int(str(flags)) & 0o3
            if written:
                found.append(str(path))

    sys.addaudithook(watch)
    try:
        yield found
    finally:
        watching = False


def test_a_picture_is_never_written_to_disk(shared_edge: Edge) -> None:
    large = encoded(np.random.default_rng(0).integers(0, 256, (1400, 1400, 3), np.uint8))
    assert len(large) > 5 * 1024 * 1024
    shared_edge.make_known("door")
    with opened_for_writing() as found:
        shared_edge.send("/v1/compare", large, large)
        shared_edge.send("/v1/detect", large)
        shared_edge.send("/v1/galleries/door/identify", large)
    assert found == []


def test_more_work_than_the_edge_carries_is_refused_with_a_retry_after(pair: Pair) -> None:
    edge = pair.edge(work={"workers": 1, "waiting": 1})
    files = [("image", ("x", OBAMA[2], "image/jpeg"))]
    key, _record = edge.app.state.services.key_ring.add("few", [Scope.MATCH], None, rate="6/hour")
    edge.headers = {"Authorization": f"Bearer {key}"}
    answers = edge.together("POST", "/v1/detect", 6, files=files)
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429, 429, 429]
    for answer in answers:
        if answer.status_code == 429:
            assert_problem(answer, 429, "overloaded")
            assert int(answer.headers["Retry-After"]) >= 1
    assert [edge.send("/v1/detect", COLLINS).status_code for _ in range(5)] == [200] * 4 + [429]


def test_readiness_tells_of_the_cloud(edge: Edge) -> None:
    from httpx import ConnectError, Request, Response

    from tests.support.edge import CloudTransport

    assert edge.call("GET", "/readyz").json()["checks"] == {"models": True, "keys": True, "cloud": True}

    async def away(_transport: CloudTransport, request: Request) -> Response:
        raise ConnectError("no route", request=request)

    edge.transport.always = away
    answer = edge.call("GET", "/readyz")
    assert (answer.status_code, answer.json()["checks"]["cloud"]) == (503, False)
    assert edge.call("GET", "/healthz").status_code == 200
