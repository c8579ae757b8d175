"""Embeddings of other systems, and profiles with a network, at a real edge before a real cloud."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edge_service.app import create_app
from edge_service.protection.gaussians import seeds
from edge_service.protection.keys import KeyStore
from edge_service.protection.seal import seal_matrix
from edge_service.settings import EdgeSettings
from edge_service.vision.reader import FaceReader
from lab.defence.network import PatronusNetwork
from shared.errors import SetupError
from shared.security.credentials import Scope
from tests.support.cloud_client import assert_problem
from tests.support.edge import Edge, Pair, sample
from tests.support.patronus_profile import DIM, SEED_DIM, angles_between, make_network, make_profile, units

Rows = NDArray[np.float32]
DOOR = {"gallery": "door"}
FLOATS = {"Content-Type": "application/octet-stream", "Accept": "application/octet-stream"}


@pytest.fixture(scope="module")
def network() -> PatronusNetwork:
    return make_network()


@pytest.fixture(scope="module")
def profiles(network: PatronusNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of profiles: ``sealing`` with a network and a seal, ``plain`` with the network alone."""
    folder = tmp_path_factory.mktemp("profiles")
    make_profile(folder, network, name="sealing", step={"input_norm": [2.0, 40.0]})
    make_profile(folder, network, name="plain", seals=False)
    return folder


@pytest.fixture(scope="module")
def opened(models_folder: Path, tmp_path_factory: pytest.TempPathFactory, profiles: Path) -> Any:
    with Pair(tmp_path_factory.mktemp("pair")) as pair:
        edge = pair.edge(profile="sealing", profiles=profiles)
        edge.make("door")
        yield edge


@pytest.fixture
def sealing(opened: Edge) -> Edge:
    """An edge whose profile perturbs and seals, with a gallery ``door``."""
    return opened


def protect(edge: Edge, embeddings: Any, headers: dict[str, str] | None = None, **query: Any) -> httpx.Response:
    return edge.call("POST", "/v1/protect", headers, json={"embeddings": embeddings}, params=query)


def enroll(edge: Edge, subject: str, *new: dict[str, Any], gallery: str = "door") -> httpx.Response:
    path = f"/v1/galleries/{gallery}/subjects/{subject}/embeddings"
    return edge.call("POST", path, json={"embeddings": list(new)})


def reckoned(network: PatronusNetwork, edge: Edge, rows: Rows, gallery: str = "door") -> Rows:
    """What the templates of a gallery must be, by torch and the gallery's key alone."""
    epoch = edge.call("GET", f"/v1/galleries/{gallery}").json()["contract"]["seal"]["epoch"]
    key = KeyStore(edge.settings.home).gallery(gallery).epoch(epoch)
    drawn = torch.tensor(seeds(rows, key.stream_key("perturb seed"), SEED_DIM))
    with torch.no_grad():
        seal = torch.tensor(seal_matrix(key, DIM))
        template: Rows = network(torch.tensor(rows), drawn, torch.full((len(rows),), 4.0), seal).template.numpy()
    return template


def sent_templates(edge: Edge, after: int) -> Rows:
    """Every template that was sent to the cloud."""
    found: list[Any] = []

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            found.extend([value["data"]] if "data" in value else [])
            for each in value.values():
                collect(each)
        elif isinstance(value, list):
            for each in value:
                collect(each)

    for request in edge.transport.requests[after:]:
        collect(json.loads(request.content or b"null"))
    return np.array([np.frombuffer(base64.b64decode(data), "<f4") for data in found])


def test_what_crosses_and_what_is_stored_is_protected_and_never_raw(
    sealing: Edge, network: PatronusNetwork, reader: FaceReader
) -> None:
    pictures = [sample("obama/portrait.jpg"), sample("obama/speech.jpg")]
    faces = [reader.read(picture).faces[0] for picture in pictures]
    raw = np.concatenate([reader.embed(faces[:1], mirrored=True).unit, reader.embed(faces).unit])
    before = len(sealing.transport.requests)
    answer = sealing.enroll("door", "obama", pictures[0])
    assert (answer.status_code, answer.json()["unperturbed"]) == (201, 0)
    assert sealing.verify("door", "obama", pictures[1]).json()["decision"] == "match"
    assert sealing.identify("door", pictures[1]).json()["faces"][0]["candidates"][0]["subject"] == "obama"

    sent = sent_templates(sealing, before)
    wanted = reckoned(network, sealing, raw)
    np.testing.assert_allclose(sent, wanted[[0, 0, 2, 2]], atol=5e-5)  # searched for, then enrolled
    stored = b"".join(path.read_bytes() for path in sealing.pair.folder.glob("cloud/record.db*"))
    assert sent[0].tobytes() in stored
    for row in raw:
        assert row.tobytes()[:32] not in stored
        assert all(row.tobytes()[:32] not in request.content for request in sealing.transport.requests)
        assert (np.abs(sent @ row) < 0.6).all()


