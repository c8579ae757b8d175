"""One default threshold, wherever an edge decides, and an answer that says where it and its rate come from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_service.vision.embed import SFACE
from shared.wire.common import Threshold
from tests.support.edge import Edge, Pair, sample
from tests.support.patronus_profile import make_network, make_profile

OBAMA = [sample(f"obama/{name}.jpg") for name in ("portrait", "speech")]
OWN = Threshold(cosine=0.41, fmr=0.003)


@pytest.fixture(scope="module")
def edges(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Edge]]:
    """An edge of each kind of profile: shipped and calibrated, without a threshold, and the operator's own."""
    profiles = tmp_path_factory.mktemp("profiles")
    make_profile(profiles, make_network(), name="own", threshold=OWN.model_dump())
    with Pair(tmp_path_factory.mktemp("pair")) as pair:
        yield {
            "default": pair.edge("one"),
            "seal": pair.edge("two", profile="seal"),
            "own": pair.edge("three", profile="own", profiles=profiles),
        }


@pytest.mark.parametrize(
    ("profile", "chosen_by", "measured_on"),
    [
        ("default", "profile", "lfw_adults"),
        ("seal", "embedder", "lfw_adults"),
        ("own", "profile", "own_profile"),
    ],
)
def test_a_comparison_and_a_gallery_decide_at_the_same_threshold(
    edges: dict[str, Edge], profile: str, chosen_by: str, measured_on: str
) -> None:
    edge = edges[profile]
    info = edge.call("GET", "/v1/info").json()
    wanted = info["default_threshold"]
    assert (info["threshold_from"], info["fmr_measured_on"]) == (chosen_by, measured_on)
    if profile == "seal":
        assert wanted == SFACE.threshold.model_dump()
    if profile == "own":
        assert wanted == OWN.model_dump()

    assert edge.make(f"door-{profile}")["threshold"] == wanted
    edge.enroll(f"door-{profile}", "obama", OBAMA[0])
    compared = edge.send("/v1/compare", *OBAMA).json()
    verified = edge.verify(f"door-{profile}", "obama", OBAMA[1]).json()
    identified = edge.identify(f"door-{profile}", OBAMA[1]).json()
    for answer in (compared, verified, identified):
        assert (answer["threshold"], answer["reference_fmr"]) == (wanted["cosine"], wanted["fmr"])
        assert answer["fmr_measured_on"] == measured_on
        assert "fmr_at_threshold" not in answer
    assert [answer["threshold_from"] for answer in (compared, verified, identified)] == [
        chosen_by,
        "gallery",
        "gallery",
    ]


def test_the_rate_of_an_operators_threshold_is_called_the_operators(edges: dict[str, Edge]) -> None:
    edge = edges["default"]
    given = {"threshold": {"cosine": 0.5, "fmr": 0.0001}}
    edge.call("PUT", "/v1/galleries/given", json=given)
    edge.enroll("given", "obama", OBAMA[0])
    answer = edge.verify("given", "obama", OBAMA[1]).json()
    threshold = {name: answer[name] for name in ("threshold", "threshold_from", "reference_fmr", "fmr_measured_on")}
    assert threshold == {
        "threshold": 0.5,
        "threshold_from": "gallery",
        "reference_fmr": 0.0001,
        "fmr_measured_on": "operator",
    }


def test_the_description_says_that_the_rate_is_not_that_of_children(edges: dict[str, Edge]) -> None:
    schemas: dict[str, Any] = edges["default"].call("GET", "/openapi.json").json()["components"]["schemas"]
    for name in ("CompareAnswer", "VerifyFaceAnswer", "IdentifyFacesAnswer", "EdgeInfo"):
        assert "children" in schemas[name]["properties"]["fmr_measured_on"]["description"]
    assert "adults" in schemas["Threshold"]["properties"]["fmr"]["description"]
