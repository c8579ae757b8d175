"""``patronus protect``: a file of embeddings in, a file of templates out, or one sentence and nothing."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from edge_service.protection.keys import NO_EPOCH, PUBLIC_KEY, EpochKey, KeyStore
from edge_service.protection.profiles.files import Profile, load_profile
from edge_service.protection.protect import Protector
from shared.contract import Contract, EmbedderPin, SealPin, SealScope
from shared.errors import PatronusError
from shared.wire.common import SubjectScore, Threshold
from shared.wire.edge import EdgeGallery
from tests.edge_service.cli.patronus_command import whole_command
from tests.support.patronus_profile import angles_between, copy_profile, make_network, make_profile, units

DIM = 8
EPOCH = "0123456789abcdef"


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small networks: ``sealing`` and ``plain`` erase nothing, so that the angle can be seen from the embedding."""
    folder = tmp_path_factory.mktemp("profiles")
    network = make_network(dim=DIM, erases=False, cohort=1)
    make_profile(folder, network, name="sealing", step={"input_norm": [0.5, 20.0]})
    make_profile(folder, network, name="plain", seals=False)
    return folder


@pytest.fixture
def protect(profiles: Path, tmp_path: Path) -> Callable[..., Result]:
    """The command, in this process, at an edge whose home is ``tmp_path / "home"`` and whose cloud is away."""

    def run(source: Path, *arguments: object, target: Path | None = None, **settings: str) -> Result:
        environment = settings | {
            "PATRONUS_HOME": str(tmp_path / "home"),
            "PATRONUS_EDGE__HOME": None,
            "PATRONUS_EDGE__PROFILES": str(profiles),
            "PATRONUS_EDGE__CLOUD__URL": "http://127.0.0.1:9",
        }
        command = ["protect", source, target or tmp_path / "out.npz", *arguments]
        return CliRunner().invoke(whole_command(), [str(part) for part in command], env=environment)

    return run


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def opened(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def test_templates_angles_and_lengths_come_out(protect: Any, profiles: Path, tmp_path: Path) -> None:
    # More than is worked on at a time.
    lengths = np.random.default_rng(1).uniform(1, 20, 2100).astype(np.float32)
    rows = units(2100, DIM) * lengths[:, None]
    source = saved(tmp_path / "in.npz", embeddings=rows, subjects=np.array(["a"] * 2100))
    ended = protect(source, "--profile", "sealing", "--unsealed")
    assert ended.exit_code == 0, ended.output
    out = opened(tmp_path / "out.npz")
    assert {name: (array.shape, array.dtype) for name, array in out.items()} == {
        "templates": ((2100, DIM), np.float32),
        "angles": ((2100,), np.float32),
        "norms": ((2100,), np.float32),
    }
    np.testing.assert_allclose(out["norms"], lengths, rtol=1e-6)
    unit = (rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)).astype(np.float32)
    np.testing.assert_allclose(angles_between(out["templates"], unit), out["angles"], atol=5e-6)
    served = Protector(load_profile("sealing", own=profiles)).templates(unit[2040:2060], PUBLIC_KEY, sealed=False)
    np.testing.assert_array_equal(out["templates"][2040:2060], served.templates)
    unperturbed = int((out["angles"] == 0).sum())
    assert 0 < unperturbed < 2100
    assert f"{unperturbed} had no margin" in ended.stdout
    assert (tmp_path / "out.npz").stat().st_mode & 0o777 == 0o600


def gallery_file(folder: Path, profile: Profile, key: EpochKey | None, scope: SealScope = "gallery") -> Path:
    """What the cloud says of the gallery ``door``, in a file; ``key`` as the one of its epoch."""
    seal = None if key is None else SealPin(key_id=key.key_id(), epoch=key.epoch, scope=scope)
    embedder = EmbedderPin(name="any", sha256="0" * 64, preprocessing="none")
    contract = Contract(dim=DIM, embedder=embedder, profile=profile.pin, seal=seal)
    info = EdgeGallery(
        gallery="door" if key is None else key.gallery,
        contract=contract,
        contract_digest=contract.digest(),
        threshold=Threshold(cosine=0.4, fmr=0.001),
        score=SubjectScore(rule="mean"),
        subjects=0,
        templates=0,
        created_at=datetime.now(UTC),
        verify_only=contract.verify_only,
    )
    path = folder / "gallery.json"
    path.write_text(info.model_dump_json())
    return path


