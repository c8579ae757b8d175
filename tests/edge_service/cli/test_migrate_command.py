"""``patronus migrate``: stored embeddings into a gallery, by way of a running edge, each stored once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from edge_service.cli.arrays import in_few_digits
from shared.errors import PatronusError
from tests.edge_service.cli.patronus_command import Command, whole_command
from tests.support.patronus_profile import units


def saved(path: Path, rows: Any, subjects: list[str], **more: Any) -> Path:
    np.savez(path, embeddings=rows, subjects=np.array(subjects), **more)
    return path


def held(command: Command, gallery: str) -> tuple[int, int]:
    [info] = command.quick("gallery", "show", gallery)[1]
    return info["subjects"], info["templates"]


def test_stored_embeddings_are_enrolled_once_and_matched(command: Command, tmp_path: Path) -> None:
    assert command.quick("gallery", "create", "migrated")[0] == 0
    rows = units(7, seed=3)
    subjects = ["ada", "ben", "ada", "cyd", "ben", "ada", "dan"]
    source = saved(tmp_path / "in.npz", rows, subjects, face_ids=np.array(["1", "1", "2", "a/b", "é", "3", "x" * 256]))
    for there_already in (0, 7):
        status, [summary] = command.quick("migrate", "migrated", str(source))
        counts = (7 - there_already, there_already, 0)
        assert (status, *(summary[name] for name in ("enrolled", "there_already", "refused"))) == (0, *counts)
        assert held(command, "migrated") == (4, 7)
    said = "Nothing was stored: 7 embeddings were there already; 5 do not match the subject's other faces.\n"
    assert command.run("migrate", "migrated", str(source)).stdout == said
    assert len(command.quick("subject", "show", "migrated", "ada")[1][0]["faces"]) == 3
    changed = saved(tmp_path / "changed.npz", rows[::-1], subjects, face_ids=np.array(list("1123456")))
    status, [summary] = command.quick("migrate", "migrated", str(changed))
    assert status == 0
    assert summary["there_already"] == 3, "a known face id keeps its template, whatever embedding is sent under it"
    assert summary["refused"] == 0
    assert held(command, "migrated") == (4, 11)


@pytest.mark.slow(reason="migrates 3,000 embeddings twice")
def test_a_killed_migration_is_run_again_from_the_start(command: Command, tmp_path: Path) -> None:
    assert command.quick("gallery", "create", "killed")[0] == 0
    subjects = [f"s{number}" for number in range(3000)]
    source = saved(tmp_path / "in.npz", units(3000, seed=4), subjects)
    program = [sys.executable, "-c", "from shared.command import main; main()", "migrate", "killed", str(source)]
    environment = {"PATH": "/usr/bin:/bin", "PATRONUS_HOME": str(command.home), "PATRONUS_EDGE_URL": command.edge}
    running = subprocess.Popen(program, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while held(command, "killed")[1] < 5 and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    running.kill()
    running.wait()
    stored = held(command, "killed")[1]
    assert 0 < stored < 3000
    status, [summary] = command.quick("migrate", "killed", str(source))
    assert (status, summary["enrolled"] + summary["there_already"]) == (0, 3000)
    assert summary["there_already"] >= stored
    assert held(command, "killed") == (3000, 3000)


def test_embeddings_are_sent_in_few_digits_and_arrive_bit_by_bit() -> None:
    random = np.random.default_rng(1)
    of_any_bits = np.frombuffer(random.bytes(4 * 128 * 500), np.float32).reshape(-1, 128)
    edges = np.array([[0.0, -0.0, 1.0, 1e-45, 3.4e38, -1.1754944e-38]], np.float32)
    for rows in (units(500), np.where(np.isfinite(of_any_bits), of_any_bits, 0), edges):
        sent = json.loads(json.dumps(in_few_digits(rows).tolist()))
        np.testing.assert_array_equal(np.array(sent, np.float64).astype(np.float32).view("i4"), rows.view("i4"))
    assert max(len(repr(value)) for value in in_few_digits(units(500)).ravel().tolist()) < 18
    assert len(json.dumps(in_few_digits(units(500)).tolist())) < 0.7 * len(json.dumps(units(500).tolist()))


def test_embeddings_of_a_subject_that_was_renamed_since_are_told_and_are_no_failure(
    command: Command, tmp_path: Path
) -> None:
    assert command.quick("gallery", "create", "renamed")[0] == 0
    source = saved(tmp_path / "in.npz", units(3, seed=9), ["ada", "ben", "ada"])
    assert command.quick("migrate", "renamed", str(source))[0] == 0
    assert command.quick("subject", "rename", "renamed", "ada", "eve")[0] == 0
    ended = command.run("migrate", "renamed", str(source))
    assert ended.returncode == 0
    assert "Row 2 (subject 'ada') was enrolled under this subject before, and the face is" in ended.stderr
    assert "2 are enrolled under other names by now" in ended.stdout
    *told, summary = command.quick("migrate", "renamed", str(source))[1]
    assert [one["row"] for one in told] == [0, 2]
    assert (summary["there_already"], summary["elsewhere"], summary["refused"]) == (1, 2, 0)
    assert held(command, "renamed") == (2, 3)


def test_templates_can_be_had_as_a_file_instead(command: Command, tmp_path: Path) -> None:
    assert command.quick("gallery", "create", "filed")[0] == 0
    rows = units(503, seed=5)
    source = saved(tmp_path / "in.npz", rows, ["a"] * 503)
    target = tmp_path / "out.npz"
    status, [summary] = command.quick("migrate", "filed", str(source), "--out", str(target))
    assert (status, summary["protected"]) == (0, 503)
    with np.load(target, allow_pickle=False) as out:
        templates = out["templates"]
        assert out["subjects"].tolist() == ["a"] * 503
        assert sorted(out) == ["angles", "subjects", "templates"]
    np.testing.assert_allclose(np.linalg.norm(templates, axis=1), 1, atol=1e-5)
    assert (np.abs(np.einsum("nd,nd->n", templates, rows)) < 0.6).all()
    assert held(command, "filed") == (0, 0)


def test_a_file_for_a_verify_only_gallery_has_each_subject_under_its_own_seal(command: Command, tmp_path: Path) -> None:
    assert command.quick("gallery", "create", "one-by-one", "--verify-only")[0] == 0
    rows = np.repeat(units(2, seed=6), [1, 503], axis=0)[::-1].copy()
    subjects = [*(["ada", "ben"] * 252)[:503], "ben"]
    source = saved(tmp_path / "in.npz", rows, subjects)
    target = tmp_path / "out.npz"
    assert command.quick("migrate", "one-by-one", str(source), "--out", str(target))[0] == 0
    with np.load(target, allow_pickle=False) as out:
        templates, angles, whose = out["templates"], out["angles"], out["subjects"].tolist()
    assert whose == subjects
    assert angles.shape == (504,)
    # Rows of one subject keep their angle to each other, in whichever request they went; of two, nobody's do.
    near = templates @ templates.T
    assert near[0, 2] > 0.9
    assert near[0, 502] > 0.9
    assert abs(near[0, 1]) < 0.6
    assert near[1, 501] > 0.9
    assert abs(near[1, 503]) < 0.6


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"subjects": np.array(["a", "b"])}, "subjects is not one string for each of the 3 embeddings"),
        (
            {"subjects": np.array([1, 2, 3])},
            "subjects are int64, not text; save a list of str: subjects=np.array([...]).",
        ),
        ({"subjects": np.array(["a", None, "c"], dtype=object)}, "subjects are Python objects, not text; save a list"),
        ({"face_ids": np.array([b"1", b"2", b"3"])}, "face_ids are |S1, not text; save a list of str: face_ids="),
        ({"subjects": None}, "holds no array named subjects"),
        ({"embeddings": units(3, 512)}, "have 512 dimensions, and 128 are wanted"),
    ],
)
def test_a_bad_file_is_one_sentence_and_nothing_is_sent(
    command: Command, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    command.quick("gallery", "create", "bad")
    arrays = {"embeddings": units(3), "subjects": np.array(["a", "b", "c"])} | change
    np.savez(tmp_path / "in.npz", **{name: array for name, array in arrays.items() if array is not None})
    environment = {"PATRONUS_HOME": str(command.home), "PATRONUS_EDGE_URL": command.edge}
    if "embeddings" in change:
        ways: list[list[str]] = [[], ["--out", str(tmp_path / "out.npz")]]
    else:
        ways = [[]]
    for way in ways:
        ended = CliRunner().invoke(whole_command(), ["migrate", "bad", str(tmp_path / "in.npz"), *way], env=environment)
        assert isinstance(ended.exception, PatronusError)
        assert says in ended.exception.detail
    assert not (tmp_path / "out.npz").exists()
    assert held(command, "bad") == (0, 0)


@pytest.mark.parametrize("way", [[], ["--out", "out.npz"]])
def test_a_compression_that_numpy_does_not_write_is_refused(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command.quick("gallery", "create", "bad")
    plain = saved(tmp_path / "in.npz", units(3), ["a", "b", "c"])
    with zipfile.ZipFile(plain) as read, zipfile.ZipFile("packed.npz", "w", zipfile.ZIP_LZMA) as packed:
        for name in read.namelist():
            packed.writestr(name, read.read(name))
    environment = {"PATRONUS_HOME": str(command.home), "PATRONUS_EDGE_URL": command.edge}
    ended = CliRunner().invoke(whole_command(), ["migrate", "bad", "packed.npz", *way], env=environment)
    assert "packed.npz: is compressed in a way that NumPy does not write" in str(ended.exception)
    assert not Path("out.npz").exists()
    assert held(command, "bad") == (0, 0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"subjects": np.array(["a", "b", "../c"])}, "row 2 (subject '../c') has a name that no subject can have"),
        ({"subjects": np.array(["a"] * 3), "face_ids": np.array(["1", "2", "1"])}, "has the face id of row 0"),
        ({"face_ids": np.array(["1", "", "3"])}, "row 1 (subject 'b') has a face id of no letters"),
        ({"embeddings": np.full((3, 128), np.nan, np.float32)}, "row 0 holds a value that is not finite"),
    ],
)
def test_a_file_of_templates_holds_all_rows_or_is_not_written(
    command: Command, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    command.quick("gallery", "create", "bad")
    np.savez(tmp_path / "in.npz", **{"embeddings": units(3), "subjects": np.array(["a", "b", "c"])} | change)
    environment = {"PATRONUS_HOME": str(command.home), "PATRONUS_EDGE_URL": command.edge}
    arguments = ["migrate", "bad", str(tmp_path / "in.npz"), "--out", str(tmp_path / "out.npz")]
    ended = CliRunner().invoke(whole_command(), arguments, env=environment)
    assert isinstance(ended.exception, PatronusError)
    assert says in ended.exception.detail
    assert not (tmp_path / "out.npz").exists()


def test_each_bad_row_is_reported_by_its_place_in_the_file_and_the_rest_is_enrolled(
    command: Command, tmp_path: Path
) -> None:
    command.quick("gallery", "create", "some-bad")
    rows = units(8, seed=7)
    rows[1, 5], rows[2, 0], rows[4] = np.nan, np.inf, 0
    subjects = ["ada", "ada", "ben", "../cyd", "ada", "ada", "dan", "dan"]
    face_ids = np.array(["1", "2", "1", "1", "3", "4", "", "1"])
    source = str(saved(tmp_path / "in.npz", rows, subjects, face_ids=face_ids))
    ended = command.run("migrate", "some-bad", source)
    assert ended.returncode == 1
    assert ended.stderr.strip().splitlines() == [
        "Row 0 (subject 'ada') does not match the subject's other faces: two people under one name?",
        "Row 1 (subject 'ada') holds a value that is not finite.",
        "Row 2 (subject 'ben') holds a value that is not finite.",
        "Row 3 (subject '../cyd') has a name that no subject can have.",
        "Row 4 (subject 'ada') is a zero vector.",
        "Row 5 (subject 'ada') does not match the subject's other faces: two people under one name?",
        "Row 6 (subject 'dan') has a face id of no letters, or of more than 256.",
    ]
    assert ended.stdout == "Enrolled 3 of 8 embeddings; 2 do not match the subject's other faces.\n"
    assert held(command, "some-bad") == (2, 3)
    status, results = command.quick("migrate", "some-bad", source)
    assert (status, [refusal["row"] for refusal in results[:-1]]) == (1, [1, 2, 3, 4, 6])
    counts = {"enrolled": 0, "there_already": 3, "elsewhere": 0, "refused": 5, "disagreeing": 2}
    assert results[-1] == counts | {"unperturbed": results[-1]["unperturbed"]}
    twice = saved(tmp_path / "twice.npz", units(3, seed=8), ["eve"] * 3, face_ids=np.array(["1", "2", "1"]))
    status, results = command.quick("migrate", "some-bad", str(twice))
    assert (status, results[0]["row"], results[-1]["enrolled"]) == (1, 2, 2)


def test_refused_rows_do_not_stop_the_others(command: Command, tmp_path: Path) -> None:
    command.quick("gallery", "create", "partly")
    rows = units(3, seed=6)
    rows[1] = 0
    source = saved(tmp_path / "in.npz", rows, ["a", "b", "c"])
    ended = command.run("migrate", "partly", str(source))
    assert ended.returncode == 1
    assert ended.stderr.strip() == "Row 1 (subject 'b') is a zero vector."
    assert "Enrolled 2 of 3" in ended.stdout
    absent = command.run("migrate", "nowhere", str(source), "--json")
    assert (absent.returncode, json.loads(absent.stdout)["status"]) == (1, 404)
