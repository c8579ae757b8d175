"""API keys: shown once, kept as a digest, revoked at once; and the private files that they are kept in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import NotFound, SetupError
from shared.security.credentials import Scope, authenticate, mint
from shared.security.key_ring import KeyRing
from shared.security.secret_files import read_secret, write_secret


def test_a_key_opens_only_by_its_whole_text() -> None:
    key, record = mint("door", [Scope.MATCH])
    other, other_record = mint("roof", [Scope.MATCH])
    records = [other_record, record]
    assert authenticate(key, records) == record
    assert authenticate(other, records) == other_record
    secret, other_secret = key.split("_", 2)[2], other.split("_", 2)[2]
    for wrong in (
        "",
        key[:-1],
        key + "x",
        key + "\n",
        " " + key,
        key.upper(),
        secret,
        f"patronus_{record.id}_{other_secret}",
        f"patronus_{'0' * 12}_{secret}",
        record.digest,
        f"patronus_{record.id}_{record.digest}",
    ):
        assert authenticate(wrong, records) is None, wrong


def test_a_record_does_not_hold_the_key() -> None:
    key, record = mint("door", list(Scope), ["front"])
    assert key.split("_", 2)[2] not in record.model_dump_json()
    assert record.may_use("front")
    assert not record.may_use("back")
    assert mint("x", [])[1].may_use("anything")


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    made = KeyRing(tmp_path / "edge" / "api_keys.json")
    assert made.ensure_first_key(tmp_path / "edge" / "api_key")
    return made


def test_the_first_start_makes_one_key_with_every_scope_and_the_next_makes_none(ring: KeyRing) -> None:
    shown = ring.path.with_name("api_key")
    key = shown.read_text().strip()
    record = ring.check(key)
    assert record
    assert record.scopes == set(Scope)
    assert not ring.ensure_first_key(shown)
    assert shown.read_text().strip() == key
    assert len(ring.records()) == 1


def test_two_first_starts_at_once_make_one_key(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from shared.security.key_ring import KeyRing\n"
        "home = Path(sys.argv[1]); print('ready', flush=True); sys.stdin.readline()\n"
        "print(KeyRing(home / 'api_keys.json').ensure_first_key(home / 'api_key'))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "edge")]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in started:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    said = sorted(process.communicate("go\n", timeout=60)[0].strip() for process in started)
    assert said == ["False", "False", "False", "True"]
    ring = KeyRing(tmp_path / "edge" / "api_keys.json")
    assert ring.check((tmp_path / "edge" / "api_key").read_text().strip())


def test_a_revocation_and_a_new_key_hold_at_once_in_a_running_service(ring: KeyRing) -> None:
    service, operator = KeyRing(ring.path), ring
    key, record = operator.add("door", [Scope.MATCH], None)
    assert service.check(key) == record
    operator.revoke(record.id)
    assert service.check(key) is None
    operator.revoke(record.id)  # again, harmless
    assert service.check(ring.path.with_name("api_key").read_text().strip())
    with pytest.raises(NotFound):
        operator.revoke("f" * 12)


def test_the_file_stays_private_through_every_change(ring: KeyRing) -> None:
    for number in range(3):
        _, record = ring.add(f"key {number}", [Scope.MATCH], ["door"])
        ring.revoke(record.id)
        assert ring.path.stat().st_mode & 0o777 == 0o600
    assert {path.stat().st_mode & 0o077 for path in ring.path.parent.iterdir()} == {0}
    assert ring.path.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", ["missing", "not JSON", "other JSON", "readable by others"])
def test_a_damaged_file_of_keys_lets_nobody_in(ring: KeyRing, damage: str) -> None:
    key = ring.path.with_name("api_key").read_text().strip()
    assert ring.check(key)
    if damage == "missing":
        ring.path.unlink()
    elif damage == "readable by others":
        ring.path.write_text(ring.path.read_text() + "\n")
        ring.path.chmod(0o644)
    else:
        ring.path.write_text("{" if damage == "not JSON" else '{"keys": [{}]}')
    with pytest.raises(SetupError):
        ring.check(key)
    with pytest.raises(SetupError):  # nor by asking again
        ring.check(key)


@pytest.mark.parametrize("where", ["file", "record"])
def test_a_file_of_keys_that_holds_a_member_twice_lets_nobody_in(ring: KeyRing, where: str) -> None:
    key = ring.path.with_name("api_key").read_text().strip()
    text = ring.path.read_text()
    whole = text.replace('"version": 1', '"version": 1, "version": 1')
    record = text.replace('"revoked_at": null', '"revoked_at": "2026-01-01T00:00:00Z", "revoked_at": null')
    twice = whole if where == "file" else record
    assert twice != text
    ring.path.write_text(twice)
    for _ in range(2):
        with pytest.raises(SetupError, match="holds a member twice"):
            ring.check(key)


def test_a_home_that_cannot_be_made_is_a_set_up_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    home = tmp_path / "file" / "edge"
    with pytest.raises(SetupError, match="PATRONUS_HOME"):
        write_secret(home / "master.key", b"x", replace=False)
    with pytest.raises(SetupError, match="PATRONUS_HOME"):
        KeyRing(home / "api_keys.json").ensure_first_key(home / "api_key")


def test_a_private_file_is_whole_private_and_not_replaced_unasked(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "secret"
    write_secret(path, b"first", replace=False)
    assert (read_secret(path), path.stat().st_mode & 0o777) == (b"first", 0o600)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileExistsError):
        write_secret(path, b"second", replace=False)
    assert read_secret(path) == b"first"
    write_secret(path, b"third", replace=True)
    assert read_secret(path) == b"third"
    assert [found.name for found in path.parent.iterdir()] == ["secret"]


def test_only_a_private_plain_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_secret(path, b"x", replace=False)
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for strange in (tmp_path / "link", tmp_path / "pipe", tmp_path):
        with pytest.raises(SetupError, match="plain file"):
            read_secret(strange)
    path.chmod(0o640)
    with pytest.raises(SetupError, match="chmod 600"):
        read_secret(path)
    with pytest.raises(FileNotFoundError):
        read_secret(tmp_path / "absent")