def test_a_repeated_picture_gives_the_same_template(sealing: Edge) -> None:
    before = len(sealing.transport.requests)
    for _ in range(2):
        sealing.identify("door", sample("biden/standing.jpg"))
    first, second = sent_templates(sealing, before)
    np.testing.assert_array_equal(first, second)


def test_json_floats_and_the_network_agree(sealing: Edge, network: PatronusNetwork) -> None:
    raw = (units(5) * np.float32(7)).astype(np.float64)
    rows = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    before = len(sealing.transport.requests)
    reply = protect(sealing, raw.tolist(), **DOOR)
    assert reply.status_code == 200, reply.text
    body = reply.json()
    np.testing.assert_allclose(body["templates"], reckoned(network, sealing, rows), atol=5e-5)
    assert body["sealed"] is True
    assert body["profile"]["name"] == "sealing"
    assert body["contract"] == sealing.call("GET", "/v1/galleries/door").json()["contract_digest"]
    assert body["unperturbed"] == 0

    plain = sealing.call("POST", "/v1/protect", FLOATS, content=rows.tobytes(), params=DOOR | {"dim": DIM})
    assert (plain.status_code, plain.headers["X-Patronus-Dim"]) == (200, str(DIM))
    found = np.frombuffer(plain.content, "<f4").reshape(5, DIM + 1)
    again = protect(sealing, rows.astype(np.float64).tolist(), **DOOR).json()
    np.testing.assert_array_equal(found[:, :DIM], np.array(again["templates"], np.float32))
    np.testing.assert_array_equal(found[:, DIM], np.array(again["angles"], np.float32))
    assert all(request.method == "GET" for request in sealing.transport.requests[before:]), "nothing was sent"


def test_a_picture_is_protected_as_its_embedding(sealing: Edge, reader: FaceReader) -> None:
    picture = sample("collins/portrait.png")
    raw = reader.embed(reader.read(picture).faces[:1]).unit
    answer = sealing.send("/v1/protect", picture, **DOOR).json()
    np.testing.assert_allclose(
        answer["templates"], protect(sealing, raw.tolist(), **DOOR).json()["templates"], atol=1e-5
    )
    assert len(answer["angles"]) == 1


def test_an_embedding_without_a_margin_is_counted(sealing: Edge, network: PatronusNetwork) -> None:
    def counted() -> float:
        text = sealing.call("GET", "/metrics").text
        return float(text.split("\npatronus_edge_unperturbed_total ")[1].split()[0])

    # What erase makes an impostor of the cohort of: there is no margin to it at all.
    near = np.linalg.pinv(network.eraser.numpy(), rcond=1e-3) @ network.cohort[0].numpy()
    rows, before = np.stack([near / np.linalg.norm(near), *units(2)]).astype(np.float32), counted()
    answer = protect(sealing, rows.tolist(), **DOOR).json()
    assert answer["unperturbed"] == 1
    assert answer["angles"][0] == 0 < min(answer["angles"][1:])
    assert counted() - before == 1


BAD: dict[str, tuple[Any, str]] = {
    "infinity in float32": (json.dumps([[1e39] + [0.0] * 127]), "not_finite"),
    "zero vector": (json.dumps([[0.0] * 128]), "zero_vector"),
    "another dimension": (json.dumps([[1.0] * 64]), "wrong_dimension"),
    "rows of two lengths": (json.dumps([[1.0] * 128, [1.0] * 127]), "uneven"),
    "an implausible length": (json.dumps([[100.0] * 128]), "implausible_length"),
    "no embedding": ("[]", "bad_body"),
    "an empty embedding": ("[[]]", "bad_body"),
    "words": ('[["a"]]', "bad_body"),
    "numbers as words": (json.dumps([["1.0"] * 128]), "bad_body"),
    "too many": (json.dumps([[1.0, 1.0]] * 501), "bad_body"),
    "no JSON": ("[[1.0", "bad_body"),
}


