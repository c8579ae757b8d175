"""A models folder is never left half-written, and nothing leaves it whose digest is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from edge_service.models.files import folder_lock, write_whole
from edge_service.models.manifest import CHECKOUT
from edge_service.models.store import locate, model_file, prepare
from shared.errors import SetupError
from tests.support.tiny_model import SOURCE, ZEROES, Tiny


def test_a_conversion_that_gives_other_bytes_is_refused(tiny: Tiny) -> None:
    tiny.entry["converted"]["sha256"] = ZEROES
    sentence = tiny.failure(tiny.given())
    assert "The converted model tiny.onnx has SHA-256" in sentence
    assert "000000000000…" in sentence


def test_the_published_file_is_kept_when_asked(tiny: Tiny) -> None:
    tiny.prepare(keep_source=True)
    assert (tiny.folder / SOURCE).read_bytes() == tiny.source


def test_a_second_run_needs_no_onnx_no_pip_no_network_and_no_right_to_write(tiny: Tiny, tmp_path: Path) -> None:
    tiny.prepare()
    (tmp_path / "manifest.json").write_text(json.dumps(tiny.document))
    program = """
        import builtins, pathlib, socket, subprocess, sys
        from edge_service.models.manifest import load_manifest
        from edge_service.models.store import locate, prepare
        def refuse(*_, **__): raise AssertionError("must not be used")
        class NoOnnx:
            def find_spec(self, name, *_):
                if name.partition(".")[0] in ("onnx", "pip"): refuse()
        sys.meta_path.insert(0, NoOnnx())
        socket.socket.connect = subprocess.Popen.__init__ = refuse
        sys.addaudithook(lambda name, args: refuse() if name == "open" and args[2] & 3 else None)
        folder = pathlib.Path(sys.argv[1])
        (model,) = prepare(load_manifest(), folder)
        assert locate("face-embedder", folder) == model
        assert "onnx" not in sys.modules
        sys.stdout.write("done")
    """
    done = subprocess.run(
        [sys.executable, "-B", "-c", textwrap.dedent(program), str(tiny.folder)],
        env=os.environ | {"PATRONUS_MODEL_MANIFEST": str(tmp_path / "manifest.json")},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("done", 0), done.stderr


@pytest.mark.parametrize("damage", [b"", b"half"])
def test_a_damaged_model_is_never_handed_out_and_is_mended_by_the_next_run(tiny: Tiny, damage: bytes) -> None:
    manifest = tiny.manifest()
    (model,) = tiny.prepare()
    model.path.write_bytes(damage)
    with pytest.raises(SetupError, match="patronus models fetch"):
        model.read()
    with pytest.raises(SetupError, match=r"tiny\.onnx has SHA-256 .* run `patronus models fetch`\."):
        locate("face-embedder", tiny.folder, manifest)
    assert [model_file(entry, tiny.folder).state for entry in manifest.models] == ["damaged"]
    tiny.prepare()
    assert locate("face-embedder", tiny.folder, manifest) == model


def test_a_missing_model_is_reported_with_the_command_that_mends_it(tiny: Tiny) -> None:
    with pytest.raises(SetupError, match=r"tiny\.onnx is missing; run `patronus models fetch`\."):
        locate("face-embedder", tiny.folder, tiny.manifest())
    assert [model_file(entry, tiny.folder).state for entry in tiny.manifest().models] == ["missing"]


def test_a_receipt_that_is_gone_or_nonsense_does_not_matter(tiny: Tiny) -> None:
    tiny.prepare()
    assert "onnx/" in json.loads((tiny.folder / "tiny.json").read_text())["converter"]
    (tiny.folder / "tiny.json").write_text("[]")
    assert [model_file(entry, tiny.folder).state for entry in tiny.manifest().models] == ["ready"]


def test_two_set_ups_at_once_do_the_work_once(tiny: Tiny) -> None:
    events: list[str] = []
    threads = [threading.Thread(target=tiny.prepare, kwargs={"on_event": events.append}) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum("converting" in event for event in events) == 1
    assert sum("tiny.onnx: ready" in event for event in events) == 2
    assert tiny.left_behind() == ["tiny.json", "tiny.onnx"]


def test_a_lock_that_is_never_freed_ends_the_wait_with_a_sentence(tmp_path: Path) -> None:
    events: list[str] = []
    with (
        folder_lock(tmp_path, lambda: None),
        pytest.raises(SetupError, match="Another set-up"),
        folder_lock(tmp_path, lambda: events.append("waiting"), patience_s=0.2),
    ):
        pytest.fail("two held the lock at once")
    assert events == ["waiting"]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    # A folder in the file's place lets every step up to the last one succeed.
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(SetupError, match=r"cannot hold model\.onnx"):
        write_whole(tmp_path / "model.onnx", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    with pytest.raises(SetupError, match="none cannot hold"):
        write_whole(tmp_path / "none" / "model.onnx", b"new")


def test_a_reader_in_the_middle_of_the_old_file_never_sees_the_new_one(tmp_path: Path) -> None:
    write_whole(tmp_path / "model.onnx", b"old weights")
    with (tmp_path / "model.onnx").open("rb", buffering=0) as reader:
        assert reader.read(4) == b"old "
        write_whole(tmp_path / "model.onnx", b"new numbers")
        assert reader.read() == b"weights"
    assert (tmp_path / "model.onnx").read_bytes() == b"new numbers"


def test_a_models_folder_that_cannot_be_made_is_reported(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="PATRONUS_MODELS"):
        prepare(tiny.manifest(), tmp_path / "file" / "models")


def test_a_model_that_is_gone_or_unreadable_is_reported(tiny: Tiny) -> None:
    manifest = tiny.manifest()
    (model,) = tiny.prepare()
    model.path.unlink()
    with pytest.raises(SetupError, match=r"tiny\.onnx cannot be read .* run `patronus models fetch`\."):
        model.read()
    model.path.mkdir()
    with pytest.raises(SetupError, match=r"tiny\.onnx cannot be read"):
        model_file(manifest.models[0], tiny.folder)
