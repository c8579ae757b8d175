"""A profile that is not exactly what it says stops the start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_service.privacy.profiles import available, load_profile
from shared.errors import SetupError

GOOD: dict[str, Any] = {
    "version": 1,
    "name": "mine",
    "summary": "for a test",
    "embedder": "any",
    "steps": [{"kind": "seal"}],
}


def write(folder: Path, document: Any) -> Path:
    (folder / "mine").mkdir(exist_ok=True)
    text = document if isinstance(document, str) else json.dumps(document)
    (folder / "mine" / "profile.json").write_text(text)
    return folder


def test_every_profile_that_comes_along_loads() -> None:
    assert "seal" in available()
    for name in available():
        profile = load_profile(name, "sface_2021dec")
        assert profile.pin.name == name
        assert profile.document.summary


def test_an_unknown_profile_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"'nothing' is not there; there are: .*seal"):
        load_profile("nothing", "sface")


@pytest.mark.parametrize("name", ["../seal", "/etc", "", "."])
def test_a_name_does_not_lead_out_of_the_folder(name: str) -> None:
    with pytest.raises(SetupError):
        load_profile(name, "sface")


@pytest.mark.parametrize(
    "document",
    [
        "",
        "{",
        "[]",
        GOOD | {"version": 2},
        GOOD | {"version": "1"},
        GOOD | {"steps": []},
        GOOD | {"steps": [{"kind": "blur"}]},
        GOOD | {"steps": [{"kind": "seal", "strength": 0}]},
        GOOD | {"more": 1},
        {name: value for name, value in GOOD.items() if name != "embedder"},
    ],
)
def test_a_damaged_or_newer_profile_is_refused(tmp_path: Path, document: Any) -> None:
    with pytest.raises(SetupError, match="damaged or newer"):
        load_profile("mine", "sface", write(tmp_path, document))


def test_a_profile_is_for_its_embedder_and_its_folder(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="is for other; this edge runs sface"):
        load_profile("mine", "sface", write(tmp_path, GOOD | {"embedder": "other"}))
    with pytest.raises(SetupError, match="calls itself 'yours'"):
        load_profile("mine", "sface", write(tmp_path, GOOD | {"name": "yours"}))


def test_nothing_comes_after_the_seal(tmp_path: Path) -> None:
    twice = GOOD | {"steps": [{"kind": "seal"}, {"kind": "seal"}]}
    with pytest.raises(SetupError, match="before its last step"):
        load_profile("mine", "sface", write(tmp_path, twice))


def test_the_digest_changes_with_every_file(tmp_path: Path) -> None:
    def digest() -> str:
        return load_profile("mine", "sface", tmp_path).pin.sha256

    folder = write(tmp_path, GOOD) / "mine"
    seen = [digest()]
    (folder / "basis.npy").write_bytes(b"1")
    seen.append(digest())
    (folder / "basis.npy").write_bytes(b"2")
    seen.append(digest())
    (folder / "basis.npy").rename(folder / "other.npy")
    seen.append(digest())
    (folder / "deep").mkdir()
    (folder / "deep" / "x").write_bytes(b"")
    seen.append(digest())
    write(tmp_path, GOOD | {"summary": "another"})
    seen.append(digest())
    assert len(set(seen)) == len(seen)
    assert digest() == seen[-1]
