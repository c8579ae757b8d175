"""An edge serves each gallery under the profile that its contract names, and never one that protects less."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from structlog.testing import capture_logs

from edge_service.protection.keys import KeyStore
from edge_service.protection.profiles.files import load_profile
from edge_service.protection.protect import ProtectionContext, Protector
from edge_service.protection.served_profiles import ServedProfiles
from edge_service.vision.embed import SFACE
from shared.contract import Contract, EmbedderPin, ProfilePin, SealPin
from shared.errors import ContractMismatch, ProtectionFailed, SetupError
from tests.support.cloud_client import assert_problem
from tests.support.edge import CloudTransport, Edge, Pair, sample
from tests.support.patronus_profile import copy_profile, units

OBAMA, SPEECH, BIDEN = (sample(name) for name in ("obama/portrait.jpg", "obama/speech.jpg", "biden/standing.jpg"))
OLD = "/v1/galleries/old"


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The operator's profiles: ``former`` was the default before, with another threshold."""
    folder = tmp_path_factory.mktemp("profiles")
    copy_profile("default", folder, "former", threshold={"cosine": 0.41, "fmr": 0.0005})
    return folder


@pytest.fixture(scope="module")
def edge(models_folder: Path, tmp_path_factory: pytest.TempPathFactory, profiles: Path) -> Any:
    """An edge after its default changed: ``old`` was made and filled under ``former``."""
    with Pair(tmp_path_factory.mktemp("pair")) as pair:
        before = pair.edge(profile="former", profiles=profiles)
        before.make("old")
        assert before.enroll("old", "obama", OBAMA).status_code == 201
        yield pair.edge(profile="default", profiles=profiles)


def lying(change: Callable[[dict[str, Any]], None]) -> Callable[..., Any]:
    """A cloud whose answer about a gallery names another contract."""

    async def answer(transport: CloudTransport, request: httpx.Request) -> httpx.Response:
        found = await transport.deliver(request)
        await found.aread()
        info = found.json()
        change(info["contract"])
        info["contract_digest"] = Contract.model_validate(info["contract"]).digest()
        return httpx.Response(200, json=info)

    return answer


def pin(name: str) -> dict[str, Any]:
    return load_profile(name).pin.model_dump(mode="json")


def test_nobody_is_enrolled_anew_when_the_default_changes(edge: Edge, profiles: Path) -> None:
    assert edge.call("GET", "/v1/info").json()["profile"]["name"] == "default"
    answer = edge.verify("old", "obama", SPEECH).json()
    assert answer["decision"] == "match"
    # The default threshold of the gallery's profile, not of the edge's.
    assert (answer["threshold"], answer["fmr_measured_on"]) == (0.41, "own_profile")
    assert edge.identify("old", SPEECH).json()["faces"][0]["candidates"][0]["subject"] == "obama"
    assert edge.identify("old", BIDEN).json()["faces"][0]["decision"] == "unknown"
    assert edge.enroll("old", "biden", BIDEN).status_code == 201
    assert edge.call("PUT", OLD).json()["contract"]["profile"]["name"] == "former"


def test_templates_are_those_of_the_gallerys_profile_under_its_own_key(edge: Edge, profiles: Path) -> None:
    rows = units(3)
    edge.make("new")
    keys = KeyStore(edge.settings.home)
    for gallery, profile in (("old", load_profile("former", own=profiles)), ("new", load_profile("default"))):
        answer = edge.call("POST", "/v1/protect", json={"embeddings": rows.tolist()}, params={"gallery": gallery})
        info = edge.call("GET", f"/v1/galleries/{gallery}").json()
        key = keys.gallery(gallery).of(SealPin.model_validate(info["contract"]["seal"]))
        expected = Protector(profile).templates(rows, key)
        np.testing.assert_array_equal(np.array(answer.json()["templates"], np.float32), expected.templates)
        assert answer.json()["profile"] == info["contract"]["profile"] == profile.pin.model_dump()
    assert edge.call("GET", "/v1/galleries/new").json()["contract"]["profile"] == pin("default")


def test_an_old_gallerys_key_is_changed_and_its_profile_stays(edge: Edge) -> None:
    before = edge.verify("old", "obama", SPEECH).json()["similarity"]
    done = edge.call("POST", f"{OLD}/rekey").json()
    assert (done["state"], done["contract"]["profile"]["name"]) == ("settled", "former")
    assert edge.verify("old", "obama", SPEECH).json()["similarity"] == pytest.approx(before, abs=1e-6)


