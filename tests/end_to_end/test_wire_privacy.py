"""What crosses from edge to cloud, taken from the connection itself, byte for byte."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_service.protection.keys import KeyStore
from edge_service.protection.profiles.files import load_profile
from edge_service.protection.protect import Protector
from edge_service.protection.seal import seal_matrix
from edge_service.settings import EdgeSettings
from edge_service.vision.reader import FaceReader
from shared.metrics import Metrics
from shared.security.secret_files import read_secret
from tests.support.servers import PICTURES, RunningPair

Pictures = dict[str, bytes]
GALLERY = "/v1/galleries/wire"


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return {
        "enrolled": (PICTURES / "obama/portrait.jpg").read_bytes(),
        "probe": (PICTURES / "obama/speech.jpg").read_bytes(),
    }


@pytest.fixture(scope="module")
def crossed(pair: RunningPair, pictures: Pictures) -> tuple[bytes, bytes]:
    """All bytes to the cloud, and all from it, of an enrollment, a verification and an identification."""
    to_cloud, to_edge = len(pair.relay.to_cloud), len(pair.relay.to_edge)
    pair.edge.put(GALLERY).raise_for_status()
    pair.edge.post(f"{GALLERY}/subjects/obama/faces", files={"image": pictures["enrolled"]}).raise_for_status()
    for path in (f"{GALLERY}/subjects/obama/verify", f"{GALLERY}/identify"):
        pair.edge.post(path, files={"image": pictures["probe"]}).raise_for_status()
    return bytes(pair.relay.to_cloud[to_cloud:]), bytes(pair.relay.to_edge[to_edge:])


@pytest.fixture(scope="module")
def raw(pictures: Pictures) -> dict[str, NDArray[np.float32]]:
    """The raw embeddings that must not cross, from the edge's own code."""
    reader = FaceReader(EdgeSettings(), Metrics("test"))
    faces = {name: reader.read(data).faces[:1] for name, data in pictures.items()}
    alone = {name: reader.embed(face).unit[0] for name, face in faces.items()}
    return alone | {f"{name}, mirrored too": reader.embed(face, mirrored=True).unit[0] for name, face in faces.items()}


def _vectors(stream: bytes) -> list[NDArray[np.float32]]:
    """Every template in the stream."""
    found = re.findall(rb'"data":"([A-Za-z0-9+/=]+)"', stream)
    return [np.frombuffer(base64.b64decode(data), dtype="<f4") for data in found]


def test_four_templates_crossed_and_each_is_the_protected_embedding(
    pair: RunningPair, crossed: tuple[bytes, bytes], raw: dict[str, NDArray[np.float32]]
) -> None:
    templates = _vectors(crossed[0])
    assert len(templates) == 4, "one to see whom else it matches, the same to enroll, and two probes"
    contract = pair.edge.get(GALLERY).json()["contract"]
    key = KeyStore(pair.home / "edge").gallery("wire").epoch(contract["seal"]["epoch"])
    embeddings = np.stack([raw["enrolled, mirrored too"]] * 2 + [raw["probe"]] * 2)
    protector = Protector(load_profile(contract["profile"]["name"]))
    plain = protector.templates(embeddings, key, sealed=False)
    # With the seal undone each is what the profile makes of the embedding before the seal; as it crossed it is as far
    # from the embedding as any random direction.
    np.testing.assert_allclose(np.stack(templates) @ seal_matrix(key, 128), plain.templates, atol=1e-4)
    assert (np.abs(np.vecdot(np.stack(templates), embeddings)) < 0.5).all()


def test_no_picture_and_no_part_of_one_crosses(crossed: tuple[bytes, bytes], pictures: Pictures) -> None:
    stream = crossed[0]
    for magic in (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"WEBP", b"ftypavif", b"JFIF", b"multipart"):
        assert magic not in stream
    for data in pictures.values():
        for start in range(0, len(data) - 24, 997):
            part = data[start : start + 24]
            assert part not in stream
            assert base64.b64encode(part)[:28] not in stream