def test_a_gallerys_key_and_epoch_seal(protect: Any, profiles: Path, tmp_path: Path) -> None:
    rows = units(6, DIM)
    source = saved(tmp_path / "in.npz", embeddings=rows)
    keys = KeyStore(tmp_path / "home" / "edge")
    profile = load_profile("sealing", own=profiles)
    made = {}
    for gallery, epoch in (("door", EPOCH), ("door", "0" * 16), ("roof", EPOCH)):
        file = gallery_file(tmp_path, profile, keys.gallery(gallery).epoch(epoch))
        ended = protect(source, "--profile", "sealing", "--gallery", gallery, "--contract", file, "--force")
        assert ended.exit_code == 0, ended.output
        assert "6 sealed templates under the profile sealing" in ended.stdout
        made[gallery, epoch] = opened(tmp_path / "out.npz")["templates"]
        served = Protector(load_profile("sealing", own=profiles)).templates(rows, keys.gallery(gallery).epoch(epoch))
        np.testing.assert_array_equal(made[gallery, epoch], served.templates)
    assert len({templates.tobytes() for templates in made.values()}) == 3


def test_without_a_name_the_gallerys_profile_protects(protect: Any, profiles: Path, tmp_path: Path) -> None:
    rows = units(6, DIM)
    source = saved(tmp_path / "in.npz", embeddings=rows)
    key, profile = (
        KeyStore(tmp_path / "home" / "edge").gallery("door").epoch(EPOCH),
        load_profile("sealing", own=profiles),
    )
    at = ("--gallery", "door", "--contract", gallery_file(tmp_path, profile, key), "--force")
    expected = Protector(profile).templates(rows, key).templates
    # `plain` perturbs alone: `sealing` does more.
    for settings in ({"PATRONUS_EDGE__PROFILE": "plain"}, {"PATRONUS_EDGE__WEAKER_PROFILES": '["sealing"]'}):
        ended = protect(source, *at, **settings)
        assert ended.exit_code == 0, ended.output
        assert "6 sealed templates under the profile sealing" in ended.stdout
        np.testing.assert_array_equal(opened(tmp_path / "out.npz")["templates"], expected)
        (tmp_path / "out.npz").unlink()
    assert "'sealing', which does not erase" in str(protect(source, *at).exception)
    unsealed = gallery_file(tmp_path, load_profile("plain", own=profiles), None)
    refused = protect(source, "--gallery", "door", "--contract", unsealed, PATRONUS_EDGE__PROFILE="sealing")
    assert "'plain', which does not seal" in str(refused.exception)
    lied = gallery_file(tmp_path, profile, None)  # of a profile that seals, and without a seal
    refused = protect(source, "--gallery", "door", "--contract", lied, PATRONUS_EDGE__PROFILE="plain")
    assert "under the profile 'sealing'" in str(refused.exception)
    other = copy_profile("seal", tmp_path / "other", "sealing")
    at = ("--gallery", "door", "--contract", gallery_file(tmp_path, other, key))
    assert f"'sealing' of digest {other.pin.sha256[:12]}" in str(protect(source, *at).exception)
    assert not (tmp_path / "out.npz").exists()


