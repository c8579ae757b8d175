"""Who is enrolled under two names is found, page by page, and nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.security.credentials import Scope
from tests.edge_service.subjects.subjects_of_edge import embedding, enroll, path
from tests.support.cloud_client import assert_problem
from tests.support.edge import Edge, Pair


@pytest.fixture(scope="module")
def pair(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Pair(tmp_path_factory.mktemp("duplicates")) as opened:
        yield opened


@pytest.fixture(scope="module")
def edge(pair: Pair) -> Edge:
    return pair.edge()


def near(seed: int, cosine: float) -> NDArray[np.float32]:
    """Another picture of a person: (128,) float32, of this cosine with ``embedding``."""
    first = embedding(seed).astype(np.float64)
    other = embedding(seed + 1000).astype(np.float64)
    other -= (other @ first) * first
    other /= np.linalg.norm(other)
    return (cosine * first + np.sqrt(1 - cosine**2) * other).astype(np.float32)


def find(edge: Edge, gallery: str, **wanted: Any) -> dict[str, Any]:
    answer = edge.call("POST", f"/v1/galleries/{gallery}/duplicates", json=wanted)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def again(edge: Edge, gallery: str, subject: str, seed: int, cosine: float) -> None:
    """Enrolls another picture of a person."""
    body = {"embeddings": [{"values": near(seed, cosine).tolist()}]}
    answer = edge.call("POST", f"{path(gallery, subject)}/embeddings", json=body)
    assert answer.status_code == 201, answer.text


@pytest.fixture(scope="module", params=["mean", "best"])
def gallery(request: pytest.FixtureRequest, edge: Edge) -> str:
    """Twelve people, of whom two are there under a second name, and one under a third."""
    made = edge.call("PUT", f"/v1/galleries/{request.param}", json={"score_rule": request.param})
    assert made.status_code == 201, made.text
    for seed in range(12):
        enroll(edge, request.param, f"person {seed:02}", seed)
    again(edge, request.param, "person 03", 3, 0.8)  # a second face of the same subject is no duplicate
    again(edge, request.param, "Zoë", 3, 0.9)
    again(edge, request.param, "Öbama", 7, 0.7)
    again(edge, request.param, "Обама", 7, 0.75)
    found: str = request.param
    return found


PAIRS = [{"Zoë", "person 03"}, {"person 07", "Öbama"}, {"person 07", "Обама"}, {"Öbama", "Обама"}]


def test_who_is_enrolled_under_two_names_is_found(edge: Edge, gallery: str) -> None:
    held = edge.held(gallery)
    found = find(edge, gallery)
    assert (found["compared"], found["next"]) == (15, None)
    assert sorted(sorted({item["subject"], item["other"]}) for item in found["items"]) == sorted(map(sorted, PAIRS))
    scores = [item["similarity"] for item in found["items"]]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) >= found["threshold"]
    assert edge.held(gallery) == held


def test_pages_find_the_same(edge: Edge, gallery: str) -> None:
    found: set[frozenset[str]] = set()
    after, compared = 0, 0
    while True:
        page = find(edge, gallery, after=after, limit=4)
        found |= {frozenset((item["subject"], item["other"])) for item in page["items"]}
        compared += page["compared"]
        if page["next"] is None:
            break
        after = page["next"]
    assert (compared, found) == (15, {frozenset(each) for each in PAIRS})


def test_pairs_of_a_lower_score_are_left_out_if_so_wished(edge: Edge, gallery: str) -> None:
    every = find(edge, gallery)["items"]
    best, second = every[0]["similarity"], every[1]["similarity"]
    assert find(edge, gallery, min_similarity=(best + second) / 2)["items"] == every[:1]
    assert find(edge, gallery, min_similarity=-1.0)["items"] == every


@pytest.mark.parametrize(
    "wanted",
    [{"limit": 0}, {"limit": 501}, {"after": -1}, {"min_similarity": 1.5}, {"min_similarity": "0.5"}, {"x": 1}],
)
def test_other_wishes_are_refused(edge: Edge, gallery: str, wanted: dict[str, Any]) -> None:
    answer = edge.call("POST", f"/v1/galleries/{gallery}/duplicates", json=wanted)
    assert_problem(answer, 422, "unprocessable")


def test_it_is_for_galleries_that_identify_and_keys_that_manage(edge: Edge) -> None:
    edge.call("PUT", "/v1/galleries/ward", json={"verify_only": True})
    enroll(edge, "ward", "ada", 1)
    answer = edge.call("POST", "/v1/galleries/ward/duplicates", json={})
    assert_problem(answer, 409, "conflict", "verify_only")
    assert_problem(edge.call("POST", "/v1/galleries/nowhere/duplicates", json={}), 404, "not-found")
    edge.make("empty")
    assert find(edge, "empty")["items"] == []
    key = edge.key(Scope.ENROLL, Scope.MATCH)
    assert_problem(edge.call("POST", "/v1/galleries/empty/duplicates", key, json={}), 403, "forbidden")
