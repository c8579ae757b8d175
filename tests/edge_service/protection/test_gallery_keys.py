"""The edge's secret keys are private, derived one way, separate, and stable."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_service.protection import key_transfer
from edge_service.protection.key_transfer import unwrap, wrap
from edge_service.protection.keys import EpochKey, GalleryKey, KeyStore, derive
from shared.errors import BadRequest, Conflict, SetupError

EPOCH = "0123456789abcdef"
GOLDEN = [
    "0ef9ac3a3187c7926fc1b532eb60db203bc3f91226359513cfda9d47c94cd0d8",
    "cc56a4021aee6b852ced0048b07f0133",
    "da82d54fb21cb1cc5570781951ef2d9a",
    "c0d463a4f17c618c49233e60bd804a59965b328396e95df8b201f3b413d88ac0",
]
PASSPHRASE = "correct horse battery"
SCRYPT_LOG2_N = key_transfer._LOG2_N


@pytest.fixture(autouse=True, scope="module")
def _cheap_scrypt() -> Iterator[None]:
    """Wraps with an eighth of the product's cost, or these tests would take most of their time there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_transfer, "_LOG2_N", 14)
        yield


def test_a_guess_of_a_passphrase_costs_128_mib() -> None:
    assert 128 * 2**SCRYPT_LOG2_N * key_transfer._BLOCK == 128 * 1024 * 1024


def test_the_master_key_is_made_once_and_private(tmp_path: Path) -> None:
    first = KeyStore(tmp_path / "edge").gallery("door")
    file = tmp_path / "edge" / "master.key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(bytes.fromhex(file.read_text().split()[0])) == 32
    assert KeyStore(tmp_path / "edge").gallery("door") == first
    assert KeyStore(tmp_path / "other").gallery("door") != first


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o666])
def test_a_master_key_that_others_could_read_is_refused(tmp_path: Path, mode: int) -> None:
    KeyStore(tmp_path)
    (tmp_path / "master.key").chmod(mode)
    with pytest.raises(SetupError, match="chmod 600"):
        KeyStore(tmp_path)


def test_a_link_is_not_followed_to_a_key(tmp_path: Path) -> None:
    KeyStore(tmp_path / "true")
    (tmp_path / "edge").mkdir()
    (tmp_path / "edge" / "master.key").symlink_to(tmp_path / "true" / "master.key")
    with pytest.raises(SetupError, match="plain file"):
        KeyStore(tmp_path / "edge")


@pytest.mark.parametrize("content", [b"", b"00" * 31, b"00" * 33, b"zz" * 32, b"\xff" * 64])
def test_a_damaged_master_key_is_never_replaced_by_a_new_one(tmp_path: Path, content: bytes) -> None:
    KeyStore(tmp_path)
    (tmp_path / "master.key").write_bytes(content)
    with pytest.raises(SetupError, match="backup"):
        KeyStore(tmp_path)
    assert (tmp_path / "master.key").read_bytes() == content


