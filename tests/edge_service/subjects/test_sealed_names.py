"""Subjects are called by any name at the edge, and by no name at the cloud."""

from __future__ import annotations

import base64
import json
import secrets
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from structlog.testing import capture_logs

from edge_service import gallery_contexts
from edge_service.protection.keys import KeyStore
from shared.contract import Contract
from tests.edge_service.subjects.subjects_of_edge import enroll, faces, listed, move, path
from tests.support.cloud_client import assert_problem
from tests.support.edge import CloudTransport, Edge, Pair, sample

PORTRAIT, SPEECH = sample("obama/portrait.jpg"), sample("obama/speech.jpg")
# In many scripts, and awkward in paths.
NAMES = [
    "Zoë Brontë",
    "Владимир",
    "محمد علي",
    "अमिताभ बच्चन",
    "山田 太郎",
    "👩‍👩‍👧",
    "50% off?#&=+;",
    "ada@example.com",
]


@pytest.fixture(scope="module")
def pair(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Pair(tmp_path_factory.mktemp("names")) as opened:
        yield opened


@pytest.fixture(scope="module")
def edge(pair: Pair) -> Edge:
    return pair.edge()


def written(name: str) -> set[bytes]:
    """How a name may stand in a file or on a wire."""
    forms = {unicodedata.normalize(form, name).encode() for form in ("NFC", "NFD")}
    forms |= {quote(name, safe="").encode(), json.dumps(name)[1:-1].encode(), name.encode("utf-16-le")}
    for shift in range(3):  # base64 groups three bytes
        forms.add(base64.b64encode(b"\0" * shift + name.encode())[4 : 4 * (len(name.encode()) // 3)])
    return {form for form in forms if len(form) > 5}


def found_in(data: bytes, *names: str) -> list[str]:
    return [name for name in names if any(form in data for form in written(name))]


def sent(edge: Edge) -> bytes:
    """All that went to the cloud."""
    return b"".join(
        str(request.url).encode() + request.url.raw_path + repr(request.headers.raw).encode() + request.content
        for request in edge.transport.requests
    )


def in_files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_every_operation_takes_names_in_any_script_and_the_cloud_sees_none(edge: Edge, pair: Pair) -> None:
    assert edge.make("worldwide")["sealed_names"] is True
    edge.transport.reset()
    everybody = [*NAMES, "Barack Öbama"]
    with capture_logs() as lines:
        for seed, name in enumerate(NAMES):
            ids = enroll(edge, "worldwide", name, seed)
            assert edge.call("GET", path("worldwide", name)).json()["subject"] == name
            assert faces(edge, "worldwide", name) == ids
        assert edge.send(f"{path('worldwide', 'Barack Öbama')}/faces", PORTRAIT).json()["subject"] == "Barack Öbama"
        assert edge.send(f"{path('worldwide', 'Barack Öbama')}/verify", SPEECH).json()["decision"] == "match"
        assert edge.send(f"{path('worldwide', 'Zoë Brontë')}/verify", SPEECH).json()["decision"] == "no_match"
        [face] = edge.identify("worldwide", SPEECH).json()["faces"]
        assert [one["subject"] for one in face["candidates"]] == ["Barack Öbama"]
        assert listed(edge, "worldwide") == sorted(everybody)
        assert found_in(in_files(pair.folder / "cloud"), *everybody) == []
        for name in everybody:
            assert edge.erase(path("worldwide", name)) == (1, 1)
        assert listed(edge, "worldwide") == []
    assert len(lines) > 4 * len(everybody)
    for place in (sent(edge), in_files(pair.folder / "cloud"), repr(lines).encode(), json.dumps(lines).encode()):
        assert found_in(place, *everybody) == []
    for place in (sent(edge), in_files(pair.folder / "cloud")):
        assert found_in(place, "worldwide") == ["worldwide"], "what is searched for would be found"


def test_a_name_that_is_a_word_of_the_interface_is_a_name(edge: Edge) -> None:
    edge.make("words")
    for seed, name in enumerate(["faces", "report", "verify"]):
        ids = enroll(edge, "words", name, seed)
        assert faces(edge, "words", name) == ids
        assert edge.call("GET", f"{path('words', name)}/report").json()["subject"] == name
    assert listed(edge, "words") == ["faces", "report", "verify"]


def test_names_that_differ_by_normalization_alone_are_one_subject(edge: Edge) -> None:
    edge.make("forms")
    composed, decomposed = "Zo\u00eb", "Zoe\u0308"
    ids = [*enroll(edge, "forms", composed, 1), *enroll(edge, "forms", decomposed, 2)]
    assert listed(edge, "forms") == [composed]
    assert faces(edge, "forms", decomposed) == ids
    assert enroll(edge, "forms", decomposed, 1) == ids[:1], "ids follow from the name in its one form"
    assert_problem(move(edge, "forms", composed, "rename", to=decomposed), 422, "unprocessable", "same_subject")


@pytest.mark.parametrize(
    "raw", ["%20ada", "ada%20", "%2e%2e", "a%5Cb", "a%0Ab", "%00", "Ren%E9", "a%7F", "%C2%A0", "a" * 129, "%ED%A0%80"]
)
def test_what_is_no_name_is_refused_before_the_cloud_is_asked(edge: Edge, raw: str) -> None:
    edge.make_known("worldwide")
    edge.transport.reset()
    answer = edge.call("GET", f"/v1/galleries/worldwide/subjects/{raw}")
    assert_problem(answer, 422, "unprocessable")
    assert edge.transport.requests == []


def test_a_slash_in_a_name_reaches_no_other_resource(edge: Edge) -> None:
    for raw in ("a%2Fb", "..%2F..%2Fgalleries"):
        assert_problem(edge.call("GET", f"/v1/galleries/worldwide/subjects/{raw}"), 404, "not-found")


# Another edge with the same key changes it, and this one still holds the old one.


def _second(pair: Pair, edge: Edge, name: str, *galleries: str) -> Edge:
    """Another edge with the same keys of galleries."""
    other = pair.edge(name)
    for gallery in galleries:
        KeyStore(other.settings.home).put(KeyStore(edge.settings.home).gallery(gallery))
    return pair.edge(name)


def _rekeyed(edge: Edge, gallery: str) -> None:
    answer = edge.call("POST", f"/v1/galleries/{gallery}/rekey")
    assert (answer.status_code, answer.json()["state"]) == (200, "settled"), answer.text


@pytest.mark.parametrize(
    "verify_only", [True, pytest.param(False, marks=pytest.mark.slow(reason="nine changes of key, a second time"))]
)
def test_a_name_sealed_under_an_outdated_key_is_sealed_anew(edge: Edge, pair: Pair, verify_only: bool) -> None:
    gallery = f"stale-{verify_only}".lower()
    edge.call("PUT", f"/v1/galleries/{gallery}", json={"verify_only": verify_only})
    for seed, name in enumerate(["Ada", "Bob", "Cyd", "Dan", "Eve"]):
        enroll(edge, gallery, name, seed)
    edge.send(f"{path(gallery, 'Öbama')}/faces", PORTRAIT)
    other = _second(pair, edge, f"second-{verify_only}", gallery)
    calls = {
        "verified": lambda: edge.send(f"{path(gallery, 'Öbama')}/verify", SPEECH),
        "shown": lambda: edge.call("GET", path(gallery, "Ada")),
        "renamed": lambda: move(edge, gallery, "Ada", "rename", to="Zoë"),
        "merged": lambda: move(edge, gallery, "Bob", "merge", into="Cyd"),
        "expiring": lambda: edge.call(
            "PUT", f"{path(gallery, 'Dan')}/expiry", json={"expires_at": "2099-01-01T00:00:00Z"}
        ),
        "reported": lambda: edge.call("GET", f"{path(gallery, 'Dan')}/report"),
        "erased": lambda: edge.call("DELETE", path(gallery, "Eve")),
        "enrolled": lambda: edge.send(f"{path(gallery, 'Cyd')}/faces", SPEECH),
        "listed": lambda: edge.call("GET", f"/v1/galleries/{gallery}/subjects"),
    }
    for what, call in calls.items():
        edge.make_known(gallery)
        _rekeyed(other, gallery)
        answer = call()
        assert answer.status_code in {200, 201}, (what, answer.text)
    assert listed(edge, gallery) == listed(other, gallery) == ["Cyd", "Dan", "Zoë", "Öbama"]
    assert len(faces(edge, gallery, "Cyd")) == 3


def test_an_edge_without_the_key_can_name_nobody(edge: Edge, pair: Pair) -> None:
    edge.make("ours")
    enroll(edge, "ours", "Zoë", 1)
    stranger = pair.edge("stranger")
    for method, below in (("GET", ""), ("GET", "/Zoë"), ("DELETE", "/Zoë"), ("GET", "/Zoë/report")):
        answer = stranger.call(method, f"/v1/galleries/ours/subjects{below}")
        assert_problem(answer, 409, "contract-mismatch")
    assert faces(edge, "ours", "Zoë")


async def _damaged(transport: CloudTransport, request: httpx.Request) -> httpx.Response:
    """The cloud's answer with the last letter of each sealed name changed."""
    answer = await transport.deliver(request)
    await answer.aread()

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: changed(each) for name, each in value.items()}
        if isinstance(value, list):
            return [changed(each) for each in value]
        return value[:-2] + "AA" if isinstance(value, str) and value.startswith("~") else value

    return httpx.Response(answer.status_code, json=changed(answer.json()))


def test_a_name_that_does_not_open_is_an_error_and_never_shown(edge: Edge) -> None:
    edge.make("damaged")
    edge.send(f"{path('damaged', 'Öbama')}/faces", PORTRAIT)
    edge.transport.always = _damaged
    try:
        for answer in (edge.identify("damaged", SPEECH), edge.call("GET", "/v1/galleries/damaged/subjects")):
            body = assert_problem(answer, 502, "cloud-failed", "name_not_opened")
            assert "~" not in json.dumps(body)
    finally:
        edge.transport.reset()
    assert listed(edge, "damaged") == ["Öbama"]


# Galleries of an earlier version.


@pytest.fixture
def earlier(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> str:
    """A gallery as an edge of an earlier version made it: with plain names, and an epoch that says nothing of them."""

    async def without_seal(transport: CloudTransport, request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            body = json.loads(request.content)
            del body["sealed_names"]
            headers = {name: value for name, value in request.headers.items() if name != "content-length"}
            request = httpx.Request("PUT", request.url, headers=headers, json=body)
        return await transport.deliver(request)

    gallery = f"earlier-{secrets.token_hex(4)}"
    with monkeypatch.context() as patch:
        patch.setattr(gallery_contexts, "new_epoch", lambda _key: secrets.token_hex(8))
        edge.transport.always = without_seal
        assert edge.make(gallery)["sealed_names"] is False
    edge.transport.reset()
    return gallery


def test_plain_names_go_on_as_they_are_and_others_are_refused(edge: Edge, earlier: str) -> None:
    enroll(edge, earlier, "ada@example.com", 1)
    assert listed(edge, earlier) == ["ada@example.com"]
    assert b"ada@example.com" in sent(edge)
    edge.transport.requests.clear()
    for answer in (
        edge.send(f"{path(earlier, 'Zoë')}/faces", PORTRAIT),
        edge.call("GET", path(earlier, "Ada Lovelace")),
        move(edge, earlier, "ada@example.com", "rename", to="Zoë"),
    ):
        problem = assert_problem(answer, 422, "unprocessable", "plain_names")
        assert "patronus gallery rekey" in problem["detail"]
    values = [1.0] + [0.0] * 127
    many = [{"subject": name, "values": values} for name in ("ada@example.com", "Zoë", "grace", "Ada Lovelace")]
    refused = edge.call("POST", f"/v1/galleries/{earlier}/embeddings", json={"embeddings": many})
    assert assert_problem(refused, 422, "unprocessable", "plain_names")["embeddings"] == [1, 3]
    assert found_in(sent(edge), "Zoë", "Ada Lovelace") == []
    plain = edge.call("POST", f"/v1/galleries/{earlier}/embeddings", json={"embeddings": many[::2]})
    assert (plain.status_code, listed(edge, earlier)) == (201, ["ada@example.com", "grace"])


def test_a_change_of_key_seals_plain_names_for_good(edge: Edge, pair: Pair, earlier: str) -> None:
    old = ["margaret.hamilton", "katherine.johnson", "dorothy.vaughan"]
    for seed, name in enumerate(old):
        enroll(edge, earlier, name, seed)
    edge.send(f"{path(earlier, 'barack.obama')}/faces", PORTRAIT)
    assert found_in(in_files(pair.folder / "cloud"), *old) == old
    kept = {name: faces(edge, earlier, name) for name in old}
    _rekeyed(edge, earlier)
    assert edge.call("GET", f"/v1/galleries/{earlier}").json()["sealed_names"] is True
    assert listed(edge, earlier) == sorted([*old, "barack.obama"])
    assert {name: faces(edge, earlier, name) for name in old} == kept
    assert edge.send(f"{path(earlier, 'barack.obama')}/verify", SPEECH).json()["decision"] == "match"
    assert found_in(in_files(pair.folder / "cloud"), *old) == []
    enroll(edge, earlier, "Zoë", 7)
    _rekeyed(edge, earlier)
    assert listed(edge, earlier) == sorted([*old, "barack.obama", "Zoë"])


def test_a_cloud_cannot_claim_that_sealed_names_are_plain(edge: Edge) -> None:
    edge.make("claimed")
    enroll(edge, "claimed", "katherine.johnson", 1)

    async def plain(transport: CloudTransport, request: httpx.Request) -> httpx.Response:
        answer = await transport.deliver(request)
        await answer.aread()
        return httpx.Response(answer.status_code, json=answer.json() | {"sealed_names": False})

    for again in range(2):
        edge.app.state.services.galleries.forget("claimed")
        edge.transport.reset()
        edge.transport.faults.append(plain)
        body = {"embeddings": [{"values": [1.0] + [0.0] * 127}]}
        answer = edge.call("POST", f"{path('claimed', 'katherine.johnson')}/embeddings", json=body)
        assert_problem(answer, 502, "cloud-failed", "names_are_sealed")
        assert found_in(sent(edge), "katherine.johnson") == []
        if not again:
            edge.transport.reset()
            _rekeyed(edge, "claimed")


def test_contracts_say_nothing_of_names(edge: Edge) -> None:
    """Their digests must not change: enrolled templates are pinned to them."""
    made = Contract.model_validate(edge.make("pinned")["contract"])
    assert "names" not in made.model_dump_json()
