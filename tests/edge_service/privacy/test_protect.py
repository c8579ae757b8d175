"""Protection fails closed: whatever step breaks, nothing leaves the edge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from edge_house import Edge, House, assert_problem, sample
from numpy.typing import NDArray

from edge_service.privacy.keys import GalleryKey
from edge_service.privacy.profiles import Profile, load_profile
from edge_service.privacy.protect import ProtectionContext, Protector, seal_step
from shared.errors import ProtectionFailed

CONTEXT = ProtectionContext(GalleryKey("door", bytes(32)).epoch("0" * 16), "a" * 64)
Rows = NDArray[np.float32]


def units(count: int, dim: int = 128) -> Rows:
    rows = np.random.default_rng(0).standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def raising(rows: Rows, _context: ProtectionContext) -> Rows:
    raise RuntimeError(f"secret {rows[0, 0]}")


def changed(change: Callable[[Rows], Any]) -> Callable[[Rows, ProtectionContext], Any]:
    """The true seal, with its result changed."""
    return lambda rows, context: change(seal_step(rows, context))


def spoilt(value: float) -> Callable[[Rows], Rows]:
    def change(rows: Rows) -> Rows:
        rows[-1, -1] = value
        return rows

    return change


BROKEN: dict[str, Any] = {
    "raises": raising,
    "runs out of memory": lambda _rows, _context: (_ for _ in ()).throw(MemoryError()),
    "gives nothing": lambda _rows, _context: None,
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
    return load_profile("seal", "sface_2021dec")


@pytest.mark.parametrize("step", BROKEN.values(), ids=BROKEN)
def test_a_broken_step_gives_no_template(profile: Profile, step: Any) -> None:
    with pytest.raises(ProtectionFailed, match="nothing was sent") as caught:
        Protector(profile, {"seal": step}).protect(units(3), CONTEXT)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_seal_that_does_nothing_is_found_out(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, matrix in (("the same", np.eye(128)), ("mirrored", -np.eye(128))):
        turned = matrix.astype(np.float32)
        monkeypatch.setattr("edge_service.privacy.protect.seal", lambda rows, _key, turned=turned: rows @ turned)
        with pytest.raises(ProtectionFailed, match="not applied"):
            Protector(profile).protect(units(3), CONTEXT)
        assert name


def test_without_a_key_there_is_no_template(profile: Profile) -> None:
    with pytest.raises(ProtectionFailed, match="no key"):
        Protector(profile).protect(units(1), replace(CONTEXT, key=None))


@pytest.mark.parametrize("bad", [units(2) * 2, units(2).astype(np.float64), units(2)[0], units(2) * np.nan])
def test_what_is_no_embedding_is_not_protected(profile: Profile, bad: Any) -> None:
    with pytest.raises(ProtectionFailed):
        Protector(profile).protect(bad, CONTEXT)


def test_templates_are_the_sealed_rows_in_their_order(profile: Profile) -> None:
    rows = units(5)
    envelopes = Protector(profile).protect(rows, CONTEXT)
    expected = seal_step(rows, CONTEXT)
    np.testing.assert_array_equal(np.stack([envelope.open() for envelope in envelopes]), expected)
    assert {envelope.contract for envelope in envelopes} == {"a" * 64}
    again = Protector(profile).protect(rows, CONTEXT)
    assert again == envelopes, "the same face gives the same template, so repeating it averages nothing out"


def test_a_context_shows_no_key() -> None:
    assert "secret" not in repr(CONTEXT)
    assert "key" not in repr(CONTEXT)


@pytest.fixture
def enrolled(house: House) -> Edge:
    edge = house.edge()
    edge.make("door")
    assert edge.enroll("door", "obama", sample("obama/portrait.jpg")).status_code == 201
    return edge


@pytest.mark.parametrize("step", [raising, BROKEN["gives NaN"], BROKEN["gives float64"], BROKEN["gives nothing"]])
def test_nothing_reaches_the_cloud_when_protection_fails(enrolled: Edge, profile: Profile, step: Any) -> None:
    enrolled.app.state.recognition._protector = Protector(profile, {"seal": step})
    crossed = len(enrolled.line.crossed)
    picture = sample("obama/speech.jpg")
    answers = [
        enrolled.enroll("door", "obama", picture, picture),
        enrolled.verify("door", "obama", picture),
        enrolled.identify("door", picture),
    ]
    for answer in answers:
        assert_problem(answer, 500, "protection-failed")
        assert "secret" not in answer.text
    assert len(enrolled.line.crossed) == crossed
    assert enrolled.held("door") == (1, 1)