def test_two_first_starts_at_once_agree_on_one_key(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from edge_service.protection.keys import KeyStore\n"
        "home = Path(sys.argv[1]); print('ready', flush=True); sys.stdin.readline()\n"
        "print(KeyStore(home).gallery('door').fingerprint())\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "edge")]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in started:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    found = {process.communicate("go\n", timeout=60)[0] for process in started}
    assert len(found) == 1
    assert found == {KeyStore(tmp_path / "edge").gallery("door").fingerprint() + "\n"}


def test_every_derived_key_differs_from_every_other(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    secrets = []
    for gallery in ("door", "doo", "roof"):
        key = store.gallery(gallery)
        secrets += [key.secret, bytes.fromhex(key.fingerprint())]
        for epoch in (EPOCH, "0" * 16):
            turned = key.epoch(epoch)
            secrets += [turned.secret, bytes.fromhex(turned.key_id())]
            secrets += [turned.stream_key(purpose) for purpose in ("seal 128", "seal 512", "noise")]
    assert len({secret[:16] for secret in secrets}) == len(secrets)


def test_labels_do_not_run_into_each_other() -> None:
    lists = [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("", "abc"), ()]
    keys = {derive(bytes(32), *labels) for labels in lists}
    assert len(keys) == len(lists)


def test_an_upgrade_does_not_change_any_key() -> None:
    """Golden values: a change here makes every stored template of every edge useless."""
    key = GalleryKey("door", derive(bytes(range(32)), "gallery", "door"))
    epoch = key.epoch(EPOCH)
    assert [key.secret.hex(), key.fingerprint(), epoch.key_id(), epoch.stream_key("seal 128").hex()] == GOLDEN


def test_an_upgrade_does_not_change_any_id_of_a_face() -> None:
    """Golden values: a change here stores every picture and embedding that is sent again a second time."""
    key = GalleryKey("door", derive(bytes(range(32)), "gallery", "door"))
    assert key.face_id("ada", "picture", b"content") == "42c18210cd5d49de3e126f6309ab96aa"
    assert key.face_id("ada", "name", b"content") == "d4fe9f38b750bb96282840c75eb7e1a8"
    assert key.face_id("ada", "values", b"content") == "c0e19feca4ef4f7ac68ec5651fd324f3"


def test_the_key_of_picture_ids_outlives_the_gallerys_key(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    first = store.gallery("door")
    store.keep_picture_ids(first)
    file = tmp_path / "picture_ids" / "door.key"
    assert file.stat().st_mode & 0o777 == 0o600
    for _ in range(2):
        store.renew()
        second = KeyStore(tmp_path).gallery("door")
        store.keep_picture_ids(second)
        assert store.has_old_keys()
        store.forget()
        assert not store.has_old_keys()
        assert second != first
        assert second.face_id("ada", "picture", b"x") == first.face_id("ada", "picture", b"x")
        assert second.face_id("ada", "name", b"x") != first.face_id("ada", "name", b"x")
    file.write_bytes(b"00" * 31)
    with pytest.raises(SetupError, match="backup"):
        KeyStore(tmp_path).gallery("door")


def test_a_wrapped_key_carries_the_key_of_picture_ids() -> None:
    key = GalleryKey("door", bytes(range(32)), bytes(range(32, 64)))
    moved = unwrap(wrap(key, PASSPHRASE), PASSPHRASE)
    assert (moved, moved.ids) == (key, key.ids)


def test_a_key_changed_in_place_gives_a_new_seal_and_the_same_seeds() -> None:
    key = GalleryKey("door", bytes(32))
    old, other = key.epoch(EPOCH), key.epoch("1" * 16)
    for scope in ("gallery", "subject"):
        first, new = key.epoch(EPOCH, scope), key.epoch("1" * 16, scope, EPOCH)
        for was, now in ((first, new), (first.of_subject("ada"), new.of_subject("ada"))):
            assert now.seed_key() == was.seed_key() == was.stream_key("perturb seed")
            assert now.stream_key("seal 128") != was.stream_key("seal 128")
            assert now.key_id() != was.key_id()
    assert key.epoch("1" * 16, "gallery", EPOCH).key_id() != other.key_id(), "the seeds are in the key's name"
    assert key.epoch("1" * 16, "gallery", "2" * 16).key_id() != key.epoch("1" * 16, "gallery", EPOCH).key_id()
    assert key.of(key.seal_pin("1" * 16, "subject", EPOCH)) == key.epoch("1" * 16, "subject", EPOCH)
    assert old.seed_key() != other.seed_key()


def test_no_secret_is_shown() -> None:
    secret = bytes(range(65, 97))
    for shown in (GalleryKey("door", secret), EpochKey("door", EPOCH, secret, secret)):
        for text in (repr(shown), str(shown), f"{shown}", f"{[shown]}"):
            assert "door" in text
            assert "ABCDEF" not in text
            assert secret.hex() not in text


def test_an_imported_key_takes_the_place_of_the_edges_own(tmp_path: Path) -> None:
    theirs = KeyStore(tmp_path / "theirs").gallery("door")
    store = KeyStore(tmp_path / "ours")
    roof = store.gallery("roof")
    store.put(theirs)
    assert KeyStore(tmp_path / "ours").gallery("door") == theirs
    assert store.gallery("roof") == roof
    file = tmp_path / "ours" / "gallery_keys" / "door.key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert theirs.secret not in file.read_bytes()
    store.put(theirs)  # again, harmless
    other = KeyStore(tmp_path / "others").gallery("door")
    with pytest.raises(Conflict):
        store.put(other)
    assert store.gallery("door") == theirs
    store.put(other, replace=True)
    assert store.gallery("door") == other


@pytest.mark.parametrize("damage", ["changed", "empty", "another gallery's", "another master key"])
def test_an_imported_key_that_does_not_open_stops_the_gallery(tmp_path: Path, damage: str) -> None:
    """The edge's own key must not stand in for it: templates would be made under a wrong key."""
    store = KeyStore(tmp_path / "ours")
    for name in ("door", "roof"):
        store.put(KeyStore(tmp_path / "theirs").gallery(name))
    file = tmp_path / "ours" / "gallery_keys" / "door.key"
    content = bytearray(file.read_bytes())
    if damage == "changed":
        content[-1] ^= 1
    elif damage == "empty":
        content.clear()
    elif damage == "another gallery's":
        content = bytearray(file.with_name("roof.key").read_bytes())
    else:
        (tmp_path / "ours" / "master.key").write_text("11" * 32)
        store = KeyStore(tmp_path / "ours")
    file.write_bytes(content)
    with pytest.raises(SetupError, match="import it again"):
        store.gallery("door")


@pytest.fixture(scope="module")
def wrapped() -> str:
    return wrap(GalleryKey("door", bytes(range(32))), PASSPHRASE)


def test_a_wrapped_key_comes_back_whole(wrapped: str) -> None:
    assert unwrap(wrapped, PASSPHRASE) == GalleryKey("door", bytes(range(32)))
    assert unwrap(wrapped, PASSPHRASE).ids is None
    assert bytes(range(32)).hex() not in wrapped


@pytest.mark.parametrize("passphrase", ["", "correct horse batterz", PASSPHRASE + " ", PASSPHRASE.upper()])
def test_a_wrong_passphrase_opens_nothing(wrapped: str, passphrase: str) -> None:
    with pytest.raises(BadRequest, match="passphrase is wrong"):
        unwrap(wrapped, passphrase)


@pytest.mark.parametrize("member", ["gallery", "salt", "nonce", "sealed", "scrypt_log2_n"])
def test_a_file_that_was_changed_opens_nothing(wrapped: str, member: str) -> None:
    file = json.loads(wrapped)
    if member == "scrypt_log2_n":
        file[member] = 15
    else:
        first = file[member][0]
        file[member] = ("B" if first != "B" else "C") + file[member][1:]
    with pytest.raises(BadRequest, match="changed"):
        unwrap(json.dumps(file), PASSPHRASE)


@pytest.mark.parametrize(
    "change",
    [
        {"scrypt_log2_n": 40},
        {"scrypt_log2_n": 1},
        {"scrypt_log2_n": -1},
        {"scrypt_log2_n": 1e9},
        {"salt": "A" * 100_000},
        {"salt": ""},
        {"nonce": "AAAA"},
        {"sealed": "AAAA"},
        {"gallery": "../../etc"},
        {"kind": "other"},
        {"version": 2},
        {"more": 1},
    ],
)
def test_a_hostile_file_is_refused_before_any_work(wrapped: str, change: dict[str, object]) -> None:
    with pytest.raises(BadRequest, match="not a file that"):
        unwrap(json.dumps(json.loads(wrapped) | change), PASSPHRASE)


@pytest.mark.parametrize("text", ["", "{}", "null", "[" * 10_000, "\x00"])
def test_another_file_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="not a file that"):
        unwrap(text, PASSPHRASE)


def test_a_short_passphrase_is_refused() -> None:
    with pytest.raises(BadRequest, match="12 characters"):
        wrap(GalleryKey("door", bytes(32)), "eleven char")


def test_wrapping_twice_shares_nothing(wrapped: str) -> None:
    first, second = json.loads(wrapped), json.loads(wrap(GalleryKey("door", bytes(range(32))), PASSPHRASE))
    assert all(first[member] != second[member] for member in ("salt", "nonce", "sealed"))
    assert all(a != b for a, b in itertools.combinations([first["salt"], first["nonce"], first["sealed"]], 2))


def test_a_lost_master_key_is_not_replaced_in_silence(tmp_path: Path) -> None:
    KeyStore(tmp_path)
    (tmp_path / "master.key").unlink()
    with pytest.raises(SetupError, match="put its backup back"):
        KeyStore(tmp_path, may_make=False)
    assert not (tmp_path / "master.key").exists()


@pytest.mark.parametrize("place", [0, 31, 63, 65, 72])
def test_one_changed_digit_of_the_master_key_stops_the_start(tmp_path: Path, place: int) -> None:
    KeyStore(tmp_path)
    file = tmp_path / "master.key"
    content = bytearray(file.read_bytes())
    content[place] = ord("0") if content[place] != ord("0") else ord("1")
    file.write_bytes(content)
    with pytest.raises(SetupError, match="Put its backup back"):
        KeyStore(tmp_path)
    assert file.read_bytes() == content


def test_a_master_key_of_an_earlier_version_opens_and_gets_its_check(tmp_path: Path) -> None:
    key = KeyStore(tmp_path).gallery("door")
    file = tmp_path / "master.key"
    written = file.read_bytes()
    file.write_bytes(written.split()[0] + b"\n")
    assert KeyStore(tmp_path, may_make=False).gallery("door") == key
    assert file.read_bytes() == written
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_renewal_that_an_earlier_version_was_stopped_in_is_undone(tmp_path: Path) -> None:
    """Its files have no check; nothing but the secrets tells whether the master key was replaced."""
    store = KeyStore(tmp_path)
    theirs = KeyStore(tmp_path / "theirs").gallery("roof")
    store.put(theirs)
    old = (tmp_path / "master.key").read_bytes()
    store.renew()
    (tmp_path / "master.key").write_bytes(old)
    (tmp_path / "before" / "master.key").write_bytes(old.split()[0] + b"\n")
    again = KeyStore(tmp_path)
    assert again.gallery("roof") == theirs
    assert not again.has_old_keys()


def test_a_store_knows_that_the_master_key_was_renewed_since_it_was_opened(tmp_path: Path) -> None:
    running = KeyStore(tmp_path)
    assert running.is_current()
    KeyStore(tmp_path).renew()
    assert not running.is_current()
