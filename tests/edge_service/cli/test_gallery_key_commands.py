"""``patronus keys``: a gallery's key goes to another edge in a file that is useless without its passphrase."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edge_service.protection.keys import KeyStore
from shared.errors import PatronusError
from tests.edge_service.cli.patronus_command import whole_command


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    file = tmp_path / "passphrase"
    file.write_text("correct horse battery\n")
    file.chmod(0o600)
    return file


def keys(home: Path, *arguments: object, entered: str | None = None) -> Result:
    """Runs it in the home of an edge that was started; no cloud runs."""
    KeyStore(home / "edge")
    return keys_in(home, *arguments, entered=entered)


def keys_in(home: Path, *arguments: object, entered: str | None = None) -> Result:
    environment = {"PATRONUS_HOME": str(home), "PATRONUS_EDGE__HOME": None}
    return CliRunner().invoke(whole_command(), ["keys", *map(str, arguments)], env=environment, input=entered)


def test_both_edges_show_one_fingerprint_after_the_transfer(tmp_path: Path, passphrase: Path) -> None:
    first, second, carried = tmp_path / "first", tmp_path / "second", tmp_path / "door.json"
    shown = keys(first, "fingerprint", "door").stdout.strip()
    assert keys(second, "fingerprint", "door").stdout.strip() != shown
    assert shown in keys(first, "export", "--unchecked", "door", carried, "--passphrase-file", passphrase).stdout
    assert carried.stat().st_mode & 0o777 == 0o600
    assert shown in keys(second, "import", "--unchecked", carried, "--passphrase-file", passphrase).stdout
    assert keys(second, "fingerprint", "door").stdout.strip() == shown
    assert keys(second, "fingerprint", "roof").stdout != keys(first, "fingerprint", "roof").stdout


def test_a_passphrase_is_asked_for_twice_and_not_shown(tmp_path: Path) -> None:
    carried = tmp_path / "door.json"
    ended = keys(tmp_path, "export", "--unchecked", "door", carried, entered="a long passphrase\na long passphrase\n")
    assert ended.exit_code == 0
    assert "a long passphrase" not in ended.output
    assert keys(tmp_path, "import", "--unchecked", carried, entered="a long passphrase\n").exit_code == 0


def test_a_new_master_key_makes_nothing_of_what_the_old_one_made(tmp_path: Path, passphrase: Path) -> None:
    carried, stolen = tmp_path / "roof.json", tmp_path / "stolen"
    home = tmp_path / "home"
    keys(tmp_path / "other", "export", "--unchecked", "roof", carried, "--passphrase-file", passphrase)
    keys(home, "import", "--unchecked", carried, "--passphrase-file", passphrase)
    before = {gallery: keys(home, "fingerprint", gallery).stdout for gallery in ("door", "roof")}
    shutil.copytree(home, stolen)
    assert keys(home, "renew", entered="n\n").exit_code == 1
    assert {gallery: keys(home, "fingerprint", gallery).stdout for gallery in before} == before
    renewed = keys(home, "renew", "--yes")
    assert renewed.exit_code == 0
    assert "Start it again now" in renewed.output
    assert (home / "edge" / "master.key").stat().st_mode & 0o777 == 0o600
    after = {gallery: keys(home, "fingerprint", gallery).stdout for gallery in before}
    assert not set(after.values()) & set(before.values())
    assert keys(home, "import", "--unchecked", carried, "--passphrase-file", passphrase).exit_code == 0
    # Who has the old folder makes another key of any name and epoch.
    new, old = (KeyStore(folder / "edge") for folder in (home, stolen))
    assert new.gallery("door").epoch("0" * 16).key_id() != old.gallery("door").epoch("0" * 16).key_id()


def test_old_keys_are_kept_aside_until_they_are_forgotten(tmp_path: Path, passphrase: Path) -> None:
    carried, home = tmp_path / "roof.json", tmp_path / "home"
    keys(tmp_path / "other", "export", "--unchecked", "roof", carried, "--passphrase-file", passphrase)
    keys(home, "import", "--unchecked", carried, "--passphrase-file", passphrase)
    before = {name: KeyStore(home / "edge").gallery(name) for name in ("door", "roof")}
    seals = {name: key.seal_pin("0" * 16, "gallery") for name, key in before.items()}
    assert keys(home, "renew", "--yes").exit_code == 0
    store = KeyStore(home / "edge")
    for name, seal in seals.items():
        assert store.named_by(name, seal) == before[name] != store.gallery(name)
    again = keys(home, "renew", "--yes")
    assert isinstance(again.exception, PatronusError), "the first ones would be lost"
    assert "patronus keys forget" in again.exception.detail
    assert keys(home, "forget", entered="n\n").exit_code == 1
    assert (home / "edge" / "before" / "master.key").stat().st_mode & 0o777 == 0o600
    without_a_cloud = keys(home, "forget", "--yes")
    assert isinstance(without_a_cloud.exception, PatronusError), "its API key for the cloud is missing"
    assert "http://127.0.0.1:8001 could not be asked" in without_a_cloud.exception.detail
    assert "--unchecked" in without_a_cloud.exception.detail
    assert KeyStore(home / "edge").has_old_keys(), "nothing was destroyed"
    assert "are gone" in keys(home, "forget", "--yes", "--unchecked").output
    assert [KeyStore(home / "edge").named_by(name, seal) for name, seal in seals.items()] == [None, None]
    assert "no old keys" in keys(home, "forget", "--yes").output
    assert keys(home, "renew", "--yes").exit_code == 0


def test_a_renewal_that_was_cut_off_has_lost_nothing_and_is_done_again(tmp_path: Path, passphrase: Path) -> None:
    home = tmp_path / "home"
    store = KeyStore(home / "edge")
    store.put(KeyStore(tmp_path / "other").gallery("roof"))
    seals = {name: store.gallery(name).seal_pin("0" * 16, "gallery") for name in ("door", "roof")}
    old = (home / "edge" / "master.key").read_bytes()
    store.renew()
    new = (home / "edge" / "master.key").read_bytes()
    (home / "edge" / "master.key").write_bytes(old)  # as it is before the last step
    cut = KeyStore(home / "edge")
    assert all(cut.named_by(name, seal) for name, seal in seals.items())
    cut.renew()
    assert (home / "edge" / "master.key").read_bytes() not in {old, new}
    assert all(KeyStore(home / "edge").named_by(name, seal) for name, seal in seals.items())


def test_an_imported_key_that_another_takes_the_place_of_is_kept_aside(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "edge")
    keys_of_roof = [KeyStore(tmp_path / name).gallery("roof") for name in ("first", "second", "third")]
    seals = [key.seal_pin("0" * 16, "subject") for key in (*keys_of_roof, store.gallery("roof"))]
    for key in keys_of_roof:
        store.put(key, replace=True)
    assert KeyStore(tmp_path / "edge").gallery("roof") == keys_of_roof[-1]
    assert all(KeyStore(tmp_path / "edge").named_by("roof", seal) for seal in seals)


def test_a_file_is_not_written_over(tmp_path: Path, passphrase: Path) -> None:
    carried = tmp_path / "door.json"
    carried.write_text("mine")
    ended = keys(tmp_path, "export", "--unchecked", "door", carried, "--passphrase-file", passphrase)
    assert isinstance(ended.exception, PatronusError)
    assert carried.read_text() == "mine"


@pytest.mark.parametrize("name", ["../x", "", "a b", "a" * 65])
def test_a_strange_gallery_is_wrong_usage(tmp_path: Path, passphrase: Path, name: str) -> None:
    assert keys(tmp_path, "fingerprint", name).exit_code == 2


def test_a_passphrase_that_others_can_read_is_refused(tmp_path: Path, passphrase: Path) -> None:
    passphrase.chmod(0o644)
    ended = keys(tmp_path, "export", "--unchecked", "door", tmp_path / "out", "--passphrase-file", passphrase)
    assert isinstance(ended.exception, PatronusError)
    assert not (tmp_path / "out").exists()


def test_a_passphrase_file_holds_one_line(tmp_path: Path, passphrase: Path) -> None:
    carried, out = tmp_path / "carried.json", tmp_path / "out.json"
    keys(tmp_path, "export", "--unchecked", "door", carried, "--passphrase-file", passphrase)
    several = [b"a long passphrase\nand more\n", b"\na long passphrase"]
    for content in (b"", b"\n", b"  \n", b"\xff\n", *several):
        passphrase.write_bytes(content)
        for words in (("export", "--unchecked", "door", out), ("import", "--unchecked", carried)):
            ended = keys(tmp_path, *words, "--passphrase-file", passphrase)
            assert (ended.exit_code, out.exists()) == (1, False)
            assert "in one line" in str(ended.exception) or "cannot be read as text" in str(ended.exception)


@pytest.mark.parametrize("words", [("export", "--unchecked", "door", "{}/out.json"), ("import", "{}/in.json")])
def test_without_a_terminal_the_passphrase_is_taken_from_a_file_only(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "in.json").touch()
    KeyStore(tmp_path / "edge")
    ended = subprocess.run(
        [sys.executable, "-c", "from shared.command import main; main()", "keys", *(w.format(tmp_path) for w in words)],
        env={**os.environ, "PATRONUS_HOME": str(tmp_path), "PATRONUS_EDGE__CLOUD__URL": "http://127.0.0.1:1"},
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # else it would ask at the terminal of who runs the tests
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 2
    assert (ended.stdout, "Warning" in ended.stderr) == ("", False)
    assert ended.stderr.splitlines()[-1].endswith("name the passphrase's file with --passphrase-file.")
    assert not (tmp_path / "out.json").exists()


def test_a_refused_import_names_the_option_that_replaces(tmp_path: Path, passphrase: Path) -> None:
    for folder in ("one", "other"):
        out = tmp_path / folder / "door.json"
        keys(tmp_path / folder, "export", "--unchecked", "door", out, "--passphrase-file", passphrase)
    home = tmp_path / "home"
    keys(home, "import", "--unchecked", tmp_path / "one/door.json", "--passphrase-file", passphrase)
    refused = keys(home, "import", "--unchecked", tmp_path / "other/door.json", "--passphrase-file", passphrase)
    assert "for gallery door before; to replace it, say patronus keys import --replace." in str(refused.exception)


def test_no_keys_command_makes_a_master_key(tmp_path: Path, passphrase: Path) -> None:
    """Named by mistake, a folder without a key would get one, and the command would report a success."""
    carried = tmp_path / "door.json"
    keys(tmp_path / "other", "export", "--unchecked", "door", carried, "--passphrase-file", passphrase)
    home = tmp_path / "wrong"
    for words in (
        ["fingerprint", "door"],
        ["export", "--unchecked", "door", tmp_path / "out.json", "--passphrase-file", passphrase],
        ["import", "--unchecked", carried, "--passphrase-file", passphrase],
        ["list"],
        ["renew", "--yes"],
        ["forget", "--yes"],
    ):
        ended = keys_in(home, *words)
        assert f"There is no edge's key in {home / 'edge'}; name the edge's folder" in str(ended.exception), words
    assert not home.exists()
    assert not (tmp_path / "out.json").exists()


def test_without_a_cloud_nothing_is_exported_or_imported_unchecked(tmp_path: Path, passphrase: Path) -> None:
    carried, out = tmp_path / "door.json", tmp_path / "out.json"
    keys(tmp_path / "other", "export", "--unchecked", "door", carried, "--passphrase-file", passphrase)
    words = (["export", "door", out], ["import", carried])
    for refused in (keys(tmp_path / "home", *each, "--passphrase-file", passphrase) for each in words):
        assert "http://127.0.0.1:8001 could not be asked" in str(refused.exception)
        assert "--unchecked" in str(refused.exception)
    assert not out.exists()
    assert keys(tmp_path / "home", "list").stdout == "No imported keys.\n"
    assert keys(tmp_path / "home", "fingerprint", "door").exit_code == 0


def test_imported_keys_are_listed_with_their_fingerprints(tmp_path: Path) -> None:
    theirs = KeyStore(tmp_path / "other").gallery("roof")
    KeyStore(tmp_path / "edge").put(theirs)
    assert keys(tmp_path, "list").stdout == f"roof  {theirs.fingerprint()}\n"
