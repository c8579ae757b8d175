"""A key file is private, whole, of one gallery and profile, and never silently replaced."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_service.protection.keys import derive
from patronus_face import Conflict, ContractMismatch, Key, Protector, SetupError
from tests.support.patronus_profile import copy_profile

# Made once; it must open for good.
SECRET = "5a" * 32
GOLDEN = {"kind": "patronus-key", "version": 1, "secret": SECRET, "epoch": "0123456789abcdef", "used_for": None}
GOLDEN_CHECK = "4dad3005"
GOLDEN_KEY_ID = "f3e4a31d65db47789413148bfa081936"


def write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    path.chmod(0o600)
    return path


def test_a_file_of_today_opens_for_good(tmp_path: Path) -> None:
    key = Key.load(write(tmp_path / "a.key", GOLDEN | {"check": GOLDEN_CHECK}))
    seal = Protector.open("seal", key=key, gallery="door", dim=64).contract.seal
    assert seal is not None
    assert (seal.key_id, seal.epoch, seal.scope) == (GOLDEN_KEY_ID, "0123456789abcdef", "gallery")


def test_the_derivation_is_that_of_an_edges_folder(tmp_path: Path) -> None:
    key = Key.load_or_create(tmp_path / "a.key")
    master = bytes.fromhex(json.loads(key.path.read_text())["secret"])
    assert key.gallery_key("door").secret == derive(master, "gallery", "door")


def test_it_is_private_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.key"
    key = Key.load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert Key.load_or_create(str(path)) == key == Key.load(path)
    assert Key.load_or_create(tmp_path / "b.key") != key
    assert key.used_for() is None
    assert json.loads(path.read_text())["secret"] not in repr(key)
    assert list(path.parent.iterdir()) == [path]  # nothing half-written is beside it


def test_of_many_that_create_it_at_once_all_get_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        keys = set(threads.map(lambda _: Key.load_or_create(tmp_path / "a.key"), range(32)))
    assert len(keys) == 1


def test_of_many_that_use_it_at_once_for_different_galleries_one_does(tmp_path: Path) -> None:
    key = Key.load_or_create(tmp_path / "a.key")

    def opened(gallery: str) -> str | None:
        try:
            return Protector.open("seal", key=key, gallery=gallery, dim=32).gallery
        except Conflict:
            return None

    with ThreadPoolExecutor(8) as threads:
        found = [gallery for gallery in threads.map(opened, [f"g{number}" for number in range(16)]) if gallery]
    assert len(found) == 1
    used = key.used_for()
    assert used is not None
    assert used[0] == found[0]


def test_a_missing_file_is_not_created_by_reading(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        Key.load(tmp_path / "a.key")
    assert isinstance(missing.value, SetupError)
    assert str(missing.value) == (
        f"There is no key file {tmp_path / 'a.key'}; put its backup back, or create a new key: "
        "Key.load_or_create(path)."
    )
    assert list(tmp_path.iterdir()) == []
    key = Key.load_or_create(tmp_path / "a.key")
    key.path.unlink()
    with pytest.raises(SetupError, match=r"^The key file .*a\.key is gone; put its backup back\.$"):
        Protector.open(key=key)
    Key.load_or_create(tmp_path / "a.key")
    with pytest.raises(SetupError, match="holds another key"):
        Protector.open(key=key)


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = Key.load_or_create(tmp_path / "a.key").path
    path.chmod(0o640)
    with pytest.raises(SetupError, match="can be read by others"):
        Key.load_or_create(path)
    path.chmod(0o600)
    (tmp_path / "link.key").symlink_to(path)
    with pytest.raises(SetupError, match="plain file"):
        Key.load_or_create(tmp_path / "link.key")


def test_a_damaged_file_is_refused_wherever_it_is_damaged(tmp_path: Path) -> None:
    path = Key.load_or_create(tmp_path / "a.key").path
    contract = Protector.open("seal", key=Key.load(path), dim=32).contract
    whole = path.read_text()
    for place in range(0, len(whole), 7):
        for wrong in (
            whole[:place],
            whole[:place] + "0" + whole[place + 1 :],
            whole[:place] + "\x00" + whole[place + 1 :],
        ):
            path.write_text(wrong)
            try:
                same = json.loads(wrong) == json.loads(whole)  # such as a blank more, or a digit that is 0 already
            except ValueError:
                same = False
            if same:
                assert Protector.open("seal", key=Key.load_or_create(path)).contract == contract
            else:
                with pytest.raises(SetupError, match=f"{path}.*damaged"):
                    Key.load_or_create(path)
    assert list(tmp_path.glob("*.key")) == [path]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, r"is of version 2, newer than this program, which reads 1; update patronus-face\."),
        ({"kind": "patronus-gallery-key"}, "is not a key file of Patronus, or is damaged"),
        ({"epoch": "0" * 16}, "is damaged; put its backup back"),
        ({"more": 1}, "is damaged"),
        ({"secret": "5a" * 31}, "is damaged"),
    ],
)
def test_what_is_no_key_file_of_this_program_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = write(tmp_path / "a.key", GOLDEN | {"check": GOLDEN_CHECK} | change)
    with pytest.raises(SetupError, match=says):
        Key.load_or_create(path)
    assert json.loads(path.read_text())["secret"] == (change.get("secret") or SECRET)


def test_a_key_is_of_one_gallery_and_one_profile(tmp_path: Path) -> None:
    key = Key.load_or_create(tmp_path / "a.key")
    contract = Protector.open("seal", key=key, gallery="door", dim=32).contract
    assert Protector.open("seal", key=key).contract == contract  # gallery and dimension are the key's own
    for wrong, refusal, says in (
        ({"profile": "seal", "gallery": "roof"}, Conflict, "is of the gallery 'door', and this is 'roof'"),
        ({"profile": "default"}, ContractMismatch, "is for the profile 'seal', and this is 'default'"),
        ({"profile": "seal", "dim": 64}, ContractMismatch, "is for embeddings of 32 values, and these have 64"),
    ):
        with pytest.raises(refusal, match=says):
            Protector.open(key=Key.load(key.path), **wrong)
    assert key.used_for() == ("door", contract)


def test_a_key_is_of_one_version_of_a_profile(tmp_path: Path) -> None:
    key = Key.load_or_create(tmp_path / "a.key")
    copy_profile("default", tmp_path / "old", "acme")
    copy_profile("default", tmp_path / "new", "acme", summary="trained once more")
    before = Protector.open("acme", key=key, profiles=tmp_path / "old")
    with pytest.raises(
        ContractMismatch, match=r"is for other files of the profile 'acme' \(digest [0-9a-f]{12}…\)"
    ) as told:
        Protector.open("acme", key=key, profiles=str(tmp_path / "new"))
    assert before.contract.profile.sha256[:12] in told.value.detail
    assert told.value.extra["differing"] == ["profile"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_used_key_opens_in_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    key = Key.load_or_create(tmp_path / "a.key")
    Protector.open("seal", key=key, dim=32)
    tmp_path.chmod(0o500)
    try:
        assert Protector.open("seal", key=Key.load_or_create(key.path)).contract.dim == 32
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("gallery", ["", "a/b", "-a", "x" * 65, "ä"])
def test_a_name_that_no_gallery_can_have_is_refused(tmp_path: Path, gallery: str) -> None:
    key = Key.load_or_create(tmp_path / "a.key")
    with pytest.raises(SetupError, match="A gallery's name is"):
        Protector.open(key=key, gallery=gallery)
    assert key.used_for() is None


WRONG_ARGUMENTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"dim": 128.5}, TypeError, "dim is a whole number, not float"),
    ({"dim": "128"}, TypeError, "dim is a whole number, not str"),
    ({"dim": True}, TypeError, "dim is a whole number, not bool"),
    ({"dim": np.bool_(True)}, TypeError, "dim is a whole number, not bool"),
    ({"key": "a.key"}, TypeError, "key is a Key, as Key.load_or_create(path) gives it, not str"),
    ({"key": Path("a.key")}, TypeError, "key is a Key, as Key.load_or_create(path) gives it, not PosixPath"),
    ({"key": None}, TypeError, "key is a Key, as Key.load_or_create(path) gives it, not None"),
    ({"profile": 5}, TypeError, "profile is the name of a profile, not int"),
    ({"profile": None}, TypeError, "profile is the name of a profile, not None"),
    ({"profile": Path("seal")}, TypeError, "profile is the name of a profile, not PosixPath"),
    ({"gallery": 5}, TypeError, "gallery is a string, not int"),
    ({"profiles": 5}, TypeError, "profiles is a path, not int"),
    ({"profiles": "a\0b"}, SetupError, "No file can have the name 'a\\x00b'; name another for profiles."),
    ({"profiles": "\ud800"}, SetupError, "No file can have the name '\\ud800'; name another for profiles."),
    ({"profile": "a\0b"}, SetupError, "There is no protection profile 'a\\x00b'; there are: "),
]


@pytest.mark.parametrize(("wrong", "refusal", "says"), WRONG_ARGUMENTS)
def test_an_argument_of_another_type_is_named(
    tmp_path: Path, wrong: dict[str, Any], refusal: type[Exception], says: str
) -> None:
    key = Key.load_or_create(tmp_path / "a.key")
    with pytest.raises(refusal) as error:
        Protector.open(**{"profile": "seal", "key": key, "dim": 32} | wrong)
    assert str(error.value).startswith(says)
    assert key.used_for() is None


def test_any_whole_number_is_a_dimension(tmp_path: Path) -> None:
    for number, dim in enumerate((32, np.int64(32), np.uint8(32))):
        key = Key.load_or_create(tmp_path / f"{number}.key")
        assert Protector.open("seal", key=key, dim=dim).contract == Protector.open("seal", key=key, dim=32).contract


@pytest.mark.parametrize("reads", [Key.load, Key.load_or_create])
def test_a_path_that_no_file_can_have_is_refused(reads: Callable[[Any], Key]) -> None:
    for name in ("a\0b", "\ud800"):
        with pytest.raises(SetupError, match=r"^No file can have the name '.*'; name another for path.$"):
            reads(name)
    for path, kind in ((5, "int"), (None, "None"), (b"a.key", "bytes")):
        with pytest.raises(TypeError, match=f"^path is a path, not {kind}$"):
            reads(path)


def test_a_new_key_is_a_key(tmp_path: Path) -> None:
    protector = Protector.open("seal", key=Key.load_or_create(tmp_path / "a.key"), dim=32)
    with pytest.raises(TypeError, match=r"^new_key is a Key, as "):
        protector.rekey_matrix("b.key")  # type: ignore[arg-type]


def test_a_program_that_changes_its_folder_keeps_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    key = Key.load_or_create("a.key")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Protector.open("seal", key=key, dim=32).contract.dim == 32
    used = key.used_for()
    assert used is not None
    assert used == Key.load(tmp_path / "a.key").used_for()
    assert list(Path().iterdir()) == []
    assert key.path == Path("a.key")


def test_a_file_too_large_to_be_a_key_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    with path.open("wb") as file:
        path.chmod(0o600)
        file.truncate(1_500_000_000)
    tracemalloc.start()
    with pytest.raises(SetupError, match=r"^The file .*a\.key is over 16 MiB, which no key file is\.$"):
        Key.load_or_create(path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_a_file_that_names_a_member_twice_is_damaged(tmp_path: Path) -> None:
    path = write(tmp_path / "a.key", GOLDEN | {"check": GOLDEN_CHECK})
    path.write_text(path.read_text().replace('"secret"', f'"secret": "{"00" * 32}", "secret"'))
    with pytest.raises(SetupError, match="damaged"):
        Key.load(path)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("/proc/a.key", "The folder /proc cannot be written (No such file or directory); name a file in a folder that"),
        ("/dev/null/a.key", "The key file /dev/null/a.key cannot be opened by this user (Not a directory)."),
        ("x" * 250, "is too long; give it one of up to 245 bytes."),
        ("x" * 300, "cannot be opened by this user (File name too long)."),
        ("link.key", "is a symbolic link, and no plain file; name the file that it leads to."),
        ("folder", "is not a plain file."),
    ],
)
def test_where_no_key_can_be_is_said_with_its_cause(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.key").symlink_to(Key.load_or_create(tmp_path / "a.key").path)
    with pytest.raises(SetupError) as error:
        Key.load_or_create(tmp_path / name)
    assert says in error.value.detail
    assert "PATRONUS_HOME" not in error.value.detail


def test_a_name_that_is_just_short_enough_works(tmp_path: Path) -> None:
    key = Key.load_or_create(tmp_path / ("x" * 245))
    assert Protector.open("seal", key=key, dim=32).contract.dim == 32
