"""Every attack, in small, on real faces: one that does not beat the floor on clean templates is broken.

Needs LFW and UTKFace, aligned; see docs/red-team.md.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.attacks import frontier, suite
from lab.attacks.attackers import QUICK
from lab.defence.decoders import InversionOptions

DATA = os.environ.get("PATRONUS_FACE_DATA")
pytestmark = [
    pytest.mark.skipif(not DATA, reason="PATRONUS_FACE_DATA names no folder with lfw112.tar and utkface112.tar"),
    pytest.mark.slow(reason="trains attackers on real faces"),
]

PLAIN = "unprotected embeddings"
WIRE = "templates as stored by the cloud"
KEY = "attacker with the key"
PEOPLE, PICTURES = 420, 1000
Report = dict[str, Any]


def _some(source: Path, target: Path, names: Callable[[list[str]], list[str]]) -> Path:
    """A tar with some members of another one."""
    with tarfile.open(source) as whole, tarfile.open(target, "w") as some:
        members = {member.name: member for member in whole if member.isfile()}
        for name in names(sorted(members)):
            file = whole.extractfile(members[name])
            assert file is not None
            content = file.read()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            some.addfile(member, io.BytesIO(content))
    return target


def _two_of_each(names: list[str]) -> list[str]:
    people: dict[str, list[str]] = {}
    for name in names:
        people.setdefault(name.split("/")[-2], []).append(name)
    several = [pictures[:2] for pictures in people.values() if len(pictures) > 1]
    return [name for pictures in several[:PEOPLE] for name in pictures]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, patronus: Callable[..., Any]) -> Report:
    home = tmp_path_factory.mktemp("faces")
    people = _some(Path(str(DATA)) / "lfw112.tar", home / "people.tar", _two_of_each)
    images = _some(
        Path(str(DATA)) / "utkface112.tar", home / "images.tar", lambda names: names[:: len(names) // PICTURES]
    )
    effort = dataclasses.replace(
        QUICK,
        families=("upsampling",),
        decoders=InversionOptions(epochs=8.0, identity_steps=60),
        round_steps=10,
        adapted_steps=10,
        curve=50,
        inverted=4,
        replayed=6,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "QUICK", effort)
        patch.setattr(frontier, "_LEARNED", (0, 1000))
        patch.setattr(frontier, "_ROWS", (0, 200))
        out, cache = home / "out", home / "cache"
        result = patronus(
            "lab", "attack", "--quick", "--people", people, "--images", images, "--out", out, "--cache", cache
        )
    assert result.status == 0, result.err[-2000:]
    found: Report = json.loads((out / "report.json").read_text())
    return found


def _rows(report: Report, **wanted: str) -> list[Report]:
    rows = [*report["floors"], *report["decoders"], *report["adaptive"], *report["inversion"]]
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def _cosine(row: Report) -> float:
    return float(row["cosine"]["target"]["value"])


def _floor(report: Report) -> float:
    return max(_cosine(row) for row in report["floors"])


def test_decoders_and_inversion_rebuild_faces_of_clean_templates(report: Report) -> None:
    clean = _rows(report, on=PLAIN)
    assert {row["attack"].split(",")[0] for row in clean} == {"decoder", "gradient descent"}
    for row in clean:
        assert _cosine(row) > _floor(report) + 0.1, row["attack"]
        assert row["type_1"]["target"]["value"] > 0.1, row["attack"]


def test_without_the_key_they_rebuild_nobody(report: Report) -> None:
    for row in _rows(report, on=WIRE):
        assert _cosine(row) < _floor(report) + 0.1, row["attack"]
        # A face that resembles many is accepted as some of them: no more than as other people.
        assert row["type_2"]["target"]["value"] < row["stranger"]["target"]["value"] + 0.01, row["attack"]


def test_with_the_key_they_do(report: Report) -> None:
    assert max(_cosine(row) for row in _rows(report, attack="denoise, then decode", knows=KEY)) > _floor(report) + 0.1
    assert max(_cosine(row) for row in _rows(report, attack="decoder retrained", knows=KEY)) > _floor(report) + 0.1


def test_pairs_open_the_seal_in_the_measure_of_their_number(report: Report) -> None:
    near = [point["cosine"] for point in report["pairs"]]
    assert near[0] < 0.2
    assert near[-1] > 0.9
    assert near == sorted(near)


def test_a_stolen_gallery_alone_opens_no_seal(report: Report) -> None:
    assert all(method["cosine"] < 0.3 for method in report["stolen"]["methods"])


def test_linkage_finds_what_is_not_protected_and_templates_of_two_keys_do_not_tell(report: Report) -> None:
    linked = {(row["how"], row["picture"], row["where"]): row for row in report["linkage"]}
    assert linked["no protection, embeddings compared", "other photo", "two galleries"]["rank_1"] > 0.9
    assert linked["neighborhoods compared", "same photo", "two galleries"]["rank_1"] > 0.1
    for where in ("two galleries", "two epochs"):
        assert linked["templates compared", "other photo", where]["d_sys"] < 0.1
        assert linked["templates compared", "other photo", where]["rank_1"] < 0.05


def test_classifiers_read_clean_templates(report: Report) -> None:
    told = {row["knows"]: row for row in report["attributes"]}
    assert told[f"learned on unprotected embeddings; attacks {PLAIN}"]["sex_auc"] > 0.8
    assert told["learned on templates of other keys"]["sex_auc"] < 0.65
    inside = {row["knows"]: row for row in report["membership"]}
    assert inside[f"learned on unprotected embeddings; attacks {PLAIN}"]["auc"] > 0.9
    assert inside[KEY]["auc"] > 0.9
    assert inside["makes templates under a key of the attacker's own"]["auc"] < 0.7


def test_a_running_edge_takes_the_person_and_not_what_was_rebuilt_from_a_template(report: Report) -> None:
    shown = report["replay"]
    assert shown["other photo of the person"]["accepted"] >= 0.5 * shown["other photo of the person"]["people"]
    assert shown["rebuilt from the stored template"]["accepted"] == 0
    assert shown["somebody else"]["accepted"] == 0


def test_every_other_protection_is_measured_and_costs_or_leaks(report: Report) -> None:
    ways = {point["way"]: point for point in report["frontier"]}
    assert {
        "no protection",
        "Gaussian noise",
        "AdvFace-style",
        "Crafter-style",
        "scale and perturb",
        "erase alone",
    } < set(ways)
    clean = ways["no protection"]["attacks"]["learned on unprotected embeddings"]["type_1"]["value"]
    assert clean > 0.1
    sealed = ways["profile default-2"]["attacks"]
    assert all(attack["type_2"]["value"] == 0 for attack in sealed.values())