def test_a_subject_of_a_verify_only_gallery_has_a_seal_of_its_own(protect: Any, profiles: Path, tmp_path: Path) -> None:
    rows = units(6, DIM)
    source = saved(tmp_path / "in.npz", embeddings=rows)
    key = KeyStore(tmp_path / "home" / "edge").gallery("door").epoch(EPOCH, "subject")
    file = gallery_file(tmp_path, load_profile("sealing", own=profiles), key, "subject")
    at = ("--profile", "sealing", "--gallery", "door", "--contract", file, "--force")
    made = set()
    for subject in ("ada", "bob"):
        ended = protect(source, *at, "--subject", subject)
        assert ended.exit_code == 0, ended.output
        templates = opened(tmp_path / "out.npz")["templates"]
        served = Protector(load_profile("sealing", own=profiles)).templates(rows, key.of_subject(subject))
        np.testing.assert_array_equal(templates, served.templates)
        made.add(templates.tobytes())
    assert len(made) == 2
    assert "name the subject" in str(protect(source, *at).exception)
    assert protect(source, *at, "--subject", "a/b").exit_code == 2
    assert protect(source, "--profile", "plain", "--unsealed", "--subject", "ada").exit_code == 2


def test_without_a_seal_the_gallery_only_seeds(protect: Any, profiles: Path, tmp_path: Path) -> None:
    rows = units(6, DIM)
    source = saved(tmp_path / "in.npz", embeddings=rows)
    key = KeyStore(tmp_path / "home" / "edge").gallery("door").epoch(NO_EPOCH)
    file = gallery_file(tmp_path, load_profile("plain", own=profiles), None)
    ended = protect(source, "--profile", "plain", "--gallery", "door", "--contract", file)
    assert ended.exit_code == 0, ended.output
    assert "6 templates, NOT sealed, under the profile plain" in ended.stdout
    keyed = opened(tmp_path / "out.npz")
    np.testing.assert_allclose(angles_between(keyed["templates"], rows), keyed["angles"], atol=5e-6)
    served = Protector(load_profile("plain", own=profiles)).templates(rows, key)
    np.testing.assert_array_equal(keyed["templates"], served.templates)
    assert protect(source, "--profile", "plain", "--unsealed", "--force").exit_code == 0
    assert not np.array_equal(opened(tmp_path / "out.npz")["templates"], keyed["templates"])


