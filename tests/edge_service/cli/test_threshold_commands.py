"""``patronus gallery threshold``, and ``create`` for a purpose."""

from __future__ import annotations

import pytest

from tests.edge_service.cli.patronus_command import Command

PURPOSE = ["--for-subjects", "500", "--false-accepts", "0.01"]


def test_a_threshold_is_changed_and_said(command: Command) -> None:
    command.quick("gallery", "create", "stricter")
    ended = command.run("gallery", "threshold", "stricter", "--threshold", "0.5", "--fmr", "0.00002")
    said = "Gallery stricter: threshold cosine 0.5 (false match rate 0.002%).\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, said, "")
    _, [shown] = command.quick("gallery", "show", "stricter")
    assert shown["threshold"] == {"cosine": 0.5, "fmr": 0.00002}


def test_a_gallery_for_500_subjects_is_made_under_the_default_profile(command: Command) -> None:
    ended = command.run("gallery", "create", "for-500", *PURPOSE)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "match one of 500 subjects" in ended.stdout
    assert command.quick("gallery", "show", "for-500")[1][0]["threshold"]["cosine"] > 0.45


def test_a_purpose_beyond_what_was_measured_is_refused_in_one_sentence(command: Command) -> None:
    command.quick("gallery", "create", "unmeasured", "--threshold", "0.5", "--fmr", "0.00002")
    for words in (["create", "for-millions"], ["threshold", "unmeasured"]):
        ended = command.run("gallery", *words, "--for-subjects", "5000000", "--false-accepts", "0.0001")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "impostor pairs" in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
    assert command.quick("gallery", "show", "unmeasured")[1][0]["threshold"]["cosine"] == 0.5


@pytest.mark.parametrize(
    "words",
    [
        ["threshold", "door"],
        ["threshold", "door", "--threshold", "0.5"],
        ["threshold", "door", "--for-subjects", "500"],
        ["threshold", "door", "--false-accepts", "0.1"],
        ["threshold", "door", *PURPOSE, "--threshold", "0.5", "--fmr", "0.001"],
        ["threshold", "door", "--for-subjects", "0", "--false-accepts", "0.1"],
        ["threshold", "door", "--for-subjects", "500", "--false-accepts", "0.9"],
        ["threshold", "door", "--for-subjects", "500", "--false-accepts", "nan"],
        ["create", "door", "--fmr", "0.1"],
        ["create", "door", "--for-subjects", "500"],
        ["create", "door", *PURPOSE, "--threshold", "0.5", "--fmr", "0.001"],
    ],
)
def test_half_a_threshold_or_two_are_wrong_usage(command: Command, words: list[str]) -> None:
    ended = command.run("gallery", *words)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Usage" in ended.stderr
