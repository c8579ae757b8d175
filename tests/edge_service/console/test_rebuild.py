"""A decoder that the lab trained and exported rebuilds at the edge what it rebuilds in the lab."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from edge_service.console.rebuild import Decoder
from edge_service.protection.profiles.decoder import decoder_folder, read_decoder, write_decoder
from edge_service.protection.seal import seal_matrix
from edge_service.settings import EdgeSettings
from edge_service.vision.reader import FaceReader
from lab.data.embedders import open_encoder
from lab.data.torch_embedder import load_torch_embedder
from lab.defence.decoders import DECODERS, InversionOptions, build, rebuilt, train_decoder
from lab.defence.recipe import Recipe
from lab.defence.training import Checkpoint
from lab.export.decoder_export import decoder_file
from shared.command import build as build_command
from shared.errors import Conflict, SetupError
from shared.metrics import Metrics
from shared.security.credentials import Scope
from tests.support.cloud_client import assert_problem
from tests.support.edge import Edge, Pair, pixels, sample

DIM = 128
SPEECH = sample("obama/speech.jpg")
FACES = ("unprotected", "template_with_key", "template_without_key")


def unit(count: int, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@pytest.fixture(scope="module")
def trained(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """A decoder after a few steps, of the edge's own embedder, on public-domain portraits."""
    folder = tmp_path_factory.mktemp("decoder")
    encoder = open_encoder("sface_2021dec")
    tiles = pixels("obama/portrait.jpg")
    crops = np.stack([tiles[at : at + 112, at : at + 112] for at in range(0, 64, 2)])
    embedder = load_torch_embedder(encoder.path, cache=folder)
    options = InversionOptions(epochs=2, batch=8, identity_steps=1, identity_batch=4)
    rows = unit(len(crops))
    return train_decoder("upsampling-112", rows, crops, rows, embedder, options, Checkpoint(folder))[0]


