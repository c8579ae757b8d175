"""Embeddings of another dimension get one answer, whichever way they come in and whatever the profile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from edge_service.protection.profiles.files import check_profile_dimension, load_profile
from shared.command import build
from shared.contract import MAX_DIM
from shared.errors import BadRequest, SetupError, Unprocessable
from tests.support.cloud_client import assert_problem
from tests.support.edge import Edge, Pair
from tests.support.patronus_profile import units

WANTED = 128
OTHER = [64, 127, 129, 512, 4096]
FLOATS = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def edges(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Edge]]:
    """An edge whose profile has a network, and one whose profile seals alone; each has a gallery of its name."""
    with Pair(tmp_path_factory.mktemp("pair")) as pair:
        found = {"default-2": pair.edge("one"), "seal": pair.edge("two", profile="seal")}
        for name, edge in found.items():
            edge.make(name)
        yield found


def sentence(given: int) -> str:
    return f"The embeddings have {given} dimensions, and {WANTED} are wanted; send those of the gallery's embedder."


def assert_told(answer: httpx.Response, given: int) -> None:
    problem = assert_problem(answer, 422, "unprocessable", "wrong_dimension")
    assert (problem["detail"], problem["given"], problem["wanted"]) == (sentence(given), given, WANTED)


@pytest.mark.parametrize("profile", ["default-2", "seal"])
@pytest.mark.parametrize("dim", [1, *OTHER])
def test_an_edge_refuses_them_in_every_body(edges: dict[str, Edge], profile: str, dim: int) -> None:
    edge, [row], at = edges[profile], units(1, dim), {"gallery": profile}
    assert_told(edge.call("POST", "/v1/protect", json={"embeddings": [row.tolist()]}, params=at), dim)
    assert_told(edge.call("POST", "/v1/protect", FLOATS, content=row.tobytes(), params=at | {"dim": dim}), dim)
    path = f"/v1/galleries/{profile}/subjects/ada/embeddings"
    assert_told(edge.call("POST", path, json={"embeddings": [{"values": row.tolist()}]}), dim)
    many = {"embeddings": [{"subject": "ada", "values": row.tolist()}]}
    assert_told(edge.call("POST", f"/v1/galleries/{profile}/embeddings", json=many), dim)
    assert edge.held(profile) == (0, 0)


def test_more_values_than_any_contract_allows_are_reported_too(edges: dict[str, Edge]) -> None:
    edge, [row], at = edges["seal"], units(1, 5000), {"gallery": "seal"}
    assert_told(edge.call("POST", "/v1/protect", json={"embeddings": [row.tolist()]}, params=at), 5000)
    assert_told(edge.call("POST", "/v1/protect", FLOATS, content=row.tobytes(), params=at | {"dim": 5000}), 5000)


@pytest.mark.parametrize("profile", ["default-2", "seal"])
@pytest.mark.parametrize("dim", [*OTHER, 5000])
def test_a_file_of_them_is_refused_without_a_service(
    edges: dict[str, Edge], tmp_path: Path, profile: str, dim: int
) -> None:
    edge, source, contract = edges[profile], tmp_path / "in.npz", tmp_path / "gallery.json"
    np.savez(source, embeddings=units(3, dim))
    contract.write_text(edge.call("GET", f"/v1/galleries/{profile}").text)
    command = ["protect", source, tmp_path / "out.npz", "--profile", profile]
    environment = {"PATRONUS_HOME": None, "PATRONUS_EDGE__HOME": str(edge.settings.home)}
    for way in (["--gallery", profile, "--contract", contract], ["--unsealed"] if profile == "default-2" else []):
        if way:
            ended = CliRunner().invoke(build(), [str(part) for part in [*command, *way]], env=environment)
            if dim > MAX_DIM:  # no gallery has so many
                assert isinstance(ended.exception, BadRequest)
                assert f"(3, {dim}); an embedding has {MAX_DIM:,} values at most" in ended.exception.detail
            else:
                assert isinstance(ended.exception, Unprocessable)
                assert ended.exception.detail == sentence(dim)
    assert not (tmp_path / "out.npz").exists()


def test_a_profile_of_another_dimension_than_the_gallerys_is_refused(edges: dict[str, Edge], tmp_path: Path) -> None:
    edge, contract = edges["default-2"], tmp_path / "gallery.json"
    info = edge.call("GET", "/v1/galleries/default-2").json()
    info["contract"]["dim"] = 512
    contract.write_text(json.dumps(info))
    np.savez(tmp_path / "in.npz", embeddings=units(3, 512))
    arguments = ["--profile", "default-2", "--gallery", "default-2", "--contract", str(contract)]
    command = ["protect", str(tmp_path / "in.npz"), str(tmp_path / "out.npz"), *arguments]
    environment = {"PATRONUS_HOME": None, "PATRONUS_EDGE__HOME": str(edge.settings.home)}
    ended = CliRunner().invoke(build(), command, env=environment)
    assert isinstance(ended.exception, SetupError)
    assert "'default-2' is for 128 dimensions; these embeddings have 512" in ended.exception.detail


@pytest.mark.parametrize("dim", [1, 2, 15, 4097])
def test_a_rotation_of_too_few_or_too_many_dimensions_is_no_seal(dim: int) -> None:
    seal = load_profile("seal")
    with pytest.raises(SetupError, match=rf"seals 16 to 4096 dimensions.*these embeddings have {dim}\.$"):
        check_profile_dimension(seal, dim)
    check_profile_dimension(seal, 16)
    check_profile_dimension(seal, 4096)