@pytest.mark.parametrize(("embeddings", "reason"), BAD.values(), ids=BAD)
def test_what_is_no_embedding_is_refused_in_a_sentence(sealing: Edge, embeddings: str, reason: str) -> None:
    content = f'{{"embeddings": {embeddings}}}'
    headers = {"Content-Type": "application/json"}
    answer = sealing.call("POST", "/v1/protect", headers, content=content, params=DOOR)
    assert_problem(answer, 422, "unprocessable", reason)


@pytest.mark.parametrize(
    ("content", "query", "status", "reason"),
    [
        (b"", {"dim": 128}, 422, "uneven"),
        (b"\0" * 511, {"dim": 128}, 422, "uneven"),
        (units(1).tobytes(), {}, 422, "no_dim"),
        (units(1).tobytes(), {"dim": 64}, 422, "wrong_dimension"),
        (np.full((1, 128), np.nan, "<f4").tobytes(), {"dim": 128}, 422, "not_finite"),
        (bytes(512), {"dim": 128}, 422, "zero_vector"),
        (units(501).tobytes(), {"dim": 128}, 422, "too_many"),
        (bytes(9 * 1024 * 1024), {"dim": 128}, 413, None),
    ],
)
def test_floats_that_are_no_rows_are_refused(
    sealing: Edge, content: bytes, query: dict[str, int], status: int, reason: str | None
) -> None:
    answer = sealing.call("POST", "/v1/protect", FLOATS, content=content, params=DOOR | query)
    assert_problem(answer, status, "too-large" if status == 413 else "unprocessable", reason)


def test_another_kind_of_body_is_refused(sealing: Edge) -> None:
    answer = sealing.call("POST", "/v1/protect", {"Content-Type": "application/x-npy"}, content=b"x", params=DOOR)
    assert_problem(answer, 400, "bad-request", "unknown_body")


def test_a_seal_needs_a_gallery_that_is_there_and_the_callers(sealing: Edge) -> None:
    rows = units(1).tolist()
    assert_problem(protect(sealing, rows), 422, "unprocessable", "no_gallery")
    assert_problem(protect(sealing, rows, gallery="nowhere"), 404, "not-found")
    elsewhere = sealing.key(*Scope, galleries=["elsewhere"])
    assert_problem(protect(sealing, rows, elsewhere, **DOOR), 404, "not-found", "unknown_gallery")
    assert_problem(protect(sealing, rows, elsewhere), 403, "forbidden")
    for scope in (Scope.ENROLL, Scope.MATCH):
        assert_problem(protect(sealing, rows, sealing.key(scope), **DOOR), 403, "forbidden")


def test_without_a_seal_a_gallery_only_seeds(pair: Pair, network: PatronusNetwork, profiles: Path) -> None:
    edge = pair.edge(profile="plain", profiles=profiles)
    assert edge.make("door")["contract"]["seal"] is None
    edge.make("roof")
    rows = units(3)
    by = {
        name: protect(edge, rows.tolist(), **query).json()
        for name, query in [("none", {}), ("again", {}), ("door", DOOR), ("roof", {"gallery": "roof"})]
    }
    assert by["none"] == by["again"]
    assert (by["none"]["contract"], by["none"]["sealed"]) == (None, False)
    with torch.no_grad():
        left = network.erase(torch.tensor(rows)).numpy()
    for reply in by.values():
        np.testing.assert_allclose(angles_between(np.array(reply["templates"]), left), reply["angles"], atol=5e-6)
    distinct = {json.dumps(reply["templates"]) for reply in by.values()}
    assert len(distinct) == 3

    assert edge.enroll("door", "obama", sample("obama/portrait.jpg")).status_code == 201
    assert edge.verify("door", "obama", sample("obama/speech.jpg")).json()["decision"] == "match"


