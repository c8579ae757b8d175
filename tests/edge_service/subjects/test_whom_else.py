"""An enrollment says whom else a face matches, tells it without storing, and refuses another subject's face."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.security.credentials import Scope
from shared.service_settings import RateSettings
from tests.edge_service.subjects.subjects_of_edge import listed, path
from tests.support.cloud_client import assert_problem
from tests.support.edge import CloudTransport, Edge, Pair, sample

PORTRAIT, STANDING, SPEECH = (sample(f"obama/{name}.jpg") for name in ("portrait", "standing", "speech"))
BIDEN = sample("biden/standing.jpg")


@pytest.fixture(scope="module")
def pair(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Pair(tmp_path_factory.mktemp("whom")) as opened:
        yield opened


@pytest.fixture(scope="module")
def edge(pair: Pair) -> Edge:
    return pair.edge()


@pytest.fixture
def gallery(edge: Edge) -> Iterator[str]:
    """A gallery in which Obama is enrolled as ``Öbama``."""
    edge.make("whom")
    [face] = enrolled(edge, "Öbama", PORTRAIT)
    assert (face["also_matches"], face["stored"]) == ([], "now")
    yield "whom"
    edge.call("DELETE", "/v1/galleries/whom")


def enrolled(edge: Edge, subject: str, *pictures: bytes, status: int = 201, **query: Any) -> list[dict[str, Any]]:
    answer = edge.send(f"{path('whom', subject)}/faces", *pictures, **query)
    assert answer.status_code == status, answer.text
    found: list[dict[str, Any]] = answer.json()["faces"]
    return found


def test_other_subjects_whom_a_face_matches_are_told(edge: Edge, gallery: str) -> None:
    same, other = enrolled(edge, "twin", STANDING, BIDEN)
    assert [one["subject"] for one in same["also_matches"]] == ["Öbama"]
    assert same["also_matches"][0]["similarity"] > 0.4
    assert other["also_matches"] == []
    [again] = enrolled(edge, "Öbama", SPEECH)
    assert "Öbama" not in [one["subject"] for one in again["also_matches"]], "never the subject itself"
    assert again["agrees"] is True


def test_a_dry_run_tells_the_same_and_stores_nothing(edge: Edge, gallery: str) -> None:
    dry = enrolled(edge, "twin", STANDING, BIDEN, status=200, dry_run="true")
    assert [(face["stored"], face["agrees"]) for face in dry] == [("no", None)] * 2
    assert [[one["subject"] for one in face["also_matches"]] for face in dry] == [["Öbama"], []]
    assert listed(edge, gallery) == ["Öbama"]
    known, new, foreign = enrolled(edge, "Öbama", PORTRAIT, SPEECH, BIDEN, status=200, dry_run="true")
    assert [face["stored"] for face in (known, new, foreign)] == ["before", "no", "no"]
    assert [face["agrees"] for face in (known, new, foreign)] == [None, True, False]
    assert edge.held(gallery) == (1, 1)
    wet = enrolled(edge, "twin", STANDING, BIDEN)
    assert [face["id"] for face in wet] == [face["id"] for face in dry]


def test_a_face_nearer_to_another_subject_is_refused_if_so_wished(edge: Edge, gallery: str) -> None:
    answer = edge.send(f"{path(gallery, 'twin')}/faces", BIDEN, STANDING, on_conflict="refuse")
    problem = assert_problem(answer, 409, "conflict", "belongs_to_another")
    assert (problem["picture"], problem["nearest"]) == (1, "Öbama")
    assert listed(edge, gallery) == ["Öbama"], "nothing of the request was stored"
    for subject, picture in (("biden", BIDEN), ("Öbama", SPEECH), ("Öbama", PORTRAIT)):
        enrolled(edge, subject, picture, on_conflict="refuse")
    # Under two names by now, a face is nearer to the one that has the same picture.
    enrolled(edge, "twin", STANDING)
    enrolled(edge, "twin", STANDING, on_conflict="refuse")
    answer = edge.send(f"{path(gallery, 'Öbama')}/faces", STANDING, on_conflict="refuse")
    assert assert_problem(answer, 409, "conflict", "belongs_to_another")["nearest"] == "twin"
    dry = edge.send(f"{path(gallery, 'Öbama')}/faces", STANDING, on_conflict="refuse", dry_run="true")
    assert_problem(dry, 409, "conflict", "belongs_to_another")


def test_only_a_key_that_may_match_learns_it(edge: Edge, gallery: str) -> None:
    key = edge.key(Scope.ENROLL)
    answer = edge.send(f"{path(gallery, 'twin')}/faces", STANDING, headers=key)
    assert [(face["agrees"], face["also_matches"]) for face in answer.json()["faces"]] == [(None, None)]
    before = len(edge.transport.requests)
    dry = edge.send(f"{path(gallery, 'Öbama')}/faces", SPEECH, headers=key, dry_run="true")
    assert [(face["agrees"], face["also_matches"]) for face in dry.json()["faces"]] == [(None, None)]
    assert not [one for one in edge.transport.requests[before:] if one.url.path.endswith("/identify")]
    refused = edge.send(f"{path(gallery, 'twin')}/faces", STANDING, headers=key, on_conflict="refuse")
    assert_problem(refused, 403, "forbidden")


def test_it_is_told_no_more_often_than_the_key_may_match(pair: Pair, edge: Edge, gallery: str) -> None:
    limited = pair.edge(rates=RateSettings(matching="2/hour"))
    told = [limited.send(f"{path(gallery, 'biden')}/faces", BIDEN).json()["faces"][0]["also_matches"] for _ in range(3)]
    assert told == [[], [], None]
    answer = limited.send(f"{path(gallery, 'biden')}/faces", BIDEN, on_conflict="refuse")
    assert_problem(answer, 429, "rate-limited")
    assert int(answer.headers["Retry-After"]) > 0


def test_in_a_verify_only_gallery_nobody_can_say(edge: Edge) -> None:
    edge.call("PUT", "/v1/galleries/ward", json={"verify_only": True})
    for name, query, status in (("a", {}, 201), ("b", {"dry_run": "true"}, 200)):
        answer = edge.send(f"{path('ward', name)}/faces", PORTRAIT, **query)
        assert answer.status_code == status
        assert answer.json()["faces"][0]["also_matches"] is None
    refused = edge.send(f"{path('ward', 'b')}/faces", PORTRAIT, on_conflict="refuse")
    assert_problem(refused, 409, "conflict", "verify_only")
    assert listed(edge, "ward") == ["a"]
    edge.call("DELETE", "/v1/galleries/ward")


@pytest.mark.parametrize("query", [{"dry_run": "1"}, {"dry_run": "yes"}, {"on_conflict": "merge"}, {"on_conflict": ""}])
def test_other_words_are_refused(edge: Edge, gallery: str, query: dict[str, str]) -> None:
    answer = edge.send(f"{path(gallery, 'twin')}/faces", STANDING, **query)
    assert_problem(answer, 422, "unprocessable")
    assert listed(edge, gallery) == ["Öbama"]


async def _forbidden(transport: CloudTransport, request: httpx.Request) -> httpx.Response:
    return httpx.Response(403) if request.url.path.endswith("/identify") else await transport.deliver(request)


def test_an_enrollment_goes_on_where_the_cloud_lets_the_edge_search_nothing(edge: Edge, gallery: str) -> None:
    edge.transport.always = _forbidden
    try:
        [face] = enrolled(edge, "twin", STANDING)
        assert (face["also_matches"], face["stored"]) == (None, "now")
        answer = edge.send(f"{path(gallery, 'other')}/faces", STANDING, on_conflict="refuse")
        assert_problem(answer, 502, "cloud-failed")
    finally:
        edge.transport.reset()
    assert listed(edge, gallery) == ["twin", "Öbama"]