def test_a_change_of_key_changes_no_profile_whatever_the_cloud_says_is_next(edge: Edge, profiles: Path) -> None:
    key = KeyStore(edge.settings.home).gallery("old")

    async def staging(transport: CloudTransport, request: httpx.Request) -> httpx.Response:
        found = await transport.deliver(request)
        await found.aread()
        status = found.json()
        now = status["contract"]
        seal = SealPin.model_validate(now["seal"])
        pinned = key.seal_pin("f" * 16, seal.scope, seal.seeds or seal.epoch)
        status["next_contract"] = now | {"seal": pinned.model_dump(mode="json"), "profile": pin("default")}
        return httpx.Response(200, json=status | {"state": "staging"})

    edge.transport.reset()
    edge.transport.faults.append(staging)
    assert edge.call("POST", f"{OLD}/rekey").json()["contract"]["profile"]["name"] == "former"
    posted = [json.loads(sent.content) for sent in edge.transport.requests if sent.method == "POST"]
    assert posted
    for body in posted:
        assert body["contract"]["profile"] == load_profile("former", own=profiles).pin.model_dump()
    assert edge.verify("old", "obama", SPEECH).json()["decision"] == "match"


def test_a_profile_is_loaded_once_and_when_it_is_needed(edge: Edge, profiles: Path) -> None:
    with capture_logs() as lines:
        again = edge.pair.edge(profile="default", profiles=profiles)
        files = [("image", ("x", SPEECH, "image/jpeg"))]
        assert not [line for line in lines if line["event"] == "profile_loaded"]
        answers = again.together("POST", f"{OLD}/subjects/obama/verify", 4, files=files)
        assert {answer.json()["decision"] for answer in answers} == {"match"}
        again.app.state.services.galleries.forget("old")
        again.verify("old", "obama", SPEECH)
    assert [line["profile"] for line in lines if line["event"] == "profile_loaded"] == ["former"]


def test_a_profile_that_is_not_here_is_named_and_nothing_is_sent(edge: Edge, profiles: Path, tmp_path: Path) -> None:
    other = tmp_path / "profiles"
    copy_profile("default", other, "former")  # of this name, and with other files
    digest = load_profile("former", own=profiles).pin.sha256
    for settings in ({}, {"profiles": other}):
        lacking = edge.pair.edge(**settings)
        for answer in (
            lacking.verify("old", "obama", SPEECH),
            lacking.call("PUT", OLD),
            lacking.call("POST", f"{OLD}/rekey"),
            lacking.call("PATCH", OLD, json={"score_rule": "best"}),
        ):
            body = assert_problem(answer, 409, "contract-mismatch")
            assert body["differing"] == ["profile"]
            assert f"'former' of digest {digest[:12]}" in body["detail"]
        assert {request.method for request in lacking.transport.requests} == {"GET"}
    # Put there while the edge runs, it serves from then on.
    shutil.rmtree(other / "former")
    shutil.copytree(profiles / "former", other / "former")
    assert lacking.verify("old", "obama", SPEECH).json()["decision"] == "match"


