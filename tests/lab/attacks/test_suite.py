"""The whole attack as a person runs it, on generated faces: its report, its way on after a break, its refusals."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.attacks import key_recovery, rebuilding
from lab.attacks.attackers import Effort
from lab.attacks.report import render

pytestmark = pytest.mark.slow(reason="runs every attack, which trains attackers")

TAU = 0.85


@pytest.fixture(scope="module")
def scene(
    tmp_path_factory: pytest.TempPathFactory, faces_tar: Callable[..., Path], write_embedder: Callable[..., Path]
) -> SimpleNamespace:
    home = tmp_path_factory.mktemp("attack")
    return SimpleNamespace(
        people=faces_tar(home / "faces.tar", 240),
        images=faces_tar(home / "others.tar", 520, seed=1),
        embedder=write_embedder(home / "mine.onnx"),
        judge=write_embedder(home / "judge.onnx", seed=1),
        cache=home / "cache",
    )


@pytest.fixture(scope="module")
def attack(scene: SimpleNamespace, patronus: Callable[..., Any], tiny: Effort) -> Callable[..., Any]:
    """Runs ``patronus lab attack`` on these faces; options given again replace these."""

    def call(out: Path, **changed: object) -> Any:
        given: dict[str, object] = {
            "profile": "seal",
            "people": scene.people,
            "images": scene.images,
            "embedder": scene.embedder,
            "tau": TAU,
            "judge": scene.judge,
            "cache": scene.cache,
            **changed,
        }
        options = [part for name, value in given.items() if value is not None for part in (f"--{name}", value)]
        return patronus("lab", "attack", "--quick", "--out", out, *options)

    return call


@pytest.fixture(scope="module")
def done(attack: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("done") / "out"
    result = attack(out)
    assert result.status == 0, result.err[-2000:]
    assert result.out.strip() == str(out / "report.html")
    return out


def test_the_report_has_every_attack_by_what_the_attacker_knows(done: Path, tiny: Effort) -> None:
    report = json.loads((done / "report.json").read_text())
    rows = [*report["decoders"], *report["adaptive"], *report["inversion"]]
    assert {row["knows"] for row in rows} == {
        "learned on unprotected embeddings",
        "learned on templates of other keys",
        "attacker with the key",
    }
    assert {row["on"] for row in rows} == {
        "unprotected embeddings",
        "templates as stored by the cloud",
        "templates, the seal undone",
    }
    assert {"denoise, then decode", "decoder retrained", "gradient descent, pixels"} <= {row["attack"] for row in rows}
    assert {row["attack"] for row in report["floors"]} == {
        "average face",
        "another person's embedding",
        "a random embedding",
    }
    assert [point["pairs"] for point in report["pairs"]] == sorted({point["pairs"] for point in report["pairs"]})
    assert report["pairs"][-1]["cosine"] > 0.99 > report["pairs"][0]["cosine"]
    assert {row["how"] for row in report["linkage"]} >= {"templates compared", "neighborhoods compared"}
    one_seal, each = (sum(row[kind] for row in report["scopes"][:2]) for kind in ("one_seal", "a_seal_each"))
    assert each < one_seal
    assert report["scopes"][-1]["one_seal"] > 0.99
    assert abs(report["scopes"][-1]["a_seal_each"]) < 0.5
    assert report["attributes"] == []
    assert report["replay"] is None
    assert report["judges"]["target"] == TAU
    assert 0 < report["judges"]["judge"] < 1
    assert all(0 <= row["type_2"]["judge"]["value"] <= 1 for row in rows)


def test_bars_are_judged_by_the_figures_of_the_report(done: Path) -> None:
    report = json.loads((done / "report.json").read_text())
    for bar in report["bars"]:
        assert bar["met"] == (bar["value"] <= bar["bar"] + 1e-12)
    with_key = next(
        b for b in report["bars"] if b["attacker"].startswith("attacker with the key") and "other" in b["figure"]
    )
    own = [
        r["type_2"]["target"]["value"]
        for r in [*report["adaptive"], *report["inversion"]]
        if r["knows"] == "attacker with the key"
    ]
    assert with_key["value"] == max(own)


def test_the_page_is_whole_and_needs_nothing_beside_it(done: Path) -> None:
    page = (done / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert not re.findall(r"<script|<link|@import|src=\"(?!data:)|href=\"http", page)
    assert page.count("<svg") == 2
    assert "quick run: attackers too weak to publish" in page
    for tag in ("table", "tr", "section", "figure"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>")


def test_a_second_run_does_nothing_again(done: Path, attack: Callable[..., Any]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (done / "steps").iterdir()}
    result = attack(done)
    assert result.status == 0
    assert re.findall(r"stage \d+ of \d+", result.err) == ["stage 1 of 15"]
    assert before == {path: path.stat().st_mtime_ns for path in (done / "steps").iterdir()}


def test_a_break_leaves_no_report_and_the_next_run_goes_on(
    attack: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    averaging = rebuilding.averaging

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rebuilding, "averaging", broken)
    assert attack(out).status != 0
    assert not list(out.glob("report*"))
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "steps").iterdir()}
    assert set(kept) == {"accuracy.json", "floors.json", "decoders.json", "adaptive.json"}
    monkeypatch.setattr(rebuilding, "averaging", averaging)
    (out / "steps" / "floors.json").write_text('{"key"')
    decoders = json.loads((out / "steps" / "decoders.json").read_text())
    (out / "steps" / "decoders.json").write_text(json.dumps({**decoders, "found": None}))
    monkeypatch.setattr(key_recovery, "pairs", broken)
    result = attack(out)
    assert result.status != 0
    assert [name for name in ("floors", "decoders", "adaptive") if f"{name}.json is damaged" in result.err] == [
        "floors",
        "decoders",
    ]
    assert "stage 7 of 15: pairs" in result.err
    assert "Stopped. The same command continues" in result.err
    assert json.loads((out / "steps" / "decoders.json").read_text())["found"] == decoders["found"]
    assert (out / "steps" / "averaging.json").exists()
    for name in ("accuracy.json", "adaptive.json"):
        assert (out / "steps" / name).stat().st_mtime_ns == kept[name]


def test_a_folder_with_another_attack_is_left_alone(done: Path, attack: Callable[..., Any]) -> None:
    before = (done / "report.json").read_bytes()
    result = attack(done, tau=0.9)
    assert result.status == 1
    assert "holds an attack with another tau;" in result.sentence
    assert (done / "report.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"profile": "nobody"}, "nobody"),
        ({"profile": "default"}, "is for the embedder sface_2021dec"),
        ({"people": "nowhere.tar"}, "nowhere.tar is missing"),
        ({"embedder": "nobody"}, "nobody is no embedder"),
        ({"tau": None}, "give your system's with --tau"),
        ({"judge": "nobody"}, "nobody is no embedder"),
        ({"judge": "=0.3"}, "NAME_OR_PATH=TAU, with TAU a cosine; this is '=0.3'"),
        ({"profiles": "nowhere"}, "no folder nowhere with profiles"),
        ({"portraits": "nowhere"}, "nowhere is not a folder"),
        ({"profile": "default", "embedder": None, "tau": 0.9}, "was calibrated at cosine 0.384; leave --tau out"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(
    attack: Callable[..., Any], tmp_path: Path, changed: dict[str, object], words: str
) -> None:
    result = attack(tmp_path / "out", **changed)
    assert result.status == 1
    assert words in result.sentence
    assert not (tmp_path / "out").exists(), "a folder that nothing was done in takes the next attack"


def test_two_attacks_do_not_share_a_folder(done: Path, attack: Callable[..., Any]) -> None:
    with (done / ".lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "Another attack runs in" in attack(done).sentence
    assert attack(done).status == 0


def test_a_folder_that_holds_something_else_is_left_alone(attack: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    assert "holds other files, and no attack" in attack(tmp_path / "letters").sentence
    assert "cannot be read" in attack(tmp_path / "letters" / "a.txt" / "out").sentence
    for content in ("[]", "null", "{"):
        (tmp_path / "letters" / "attack.json").write_text(content)
        assert "is damaged; remove" in attack(tmp_path / "letters").sentence
    (tmp_path / "letters" / "attack.json").unlink()
    (tmp_path / "letters" / "attack.json").mkdir()
    assert "cannot be read" in attack(tmp_path / "letters").sentence
    assert (tmp_path / "letters" / "a.txt").read_text() == "dear"


def test_a_judge_is_named_once_and_with_a_cosine(
    attack: Callable[..., Any], tmp_path: Path, scene: SimpleNamespace
) -> None:
    assert "TAU a cosine" in attack(tmp_path / "a", judge=f"{scene.judge}=warm").sentence
    assert "judges already" in attack(tmp_path / "b", judge=scene.embedder).sentence


def test_people_must_be_named(patronus: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PATRONUS_FACE_DATA", raising=False)
    result = patronus("lab", "attack", "--out", tmp_path / "out")
    assert result.status == 2
    assert "PATRONUS_FACE_DATA" in result.err


def test_the_recorded_report_renders_with_all_its_figures() -> None:
    report = json.loads(Path("docs/red-team/default-2.json").read_text())
    page = render(report)
    published = Path("docs/red-team/default-2.html").read_text()
    cells = [re.findall(r"<td[^>]*>(?!<img)(.*?)</td>", text) for text in (page, published)]
    assert cells[0] == cells[1], "the published page is the recorded report, with portraits"
    assert len(cells[0]) > 1000
    for row in report["stolen"]["methods"]:
        assert f"<td class=n>{row['cosine']:.3f}</td>" in page
    assert f"{sum(not bar['met'] for bar in report['bars'])} of {len(report['bars'])} bars are" in page


def test_what_a_report_holds_is_escaped() -> None:
    report = json.loads(Path("docs/red-team/default-2.json").read_text())
    report["embedder"] = "<script>alert(1)</script>"
    assert "<script" not in render(report)
    assert "&lt;script&gt;alert(1)" in render(report)