class Trap:
    """What a hostile file would run if it were unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> Any:
        return Path.touch, (self.sprung,)


def with_row(row: int, value: Any) -> Any:
    rows = units(5, DIM)
    rows[row] = value
    return {"embeddings": rows}


BAD: dict[str, tuple[Any, str]] = {
    "no array": ({"vectors": units(2, DIM)}, "no array named embeddings"),
    "another dimension": ({"embeddings": units(2, 9)}, "have 9 dimensions, and 8 are wanted"),
    "float64": ({"embeddings": units(2, DIM).astype(np.float64)}, "are float64; save them as float32"),
    "integers": ({"embeddings": np.ones((2, DIM), np.int32)}, "are int32"),
    "flat": ({"embeddings": units(1, DIM)[0]}, "not n rows of d values"),
    "empty": ({"embeddings": units(1, DIM)[:0]}, "not n rows of d values"),
    "by columns": ({"embeddings": np.asfortranarray(units(3, DIM))}, "in the order of rows"),
    "NaN": (with_row(3, np.nan), "Embedding 3, counted from 0, holds a value that is not finite; 1 of them"),
    "infinity": (with_row(0, np.inf), "Embedding 0, counted from 0, holds a value that is not finite"),
    "zero": (with_row(4, 0), "Embedding 4, counted from 0, is a zero vector"),
    "too long": (with_row(2, 99), "Embedding 2, .* length that sface_2021dec does not give .0.5 to 20, or 1."),
}


@pytest.mark.parametrize(("arrays", "says"), BAD.values(), ids=BAD)
def test_bad_embeddings_are_one_sentence_and_no_file(protect: Any, tmp_path: Path, arrays: Any, says: str) -> None:
    source = saved(tmp_path / "in.npz", **arrays)
    ended = protect(source, "--profile", "sealing", "--unsealed")
    assert isinstance(ended.exception, PatronusError)
    with pytest.raises(PatronusError, match=says):
        raise ended.exception
    assert [path.name for path in tmp_path.iterdir()] == ["in.npz"]


@pytest.mark.parametrize("shape", ["(True, 8)", "(-5, 8)", "(5, 0)"])
def test_a_header_that_counts_otherwise_is_refused(protect: Any, tmp_path: Path, shape: str) -> None:
    source = tmp_path / "in.npz"
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    with zipfile.ZipFile(source, "w") as archive:
        content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(160)
        archive.writestr("embeddings.npy", content)
    ended = protect(source, "--profile", "sealing", "--unsealed")
    assert isinstance(ended.exception, PatronusError)
    assert "not n rows of d values" in str(ended.exception) or "not a whole .npz" in str(ended.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["in.npz"]


def test_a_target_that_cannot_be_written_is_reported(
    protect: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = saved(tmp_path / "in.npz", embeddings=units(3, DIM))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    ended = protect(source, "--profile", "sealing", "--unsealed")
    assert isinstance(ended.exception, PatronusError)
    assert "cannot be written (No space left on device)" in str(ended.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["in.npz"]


def test_a_file_that_is_none_is_refused(protect: Any, tmp_path: Path) -> None:
    source = tmp_path / "in.npz"
    ended = protect(source, "--profile", "sealing", "--unsealed")
    assert "there is no such file" in str(ended.exception)
    whole = saved(tmp_path / "whole.npz", embeddings=units(100, DIM)).read_bytes()
    packed = tmp_path / "packed.npz"
    np.savez_compressed(packed, embeddings=units(100, DIM))
    spoilt = bytearray(packed.read_bytes())
    spoilt[len(spoilt) // 2] ^= 0xFF
    loose = tmp_path / "loose.npy"
    np.save(loose, units(3, DIM))
    for content in (b"", b"no archive", whole[:-50], bytes(spoilt)):
        source.write_bytes(content)
        ended = protect(source, "--profile", "sealing", "--unsealed")
        assert "is not a whole .npz file" in str(ended.exception)
        assert not (tmp_path / "out.npz").exists()
    assert str(protect(loose, "--profile", "sealing", "--unsealed").exception) == (
        f"{loose}: is an .npy, one array without a name; give an .npz, as "
        'np.savez("FILE.npz", embeddings=array) writes it, for migrate also with subjects=names.'
    )
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("embeddings.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'shape': (9**9, 8)}")
    assert isinstance(protect(source, "--profile", "sealing", "--unsealed").exception, PatronusError)
    with zipfile.ZipFile(source, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("embeddings.npy", zipfile.ZipFile(tmp_path / "whole.npz").read("embeddings.npy"))
    assert "way that NumPy does not write" in str(protect(source, "--profile", "sealing", "--unsealed").exception)
    assert not list(tmp_path.glob(".out*"))


def test_nothing_in_a_file_is_run(protect: Any, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    trap = np.array([[Trap(sprung)] * DIM], dtype=object)
    source = saved(tmp_path / "in.npz", embeddings=trap)
    ended = protect(source, "--profile", "sealing", "--unsealed")
    assert "are object" in str(ended.exception)
    assert not sprung.exists()


def test_a_file_that_is_there_is_kept_unless_forced(protect: Any, tmp_path: Path) -> None:
    source = saved(tmp_path / "in.npz", embeddings=units(2, DIM))
    (tmp_path / "out.npz").write_text("mine")
    ended = protect(source, "--profile", "sealing", "--unsealed")
    assert "exists already" in str(ended.exception)
    bad = saved(tmp_path / "bad.npz", **with_row(4, 0))
    assert protect(bad, "--profile", "sealing", "--unsealed", "--force").exit_code == 1
    assert (tmp_path / "out.npz").read_text() == "mine"
    assert protect(source, "--profile", "sealing", "--unsealed", "--force").exit_code == 0
    assert opened(tmp_path / "out.npz")["templates"].shape == (2, DIM)
    ended = protect(source, "--profile", "sealing", "--unsealed", target=tmp_path / "nowhere" / "out.npz")
    assert "cannot be written" in str(ended.exception)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--profile", "nothing", "--unsealed"], "plain, plugin, seal, sealing."),
        (["--profile", "seal", "--unsealed"], "protects nothing"),
        (["--profile", "sealing", "--gallery", "door"], "no edge's key in"),
    ],
)
def test_what_cannot_be_done_is_said(protect: Any, tmp_path: Path, arguments: list[str], says: str) -> None:
    source = saved(tmp_path / "in.npz", embeddings=units(2, DIM))
    ended = protect(source, *arguments)
    assert says in str(ended.exception)
    assert not (tmp_path / "out.npz").exists()
    assert not (tmp_path / "home" / "edge" / "master.key").exists()


def test_what_the_cloud_said_must_be_of_this_gallery_and_fit(protect: Any, profiles: Path, tmp_path: Path) -> None:
    source = saved(tmp_path / "in.npz", embeddings=units(6, DIM))
    key = KeyStore(tmp_path / "home" / "edge").gallery("door")
    sealing, plain = (load_profile(name, own=profiles) for name in ("sealing", "plain"))
    other = EpochKey("door", EPOCH, bytes(32))
    cases: list[tuple[Profile, EpochKey | None, SealScope, str, str, str]] = [
        (sealing, other, "gallery", "door", "sealing", "does not have the key"),
        # A cloud that says of a gallery with a seal for each subject that it has one for all, and the reverse.
        (sealing, key.epoch(EPOCH, "subject"), "gallery", "door", "sealing", "does not have the key"),
        (sealing, key.epoch(EPOCH), "subject", "door", "sealing", "name the subject"),
        (sealing, key.epoch(EPOCH), "gallery", "roof", "sealing", "is of the gallery door, not of roof"),
        (sealing, key.epoch(EPOCH), "gallery", "door", "plain", "under the profile 'sealing'"),
        (plain, None, "gallery", "door", "sealing", "under the profile 'plain'"),
        (sealing, None, "gallery", "door", "sealing", "under the profile"),
    ]
    for profile, of_epoch, scope, gallery, wanted, says in cases:
        file = gallery_file(tmp_path, profile, of_epoch, scope)
        ended = protect(source, "--profile", wanted, "--gallery", gallery, "--contract", file)
        assert says in str(ended.exception)
    ended = protect(
        source, "--profile", "sealing", "--gallery", "door", "--contract",
        gallery_file(tmp_path, sealing, key.epoch(EPOCH)),
        "--subject", "ada",
    )  # fmt: skip
    assert "not verify-only" in str(ended.exception)
    for content in (b"", b"[]", b"null", b"{}", b"\xff"):
        (tmp_path / "gallery.json").write_bytes(content)
        ended = protect(source, "--profile", "sealing", "--gallery", "door", "--contract", tmp_path / "gallery.json")
        assert "is not what `patronus gallery show door --json` prints" in str(ended.exception)
    ended = protect(source, "--profile", "sealing", "--gallery", "door", "--contract", tmp_path / "absent.json")
    assert "cannot be read" in str(ended.exception)
    assert not (tmp_path / "out.npz").exists()


def test_without_a_cloud_its_word_must_be_given(protect: Any, tmp_path: Path) -> None:
    source = saved(tmp_path / "in.npz", embeddings=units(2, DIM))
    KeyStore(tmp_path / "home" / "edge")
    (tmp_path / "home" / "cloud").mkdir()
    (tmp_path / "home" / "cloud" / "api_key").write_text("key")
    (tmp_path / "home" / "cloud" / "api_key").chmod(0o600)
    ended = protect(source, "--profile", "sealing", "--gallery", "door")
    assert "give with --contract what" in str(ended.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--unsealed", "--gallery", "door"],
        ["--gallery", "../door"],
        ["--unsealed", "--contract", "door.json"],
    ],
)
def test_wrong_usage_is_status_2(protect: Any, tmp_path: Path, arguments: list[str]) -> None:
    source = saved(tmp_path / "in.npz", embeddings=units(2, DIM))
    assert protect(source, *arguments).exit_code == 2


def test_a_shell_sees_status_1_and_one_line(profiles: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from shared.command import main; main()", "protect"]
    command += [str(tmp_path / "absent.npz"), str(tmp_path / "out.npz"), "--profile", "sealing", "--unsealed"]
    environment = {"PATH": "/usr/bin:/bin", "PATRONUS_HOME": str(tmp_path), "PATRONUS_EDGE__PROFILES": str(profiles)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (1, "", 1)