def unsealed(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda contract: contract.update(profile=pin(name), seal=None)


def swapped(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda contract: contract.update(profile=pin(name))


def renamed(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda contract: contract["profile"].update(name=name)


LIES: dict[str, Callable[[dict[str, Any]], None]] = {
    "its profile does not seal": unsealed("plugin"),
    "its profile does not seal, though there is a seal": swapped("plugin"),
    "its profile seals alone": swapped("seal"),
    "its profile seals, and there is no seal": lambda contract: contract.update(seal=None),
    "another embedder's": swapped("dlib"),
    "another embedder": lambda contract: contract["embedder"].update(sha256="0" * 64),
    "another dimension": lambda contract: contract.update(dim=64),
    "a path": renamed("../default"),
    "a name of line breaks": renamed("x\ny"),
    "another version": lambda contract: contract["profile"].update(version=2),
    "another digest": lambda contract: contract["profile"].update(sha256="0" * 64),
}


# What an operator who names `seal` and `plugin` as served has allowed the cloud to say.
ALLOWED = {"its profile does not seal", "its profile seals alone"}


@pytest.mark.parametrize(
    ("lie", "which"),
    [(lie, "edge") for lie in LIES] + [(lie, "allowing") for lie in LIES if lie not in ALLOWED],
)
def test_a_cloud_that_names_another_profile_gets_no_template(
    lie: str, which: str, request: pytest.FixtureRequest
) -> None:
    careful: Edge = request.getfixturevalue(which)
    galleries = careful.app.state.services.galleries
    careful.make_known("old")
    calls: list[Callable[[], httpx.Response]] = [
        lambda: careful.verify("old", "obama", SPEECH),
        lambda: careful.identify("old", SPEECH),
        lambda: careful.enroll("old", "mallory", SPEECH),
        lambda: careful.call("POST", "/v1/protect", json={"embeddings": units(1).tolist()}, params={"gallery": "old"}),
        lambda: careful.call("PUT", OLD),
    ]
    for call in calls:
        galleries.forget("old")
        careful.transport.reset()
        careful.transport.always = lying(LIES[lie])
        body = assert_problem(call(), 409, "contract-mismatch")
        assert "\n" not in body["detail"]
        assert ".." not in body["detail"]
        assert {sent.method for sent in careful.transport.requests} == {"GET"}
        careful.transport.reset()
    assert careful.verify("old", "obama", SPEECH).json()["decision"] == "match", "the truth is taken again"


@pytest.fixture(scope="module")
def allowing(edge: Edge, profiles: Path) -> Edge:
    """An edge that seals, with the same keys, whose operator allows profiles that do less."""
    return edge.pair.edge(profile="default", profiles=profiles, weaker_profiles=("seal", "plugin"))


def test_a_weaker_profile_is_served_only_where_the_operator_names_it(edge: Edge, allowing: Edge) -> None:
    for name in ("plugin", "seal"):
        maker = edge.pair.edge(profile=name)
        maker.make(f"made-{name}")
        assert maker.enroll(f"made-{name}", "obama", OBAMA).status_code == 201
        body = assert_problem(edge.verify(f"made-{name}", "obama", SPEECH), 409, "contract-mismatch")
        assert (
            f"another protection profile than this edge's 'default': {name!r}, which does not erase" in body["detail"]
        )
        assert allowing.verify(f"made-{name}", "obama", SPEECH).json()["decision"] == "match"


def test_sealed_and_unsealed_galleries_of_one_edge_are_never_mixed_up(allowing: Edge, profiles: Path) -> None:
    if allowing.call("GET", "/v1/galleries/made-plugin").status_code == 404:
        allowing.pair.edge(profile="plugin").make("made-plugin")
    rows, keys = units(2), KeyStore(allowing.settings.home)
    seal = SealPin.model_validate(allowing.call("GET", OLD).json()["contract"]["seal"])
    expected = {
        "old": Protector(load_profile("former", own=profiles)).templates(rows, keys.gallery("old").of(seal)),
        "made-plugin": Protector(load_profile("plugin")).templates(rows, keys.gallery("made-plugin").of(None)),
    }
    for gallery in ("old", "made-plugin", "old", "made-plugin"):
        body = {"embeddings": rows.tolist()}
        answer = allowing.call("POST", "/v1/protect", json=body, params={"gallery": gallery}).json()
        np.testing.assert_array_equal(np.array(answer["templates"], np.float32), expected[gallery].templates)
        assert answer["sealed"] is (gallery == "old")
    # An edge whose own profile does not seal serves sealed galleries too: they protect more.
    open_edge = allowing.pair.edge(profile="plugin", profiles=allowing.settings.profiles)
    assert open_edge.verify("old", "obama", SPEECH).json()["decision"] == "match"


def test_a_protector_makes_nothing_for_a_gallery_of_another_profile(profiles: Path) -> None:
    protector, other = Protector(load_profile("plugin")), load_profile("former", own=profiles)
    key = KeyStore(profiles.parent / "keys").gallery("old").epoch("1" * 16)
    with pytest.raises(ProtectionFailed, match="another profile"):
        protector.protect(units(1), ProtectionContext(key, "a" * 64, other.pin))
    assert len(protector.protect(units(1), ProtectionContext(key, "a" * 64, protector.profile.pin)).envelopes) == 1


SFACE_PIN = EmbedderPin(
    name="sface_2021dec",
    sha256=load_profile("default").document.embedder_sha256 or "",
    preprocessing=SFACE.preprocessing,
)


def test_a_network_that_does_not_run_is_refused_by_its_name(tmp_path: Path) -> None:
    broken = b"no graph"
    made = copy_profile("default", tmp_path, "whole")
    step = made.document.steps[0].model_dump(mode="json") | {"sha256": hashlib.sha256(broken).hexdigest()}
    (tmp_path / "whole").rename(tmp_path / "broken")
    (tmp_path / "broken" / "patronus.onnx").write_bytes(broken)
    document = json.loads((tmp_path / "broken" / "profile.json").read_text())
    text = json.dumps(document | {"name": "broken", "steps": [step, {"kind": "seal"}]})
    (tmp_path / "broken" / "profile.json").write_text(text)
    served = ServedProfiles("default", SFACE_PIN, SFACE, tmp_path)
    found = load_profile("broken", own=tmp_path).pin
    with pytest.raises(ContractMismatch, match="'broken', whose network does not run"):
        served.load(found)
    assert served.loaded(found) is None


def test_a_weaker_profile_that_is_not_there_stops_the_start() -> None:
    with pytest.raises(SetupError, match="There is no protection profile 'seel'"):
        ServedProfiles("default", SFACE_PIN, SFACE, weaker=("seel",))


def test_the_edges_own_profile_is_there_from_the_start() -> None:
    served = ServedProfiles("default", SFACE_PIN, SFACE)
    assert served.loaded(load_profile("default").pin) is served.default is served.load(load_profile("default").pin)
    assert served.loaded(ProfilePin(name="default", version=1, sha256="0" * 64)) is None
