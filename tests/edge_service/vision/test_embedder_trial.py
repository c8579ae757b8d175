"""An embedder is tried in a process of its own: whatever it does there, the command ends with one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_service.models.own_folder import own_embedders
from edge_service.vision.embedder_check import check_embedder
from edge_service.vision.embedder_files import EmbedderFile
from edge_service.vision.embedder_trial import try_embedder
from shared.errors import SetupError
from tests.edge_service.own_embedder import DIM, write_own


def _add(source: Path, home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_service.models", "add", str(source), "--embedders", str(home), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def endless(folder: Path) -> Path:
    """A network whose loop ends after 2^62 steps."""
    rows, flag = (
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (("in", TensorProto.FLOAT, ["n", DIM]), ("go", TensorProto.BOOL, []))
    )
    step = helper.make_tensor_value_info("step", TensorProto.INT64, [])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", DIM])
    on = helper.make_tensor_value_info("on", TensorProto.BOOL, [])
    body = [helper.make_node("Identity", ["in"], ["out"]), helper.make_node("Identity", ["go"], ["on"])]
    loop = helper.make_node(
        "Loop", ["times", "true", "rows"], ["y"], body=helper.make_graph(body, "b", [step, flag, rows], [on, out])
    )
    return write_own(folder, after=[loop], constants={"times": np.array(2**62, np.int64), "true": np.array(True)})


def greedy(folder: Path) -> Path:
    """A network that asks for 2^44 bytes, whatever it is given."""
    nodes: list[onnx.NodeProto] = [
        helper.make_node("Expand", ["one", "many"], ["all"]),
        helper.make_node("ReduceMean", ["all"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["rows", "mean"], ["y"]),
    ]
    return write_own(folder, after=nodes, constants={"one": np.ones(1, np.float32), "many": np.array([2**42])})


def test_a_trial_gives_what_a_check_gives(tmp_path: Path) -> None:
    file = EmbedderFile.open(write_own(tmp_path))
    found, expected = try_embedder(file, 60), check_embedder(file)
    assert np.allclose(found.same, expected.same)
    assert np.allclose(found.different, expected.different)
    assert found.length == pytest.approx(expected.length)


@pytest.mark.slow(reason="waits for a time limit")
def test_an_endless_network_is_stopped_and_told_in_one_sentence(tmp_path: Path) -> None:
    added = _add(endless(tmp_path), tmp_path / "embedders", "--timeout", "4")
    assert (added.returncode, added.stdout) == (1, "")
    assert added.stderr == (
        "mine.onnx was stopped, since its trial took over 4 seconds; check the network for an endless loop, or allow "
        "more with --timeout.\n"
    )
    assert own_embedders(tmp_path / "embedders") == []


def test_a_network_that_asks_for_too_much_memory_is_told_in_one_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = greedy(tmp_path)
    added = _add(source, tmp_path / "embedders")
    assert (added.returncode, added.stdout) == (1, "")
    assert added.stderr == (
        "mine.onnx needs more memory for 5 faces of (3, 112, 112) than there is here; use a smaller network, or a "
        "machine with more memory.\n"
    )
    with pytest.raises(SetupError, match="needs more memory"):
        try_embedder(EmbedderFile.open(source), 60, details=True)
    assert "bad_alloc" in capfd.readouterr().err


def test_a_trial_that_was_killed_and_a_file_that_changed_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = EmbedderFile.open(write_own(tmp_path))
    write_own(tmp_path, said={"mean": 127.0})
    with pytest.raises(SetupError, match="was changed during its trial"):
        try_embedder(file, 60)
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    with pytest.raises(SetupError, match=r"ended its trial without an answer \(status -9\)"):
        try_embedder(file, 60)