def test_no_raw_embedding_crosses_in_any_common_form(
    crossed: tuple[bytes, bytes], raw: dict[str, NDArray[np.float32]]
) -> None:
    stream = crossed[0] + crossed[1]
    for embedding in raw.values():
        for dtype in ("<f4", ">f4", "<f8", ">f8", "<f2"):
            encoded = embedding.astype(dtype).tobytes()
            for start in range(0, len(encoded) - 16, 16):
                assert encoded[start : start + 16] not in stream
            for shift in range(3):  # base64 groups three bytes: a run of bytes has three faces in it
                assert base64.b64encode(encoded[shift:])[:32] not in stream
        for value in embedding[:16]:
            assert f"{value:.6f}".encode() not in stream


def test_no_name_of_a_subject_crosses_or_is_written_by_the_cloud(
    pair: RunningPair, crossed: tuple[bytes, bytes]
) -> None:
    files = b"".join(path.read_bytes() for path in sorted((pair.home / "cloud").rglob("*")) if path.is_file())
    places = [crossed[0], crossed[1], files]
    assert all(b"wire" in place for place in places[::2]), "the search does find what is there"
    for place in places:
        assert b"obama" not in place.lower()
        assert b"obama".hex().encode() not in place
    tokens = set(re.findall(rb"/subjects/(~[A-Za-z0-9_-]+)/", crossed[0]))
    assert len(tokens) == 1, "one subject, by one sealed name"
    [token] = tokens
    assert token in files


def test_no_key_crosses_but_the_one_that_the_cloud_gave(pair: RunningPair, crossed: tuple[bytes, bytes]) -> None:
    stream = crossed[0] + crossed[1]
    master = read_secret(pair.home / "edge" / "master.key").split()[0]
    secrets = [master, bytes.fromhex(master.decode()), KeyStore(pair.home / "edge").gallery("wire").secret]
    secrets += [read_secret(pair.home / "edge" / "api_key").strip()]
    for secret in secrets:
        assert secret not in stream
        assert base64.b64encode(secret).rstrip(b"=") not in stream
    assert read_secret(pair.home / "cloud" / "api_key").strip() in stream


def test_the_cloud_answers_no_vector(crossed: tuple[bytes, bytes]) -> None:
    assert not _vectors(crossed[1])
    assert not re.search(rb"[A-Za-z0-9+/]{200,}", crossed[1])


def test_requests_carry_only_known_members(crossed: tuple[bytes, bytes]) -> None:
    bodies = [
        json.loads(line) for line in re.findall(rb"\r\n\r\n(\{.*?\})(?=GET|PUT|POST|DELETE|$)", crossed[0], re.DOTALL)
    ]
    members: set[str] = set()
    for body in bodies:
        stack = [body]
        while stack:
            at = stack.pop()
            if isinstance(at, dict):
                members |= at.keys()
                stack += at.values()
            elif isinstance(at, list):
                stack += at
    contract = {
        "contract",
        "version",
        "dim",
        "metric",
        "embedder",
        "profile",
        "seal",
        "name",
        "sha256",
        "preprocessing",
    }
    contract |= {"key_id", "epoch", "scope", "threshold", "cosine", "fmr"}
    assert len(bodies) == 5
    contract |= {"score", "rule", "exponents", "sealed_names"}
    template = {"templates", "id", "template", "weight", "dtype", "data"}
    assert members <= contract | template | {"probe", "probes", "top_k"}


def test_nothing_under_the_clouds_folder_holds_the_raw_embedding(
    pair: RunningPair, crossed: tuple[bytes, bytes], raw: dict[str, NDArray[np.float32]]
) -> None:
    files = {path: path.read_bytes() for path in (pair.home / "cloud").rglob("*") if path.is_file()}
    stored = _vectors(crossed[0])[0].tobytes()
    assert any(stored in content for content in files.values())  # the search does find what is there
    for embedding in raw.values():
        assert not any(embedding.tobytes()[:32] in content for content in files.values())