@pytest.fixture(scope="module")
def profiles(trained: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of profiles with the decoder beside default-2."""
    folder = tmp_path_factory.mktemp("profiles")
    sha256 = open_encoder("sface_2021dec").sha256
    write_decoder(folder, "default-2", decoder_file("upsampling-112", trained, DIM, sha256), replace=False)
    return folder


@pytest.fixture(scope="module")
def edge(profiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with Pair(tmp_path_factory.mktemp("edge")) as pair:
        opened = pair.edge(profiles=profiles)
        opened.make("door")
        yield opened


def shown(uri: str) -> NDArray[np.uint8]:
    kind, _, data = uri.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data, validate=True))))


@pytest.mark.parametrize("family", ["upsampling", "upsampling-112"])
def test_onnx_runtime_rebuilds_what_torch_does(trained: nn.Module, family: str) -> None:
    decoder = trained if family == "upsampling-112" else build(family, DIM).eval()
    found = decoder_file(family, decoder, DIM, "0" * 64)
    rows = unit(5, seed=3)
    made = Decoder(found).pictures(rows).astype(float) / 255
    expected = rebuilt(decoder, rows).transpose(0, 2, 3, 1)
    assert made.shape == (5, DECODERS[family][0], DECODERS[family][0], 3)
    assert np.abs(made - expected).max() <= 0.5 / 255 + 1e-4
    assert np.abs(made[0] - made[1]).max() > 1 / 255


def test_the_same_decoder_gives_the_same_bytes(trained: nn.Module) -> None:
    assert decoder_file("upsampling-112", trained, DIM, "0" * 64) == decoder_file(
        "upsampling-112", trained, DIM, "0" * 64
    )


def test_the_edge_rebuilds_a_face_from_three_vectors_and_sends_nothing(edge: Edge, trained: nn.Module) -> None:
    assert edge.call("GET", "/v1/info").json()["console"]["decoder"] is True
    edge.make_known("door")
    edge.transport.reset()
    answer = edge.send("/v1/rebuild", SPEECH, gallery="door")
    assert answer.status_code == 200, answer.text
    assert edge.transport.requests == []
    found = answer.json()
    assert found["size"] == [112, 112]
    reader = FaceReader(EdgeSettings(), Metrics("test"))
    [face] = reader.read(SPEECH).faces[:1]
    embedding = reader.embed([face]).unit
    services = edge.app.state.services
    context = services.galleries.last_known("door")
    sealed = context.protector.templates(embedding, context.protection.key).templates
    opened = sealed @ seal_matrix(context.protection.key, DIM)
    assert np.allclose(
        opened, context.protector.templates(embedding, context.protection.key, sealed=False).templates, atol=1e-4
    )
    for name, row in zip(FACES, (embedding, opened, sealed), strict=True):
        expected = rebuilt(trained, np.ascontiguousarray(row, np.float32))[0].transpose(1, 2, 0) * 255
        assert np.abs(shown(found[name]) - expected).max() <= 1.5, name
    assert np.array_equal(shown(found["original"]), face.aligned)


def test_only_a_key_that_may_manage_the_gallery_sees_it(edge: Edge) -> None:
    def call(*scopes: Scope, galleries: list[str] | None = None) -> Any:
        return edge.send("/v1/rebuild", SPEECH, headers=edge.key(*scopes, galleries=galleries), gallery="door")

    assert_problem(call(Scope.MATCH, Scope.ENROLL), 403, "forbidden")
    assert_problem(call(Scope.MANAGE, galleries=["roof"]), 404, "not-found", "unknown_gallery")
    assert call(Scope.MANAGE, galleries=["door"]).status_code == 200


def test_a_gallery_must_be_named_where_the_profile_seals(edge: Edge) -> None:
    assert_problem(edge.send("/v1/rebuild", SPEECH), 422, "unprocessable", "no_gallery")
    assert_problem(edge.send("/v1/rebuild", b"no picture", gallery="door"), 415, "unsupported-picture")


def test_without_a_decoder_it_says_so(shared_edge: Edge) -> None:
    assert_problem(shared_edge.send("/v1/rebuild", SPEECH, gallery="door"), 404, "not-found", "no_decoder")


def _graph(folder: Path) -> None:
    path = folder / "decoder.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")


def _described(**change: object) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / "decoder.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return write


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_graph, "damaged"),
        (lambda folder: (folder / "decoder.json").unlink(), "damaged"),
        (_described(version=2), "damaged"),
        (_described(more=1), "damaged"),
        (_described(embedder_sha256="1" * 64), "another embedder"),
        (_described(dim=64), "another embedder"),
        (_described(side=64), "does not take and give"),
    ],
)
def test_a_damaged_or_foreign_decoder_stops_the_start(
    profiles: Path, edge: Edge, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    found = read_decoder(profiles, "default-2")
    assert found is not None
    damage(write_decoder(tmp_path, "default-2", found, replace=False))
    with pytest.raises(SetupError, match=said):
        edge.pair.edge("refused", profiles=tmp_path)


def test_a_decoder_is_not_replaced_unless_it_is_said(profiles: Path) -> None:
    found = read_decoder(profiles, "default-2")
    assert found is not None
    with pytest.raises(Conflict):
        write_decoder(profiles, "default-2", found, replace=False)
    assert write_decoder(profiles, "default-2", found, replace=True) == decoder_folder(profiles, "default-2")


def test_the_decoder_of_a_training_is_put_beside_the_profile_of_its_name(tmp_path: Path, trained: nn.Module) -> None:
    recipe = Recipe(
        name="own", summary="Test.", embedder="sface_2021dec", tau=0.4, sides="both", images="i", people="p"
    )
    out = tmp_path / "run"
    (out / "attackers").mkdir(parents=True)
    recipe.write(out)
    command = ["lab", "export-decoder", "--out", str(out), "--to", str(tmp_path / "profiles")]
    missing = CliRunner().invoke(build_command(), command)
    assert isinstance(missing.exception, SetupError)
    assert "holds no trained decoder" in missing.exception.detail
    torch.save(trained.state_dict(), out / "attackers" / "upsampling-112.pt")
    assert CliRunner().invoke(build_command(), command, catch_exceptions=False).exit_code == 0
    found = read_decoder(tmp_path / "profiles", "own")
    assert found is not None
    rows = unit(1)
    expected = rebuilt(trained, rows)[0].transpose(1, 2, 0) * 255
    assert np.abs(Decoder(found).pictures(rows)[0] - expected).max() <= 0.6
    assert isinstance(CliRunner().invoke(build_command(), command).exception, Conflict)


def test_a_decoder_changes_no_profile(edge: Edge, shared_edge: Edge) -> None:
    one, other = (each.call("GET", "/v1/info").json()["profile"] for each in (edge, shared_edge))
    assert one == other
