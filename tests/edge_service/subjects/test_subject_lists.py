"""Lists of subjects: opened and sorted at the edge, and up to date with the cloud."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_service.protection.keys import KeyStore
from tests.edge_service.subjects.subjects_of_edge import enroll, listed, move, path
from tests.support.cloud_client import assert_problem
from tests.support.edge import CloudTransport, Edge, Pair

EVERYBODY = ["Ada", "Zoe", "Zoë", "ada", "zoe", "Émile", "Владимир", "山田", "👩"]


@pytest.fixture(scope="module")
def pair(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Pair(tmp_path_factory.mktemp("lists")) as opened:
        yield opened


@pytest.fixture(scope="module")
def edge(pair: Pair) -> Edge:
    """An edge with nine people in the gallery ``world``."""
    made = pair.edge()
    made.make("world")
    for seed, name in enumerate(reversed(EVERYBODY)):
        enroll(made, "world", name, seed)
    return made


def page(edge: Edge, gallery: str, **query: Any) -> dict[str, Any]:
    answer = edge.call("GET", f"/v1/galleries/{gallery}/subjects", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_pages_are_in_the_order_of_code_points_and_none_is_missing(edge: Edge) -> None:
    assert sorted(EVERYBODY) == EVERYBODY
    for limit in (1, 2, 4, 9, 10):
        found: list[str] = []
        after: dict[str, str] = {}
        while True:
            got = page(edge, "world", limit=limit, **after)
            assert len(got["items"]) <= limit
            found += [item["subject"] for item in got["items"]]
            if got["next"] is None:
                break
            after = {"after": got["next"]}
        assert found == EVERYBODY
    assert page(edge, "world", limit=9)["next"] is None
    assert listed(edge, "world", after="Zof") == EVERYBODY[2:], "a name that nobody has"


@pytest.mark.parametrize(
    ("prefix", "found"),
    [("Zo", ["Zoe", "Zoë"]), ("Zoe\u0308", ["Zoë"]), ("a", ["ada"]), ("Вл", ["Владимир"]), ("x", []), ("👩", ["👩"])],
)
def test_names_are_found_by_how_they_begin(edge: Edge, prefix: str, found: list[str]) -> None:
    assert listed(edge, "world", prefix=prefix) == found


def test_a_search_has_pages_too(edge: Edge) -> None:
    first = page(edge, "world", prefix="Zo", limit=1)
    assert ([item["subject"] for item in first["items"]], first["next"]) == (["Zoe"], "Zoe")
    second = page(edge, "world", prefix="Zo", limit=1, after="Zoe")
    assert ([item["subject"] for item in second["items"]], second["next"]) == (["Zoë"], None)
    assert page(edge, "world", prefix="Zo", after="ada")["items"] == []


@pytest.mark.parametrize("query", [{"prefix": ""}, {"prefix": "a" * 129}, {"after": "a/b"}, {"after": " a"}])
def test_what_no_name_begins_with_is_refused(edge: Edge, query: dict[str, str]) -> None:
    answer = edge.call("GET", "/v1/galleries/world/subjects", params=query)
    assert_problem(answer, 422, "unprocessable")


def test_every_change_is_in_the_next_list(edge: Edge, pair: Pair) -> None:
    edge.make("changing")
    other = pair.edge("other")
    KeyStore(other.settings.home).put(KeyStore(edge.settings.home).gallery("changing"))
    other = pair.edge("other")
    both = (edge, other)
    for at in both:
        assert listed(at, "changing") == []
    for seed, name in enumerate(["Ada", "Bob", "Cyd"]):
        enroll(edge, "changing", name, seed)
        for at in both:
            assert listed(at, "changing") == ["Ada", "Bob", "Cyd"][: seed + 1]
    enroll(other, "changing", "Bob", 10, 11)
    for at in both:
        assert [item["templates"] for item in page(at, "changing")["items"]] == [1, 3, 1]
    assert move(other, "changing", "Ada", "rename", to="Zoë").status_code == 200
    for at in both:
        assert listed(at, "changing") == ["Bob", "Cyd", "Zoë"]
    assert move(edge, "changing", "Cyd", "merge", into="Bob").status_code == 200
    for at in both:
        assert [(item["subject"], item["templates"]) for item in page(at, "changing")["items"]] == [
            ("Bob", 4),
            ("Zoë", 1),
        ]
    edge.call("DELETE", path("changing", "Bob"))
    for at in both:
        assert listed(at, "changing") == ["Zoë"]
    edge.call("DELETE", "/v1/galleries/changing")
    for at in both:
        assert_problem(at.call("GET", "/v1/galleries/changing/subjects"), 404, "not-found")
    edge.make("changing")
    assert listed(edge, "changing") == [], "a gallery that was made again is another one"


def test_an_expiry_is_in_the_list_and_who_expired_is_not(edge: Edge) -> None:
    edge.make("expiring")
    enroll(edge, "expiring", "Ada", 1)
    enroll(edge, "expiring", "Bob", 2)
    answer = edge.call("PUT", f"{path('expiring', 'Ada')}/expiry", json={"expires_at": "2099-01-31T08:00:00+02:00"})
    assert answer.json()["expires_at"] == "2099-01-31T06:00:00Z"
    assert [item["expires_at"] for item in page(edge, "expiring")["items"]] == ["2099-01-31T06:00:00Z", None]
    edge.call("DELETE", f"{path('expiring', 'Ada')}/expiry")
    assert [item["expires_at"] for item in page(edge, "expiring")["items"]] == [None, None]


def test_a_list_that_has_not_changed_is_not_read_again(edge: Edge) -> None:
    listed(edge, "world")
    edge.transport.reset()
    before = list(edge.app.state.services.subject_lists.kept["world"].names)
    for _ in range(3):
        assert listed(edge, "world") == before
    answers = [request.url.params for request in edge.transport.requests if request.url.path.endswith("/names")]
    assert len(answers) == 3
    assert all("since" in params for params in answers)


def test_a_gallery_of_too_many_subjects_is_not_listed_and_its_subjects_are_found(pair: Pair, edge: Edge) -> None:
    small = pair.edge("small", max_listed_subjects=3)
    for gallery, count in (("four", 4), ("three", 3), ("two", 2)):
        small.make(gallery)
        for seed in range(count):
            enroll(small, gallery, f"person {seed}", seed)
    refused = assert_problem(
        small.call("GET", "/v1/galleries/four/subjects"), 422, "unprocessable", "too_many_subjects"
    )
    assert "MAX_LISTED_SUBJECTS" in refused["detail"]
    assert small.call("GET", path("four", "person 3")).status_code == 200
    lists = small.app.state.services.subject_lists
    assert len(listed(small, "three")) == 3
    assert len(listed(small, "two")) == 2
    assert list(lists.kept) == ["two"], "the list asked for longest ago went"
    assert len(listed(small, "three")) == 3


def test_pages_of_the_cloud_between_which_a_subject_went_make_no_list_of_two_moments(edge: Edge) -> None:
    """The cloud's pages are made small, and a subject is erased after the first."""
    edge.make("pages")
    names = [f"person {number:02}" for number in range(9)]
    for seed, name in enumerate(names):
        enroll(edge, "pages", name, seed)
    assert listed(edge, "pages") == names
    for seed, name in enumerate(names):  # so that all have changed since
        enroll(edge, "pages", name, seed + 100)
    erased: list[str] = []

    async def small_pages(transport: CloudTransport, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/names"):
            return await transport.deliver(request)
        url = request.url.copy_set_param("limit", "4")
        answer = await transport.deliver(httpx.Request("GET", url, headers=request.headers))
        if not erased:
            erased.append(names[0])
            services = edge.app.state.services
            await services.subjects.erase("pages", names[0])
        return answer

    edge.transport.always = small_pages
    try:
        assert listed(edge, "pages") in (names[1:], names)
        assert listed(edge, "pages") == names[1:]
    finally:
        edge.transport.reset()
