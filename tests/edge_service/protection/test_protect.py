"""Protection fails closed: if any step fails, nothing leaves the edge."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_service.protection.keys import PUBLIC_KEY, EpochKey, GalleryKey, KeyStore
from edge_service.protection.profiles.files import Profile, load_profile
from edge_service.protection.protect import Protected, ProtectionContext, Protector
from edge_service.protection.seal import seal
from shared.errors import ProtectionFailed
from shared.logs import configure_logging
from tests.support.cloud_client import assert_problem
from tests.support.edge import Edge, Pair, sample

KEY = GalleryKey("door", bytes(32)).epoch("0" * 16)
CONTEXT = ProtectionContext(KEY, "a" * 64, load_profile("seal").pin)
Rows = NDArray[np.float32]


def units(count: int, dim: int = 128) -> Rows:
    rows = np.random.default_rng(0).standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def raising(rows: Rows, *_: Any, **__: Any) -> Protected:
    raise RuntimeError(f"secret {rows[0, 0]}")


def exhausted(*_: Any, **__: Any) -> Protected:
    raise MemoryError


def changed(change: Callable[[Rows], Any]) -> Callable[..., Any]:
    """The true seal, with its result changed."""

    def steps(rows: Rows, key: EpochKey, *, sealed: bool) -> Protected:
        made = Protector(load_profile("seal")).apply_steps(rows, key, sealed=sealed)
        return replace(made, templates=change(made.templates))

    return steps


def reporting(**what: Any) -> Callable[..., Any]:
    """The true seal, which says something else of itself."""
    return lambda *given, **named: replace(Protector(load_profile("seal")).apply_steps(*given, **named), **what)


def broken(profile: Profile, steps: Callable[..., Any]) -> Protector:
    """A protector whose steps are replaced by these."""
    protector = Protector(profile)
    protector.apply_steps = steps
    return protector


def spoilt(value: float) -> Callable[[Rows], Rows]:
    def change(rows: Rows) -> Rows:
        rows[-1, -1] = value
        return rows

    return change


BROKEN: dict[str, Any] = {
    "raises": raising,
    "runs out of memory": exhausted,
    "gives nothing": lambda *_, **__: None,
    "takes no step": reporting(done=()),
    "takes another step": reporting(done=("patronus", "seal")),
    "gives no angles": reporting(angles=None),
    "gives one angle less": reporting(angles=np.zeros(2, np.float32)),
    "gives an angle that is no number": reporting(angles=np.full(3, np.nan, np.float32)),
    "gives a list": changed(lambda rows: rows.tolist()),
    "gives NaN": changed(spoilt(float("nan"))),
    "gives infinity": changed(spoilt(float("inf"))),
    "gives another dimension": changed(lambda rows: rows[:, :-1]),
    "gives one row less": changed(lambda rows: rows[:-1]),
    "gives one row more": changed(lambda rows: np.concatenate([rows, rows[:1]])),
    "gives one flat row": changed(np.ravel),
    "gives float64": changed(lambda rows: rows.astype(np.float64)),
    "gives float16": changed(lambda rows: rows.astype(np.float16)),
    "gives rows too long": changed(lambda rows: rows * np.float32(1.01)),
    "gives zeros": changed(np.zeros_like),
}


@pytest.fixture(scope="module")
def profile() -> Profile:
    return load_profile("seal")


@pytest.mark.parametrize("steps", BROKEN.values(), ids=BROKEN)
def test_a_broken_step_gives_no_template(profile: Profile, steps: Any) -> None:
    with pytest.raises(ProtectionFailed, match="nothing was sent") as caught:
        broken(profile, steps).protect(units(3), CONTEXT)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_log_has_what_broke_and_not_what_it_held(profile: Profile, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "edge")
    with pytest.raises(ProtectionFailed):
        broken(profile, raising).protect(units(3), CONTEXT)
    written = capsys.readouterr().err
    line = json.loads(written)
    assert (line["event"], line["exception"]) == ("protection_step_failed", "RuntimeError")
    assert (line["service"], line["level"]) == ("edge", "error")
    assert "raising" in line["at"]
    assert "secret" not in written


def test_a_seal_that_does_nothing_is_found_out(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, matrix in (("the same", np.eye(128)), ("mirrored", -np.eye(128))):
        turned = matrix.astype(np.float32)
        monkeypatch.setattr("edge_service.protection.protect.seal", lambda rows, _key, turned=turned: rows @ turned)
        with pytest.raises(ProtectionFailed, match="not applied"):
            Protector(profile).protect(units(3), CONTEXT)
        assert name


def test_without_a_key_there_is_no_template(profile: Profile) -> None:
    with pytest.raises(ProtectionFailed, match="needs a key"):
        Protector(profile).protect(units(1), replace(CONTEXT, key=None))


@pytest.mark.parametrize("bad", [units(2) * 2, units(2).astype(np.float64), units(2)[0], units(2) * np.nan])
def test_what_is_no_embedding_is_not_protected(profile: Profile, bad: Any) -> None:
    with pytest.raises(ProtectionFailed):
        Protector(profile).protect(bad, CONTEXT)


def test_templates_are_the_sealed_rows_in_their_order(profile: Profile) -> None:
    rows = units(5)
    envelopes = Protector(profile).protect(rows, CONTEXT).envelopes
    expected = seal(rows, KEY)
    np.testing.assert_array_equal(np.stack([envelope.open() for envelope in envelopes]), expected)
    assert {envelope.contract for envelope in envelopes} == {"a" * 64}
    again = Protector(profile).protect(rows, CONTEXT).envelopes
    assert again == envelopes, "the same face gives the same template, so repeating it averages nothing out"


def test_without_its_seal_the_profile_gives_nothing(profile: Profile) -> None:
    with pytest.raises(ProtectionFailed, match="protects nothing"):
        Protector(profile).templates(units(1), KEY, sealed=False)


def test_a_seal_is_never_under_a_key_that_is_of_no_gallery(profile: Profile, tmp_path: Path) -> None:
    for key in (PUBLIC_KEY, KeyStore(tmp_path).no_gallery()):
        with pytest.raises(ProtectionFailed, match="belongs to no gallery"):
            Protector(profile).templates(units(1), key)


def test_a_context_shows_no_key() -> None:
    assert "secret" not in repr(CONTEXT)
    assert "key" not in repr(CONTEXT)


@pytest.fixture
def enrolled(pair: Pair) -> Edge:
    edge = pair.edge()
    edge.make("door")
    assert edge.enroll("door", "obama", sample("obama/portrait.jpg")).status_code == 201
    return edge


@pytest.mark.parametrize("steps", [raising, BROKEN["gives NaN"], BROKEN["gives float64"], BROKEN["gives nothing"]])
def test_nothing_reaches_the_cloud_when_protection_fails(enrolled: Edge, steps: Any) -> None:
    enrolled.app.state.services.profiles.default.apply_steps = steps
    before = len(enrolled.transport.requests)
    picture = sample("obama/speech.jpg")
    answers = [
        enrolled.enroll("door", "obama", picture, picture),
        enrolled.verify("door", "obama", picture),
        enrolled.identify("door", picture),
    ]
    for answer in answers:
        assert_problem(answer, 500, "protection-failed")
        assert "secret" not in answer.text
    assert len(enrolled.transport.requests) == before
    assert enrolled.held("door") == (1, 1)
