"""``patronus lab measure`` and ``tables``: figures into a profile, its card and the pages; refusals in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_service.protection.profiles.document import ProfileDocument, SealStep
from edge_service.protection.profiles.files import CARD, read_profile, write_profile
from lab.export.measured import write_measured
from lab.export.measured_tables import renewed
from shared.errors import SetupError
from shared.wire.common import Threshold

TAU = 0.5


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces that one test has read are not read again by the next."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def sources(
    tmp_path_factory: pytest.TempPathFactory, faces_tar: Callable[..., Path], write_embedder: Callable[..., Path]
) -> dict[str, Path]:
    """Generated people with four pictures each, strangers with labels, and an embedder."""
    folder = tmp_path_factory.mktemp("sources")
    return {
        "--people": faces_tar(folder / "people.tar", 110, 4),
        "--more-people": faces_tar(folder / "more.tar", 24, 5, seed=1),
        "--images": faces_tar(folder / "others.tar", 120, 1, seed=2, labels=True),
        "--embedder": write_embedder(folder / "mine.onnx"),
    }


@pytest.fixture
def measure(patronus: Callable[..., Any], sources: dict[str, Path], cache: Path) -> Callable[..., Any]:
    """``patronus lab measure`` on these sources."""

    def call(*arguments: object, without: tuple[str, ...] = (), **changes: object) -> Any:
        given: dict[str, object] = {"--profile": "seal", "--tau": TAU, "--cache": cache, **sources, **changes}
        words = [word for name, value in given.items() if name not in without for word in (name, value)]
        return patronus("lab", "measure", *words, *arguments)

    return call


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with the profile ``acme``, which only seals."""
    document = ProfileDocument(
        name="acme", summary="Ours.", embedder="any", steps=[SealStep()], threshold=Threshold(cosine=TAU, fmr=0.001)
    )
    write_profile(tmp_path / "profiles", document, card=b"# Ours\n\n## What it is\n\nA seal.\n")
    return tmp_path / "profiles"


def _sentence(result: Any, status: int = 1) -> str:
    assert result.status == status, result.err
    assert not result.out
    assert "Traceback" not in result.err
    return str(result.sentence)


def test_figures_go_into_ones_own_profile_and_its_card(
    measure: Callable[..., Any], own: Path, tmp_path: Path, patronus: Callable[..., Any]
) -> None:
    before = read_profile(own / "acme")
    arguments = {"--profile": "acme", "--profiles": own, "--out": tmp_path / "acme.json"}
    result = measure("--write", without=("--tau",), **arguments)
    assert result.status == 0, result.err
    after = read_profile(own / "acme")
    document = after.document
    assert f"SHA-256 {after.pin.sha256[:12]}" in result.out
    assert after.pin.sha256 != before.pin.sha256
    assert document.model_copy(update={"score": None, "curves": None, "cost": None}) == before.document
    assert document.score is not None
    # Of 24 people with five pictures, one is left as a probe.
    assert document.score.tar is not None
    assert len(document.score.tar) == 4
    assert all(0 <= exponent <= 1 for exponent in document.score.exponents)
    assert document.curves is not None
    found = {(each.population, each.rule, each.templates, each.band) for each in document.curves}
    assert {("people_unseen", "best", 3, None), ("wild", "mean", 1, None), ("utk", "mean", 1, "0-2")} <= found
    assert document.cost is None  # a seal keeps every score
    card = (own / "acme" / CARD).read_text()
    assert card.startswith("# Ours\n\n## What it is\n\nA seal.\n\n## Several pictures of a person")
    assert card.count("## Several pictures") == 1
    # Written again: the section is replaced, and the file is the same.
    found = json.loads((tmp_path / "acme.json").read_text())
    assert found["profile_sha256"] == after.pin.sha256
    assert write_measured(after, own, found).pin == after.pin
    assert (own / "acme" / CARD).read_text() == card
    # The pages take their tables from the file.
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- measured: people wild acme -->\nold\n<!-- measured: end -->\n\nText.\n")
    made = patronus("lab", "tables", page, "--measured", tmp_path / "acme.json", "--figures", tmp_path / "figures")
    assert made.status == 0, made.err
    text = page.read_text()
    assert "old" not in text
    assert text.endswith("<!-- measured: end -->\n\nText.\n")
    rows = [row for row in found["accuracy"] if row["population"] == "wild" and row["templates"] == 3]
    wanted = next(row for row in rows if row["rule"] == "best")
    assert f"3 | best | {100 * wanted['tar_at_tau']['value']:.2f}%" in text
    # Without a network there is no protected curve to draw.
    assert not (tmp_path / "figures").exists()


def test_a_profile_that_comes_with_patronus_is_left_alone(measure: Callable[..., Any]) -> None:
    sentence = _sentence(measure("--write", without=("--tau",), **{"--people": "nowhere", "--profile": "default"}))
    assert sentence == (
        "The profile default comes with Patronus, and galleries name its digest; write into a profile of your own, "
        "which --profiles holds."
    )


def test_what_cannot_be_measured_is_told(
    measure: Callable[..., Any], faces_tar: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PATRONUS_FACE_DATA", raising=False)
    assert "--people" in measure(without=("--people",)).err
    assert _sentence(measure(**{"--people": "nowhere"})).startswith("nowhere is missing; ")
    few = faces_tar(tmp_path / "few.tar", 30)
    assert "people with two pictures or more are needed" in _sentence(measure(**{"--people": few}))
    assert "people with two pictures or more are needed" in _sentence(
        measure(**{"--more-people": faces_tar(tmp_path / "fewer.tar", 5)})
    )
    assert "whose names hold age, sex and group" in _sentence(measure(**{"--images": few}))
    assert _sentence(measure(**{"--tau": -0.5})) == (
        "The score of a subject is calibrated at a threshold over 0; give another one with --tau."
    )
    assert "There is no protection profile 'acme'" in _sentence(measure(**{"--profile": "acme"}))


def test_pages_and_measurements_that_cannot_be_read_are_told(patronus: Callable[..., Any], tmp_path: Path) -> None:
    page, wrong = tmp_path / "page.md", tmp_path / "wrong.json"
    page.write_text("<!-- measured: people wild acme -->\n<!-- measured: end -->\n")
    for content in ("{", "[]", "{}"):
        wrong.write_text(content)
        sentence = _sentence(patronus("lab", "tables", page, "--measured", wrong))
        assert sentence == f"{wrong} is no file of patronus lab measure --out; measure again."
    assert page.read_text().startswith("<!-- measured: people wild acme -->\n<!--")


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("people wild other", "A page asks for the measurement other; name its file, other.json."),
        ("faces wild", "There is no table 'faces wild'; the kinds are people, cost, sex, brief, each with a name."),
        ("cost", "There is no table 'cost'; the kinds are people, cost, sex, brief, each with a name."),
    ],
)
def test_a_page_that_asks_for_what_there_is_not_is_refused(asked: str, why: str) -> None:
    with pytest.raises(SetupError) as refused:
        renewed(f"<!-- measured: {asked} -->\n<!-- measured: end -->\n", {})
    assert refused.value.detail == why