def test_embeddings_are_enrolled_once_however_often_they_are_sent(sealing: Edge, network: PatronusNetwork) -> None:
    rows = units(4, seed=9)
    named = [{"values": row.tolist(), "face": f"badge {n}"} for n, row in enumerate(rows[:2])]
    unnamed = [{"values": row.tolist()} for row in rows[2:]]
    before, held = len(sealing.transport.requests), sealing.held("door")
    first = enroll(sealing, "imported", *named, *unnamed, unnamed[0])
    assert first.status_code == 201, first.text
    faces = first.json()["faces"]
    assert [face["stored"] for face in faces] == ["now"] * 5
    assert faces[4] == faces[2]
    np.testing.assert_allclose(sent_templates(sealing, before), reckoned(network, sealing, rows), atol=5e-5)

    known = [face | {"stored": "before"} for face in faces]
    assert enroll(sealing, "imported", *reversed(named)).json()["faces"] == known[1::-1]
    assert enroll(sealing, "imported", unnamed[1]).json()["faces"] == [known[3]]
    assert enroll(sealing, "imported", named[0] | {"values": rows[3].tolist()}).json()["faces"] == [known[0]]
    assert np.subtract(sealing.held("door"), held).tolist() == [1, 4]
    for twice in (named[0], named[1] | {"face": "badge 0"}):
        assert_problem(enroll(sealing, "imported", named[0], twice), 422, "unprocessable", "duplicate_face")
    other = enroll(sealing, "another", *named).json()["faces"]
    assert {face["id"] for face in other}.isdisjoint(face["id"] for face in faces)


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        ({"values": [0.0] * 128}, "zero_vector"),
        ({"values": [1.0] * 127}, "uneven"),
        ({"values": [1.0]}, None),
        ({"values": [1.0] * 128, "face": ""}, None),
        ({"face": "a"}, None),
        ({"values": [1.0] * 128, "template": []}, None),
    ],
)
def test_a_bad_embedding_enrolls_nothing(sealing: Edge, new: dict[str, Any], reason: str | None) -> None:
    good = {"values": units(1)[0].tolist()}
    held = sealing.held("door")
    assert_problem(enroll(sealing, "bad", good, new), 422, "unprocessable", reason)
    assert sealing.held("door") == held
    assert_problem(enroll(sealing, "nobody", good, gallery="nowhere"), 404, "not-found")


def test_a_gallery_of_another_profile_is_refused(pair: Pair, profiles: Path) -> None:
    sealed, perturbing = pair.edge(profile="seal"), pair.edge(profile="sealing", profiles=profiles)
    sealed.make("door")
    rows = units(1).tolist()
    for answer in (
        perturbing.call("PUT", "/v1/galleries/door"),
        perturbing.enroll("door", "obama", sample("obama/portrait.jpg")),
        protect(perturbing, rows, **DOOR),
        enroll(perturbing, "obama", {"values": rows[0]}),
    ):
        body = assert_problem(answer, 409, "contract-mismatch")
        assert "profile" in body["differing"]
        assert "another protection profile" in body["detail"]
        assert "contract" not in body["detail"]
    assert sealed.held("door") == (0, 0)


def test_the_plain_seal_serves_embeddings_too(pair: Pair) -> None:
    rows, edge = units(2), pair.edge(profile="seal")
    edge.make("door")
    reply = protect(edge, rows.tolist(), **DOOR).json()
    assert (reply["angles"], reply["unperturbed"], reply["sealed"]) == ([0.0, 0.0], 0, True)
    np.testing.assert_allclose(np.array(reply["templates"]) @ np.array(reply["templates"]).T, rows @ rows.T, atol=1e-5)
    assert_problem(protect(edge, [[1.0] * 64], **DOOR), 422, "unprocessable", "wrong_dimension")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda home: (home / "patronus.onnx").write_bytes(b"x"), "is not the one that the profile names"),
        (lambda home: (home / "patronus.onnx").unlink(), "lacks its file"),
        (lambda home: (home / "profile.json").write_text('{"version": 2}'), "newer than this program"),
    ],
)
def test_a_spoilt_profile_stops_the_start(
    pair: Pair, network: PatronusNetwork, tmp_path: Path, spoil: Any, says: str
) -> None:
    make_profile(tmp_path / "profiles", network)
    spoil(tmp_path / "profiles" / "mine")
    with pytest.raises(SetupError, match=says):
        pair.edge(profile="mine", profiles=tmp_path / "profiles")
    assert create_app(EdgeSettings(home=tmp_path / "unused")) is not None
