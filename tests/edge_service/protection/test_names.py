"""Names of subjects as the cloud holds them: sealed, or plain in galleries made before."""

from __future__ import annotations

import base64
import re
import unicodedata

import pytest

from edge_service.protection.keys import GalleryKey
from edge_service.protection.names import PlainNames, SealedNames, new_epoch, seals_names
from shared.errors import Unprocessable, UpstreamFailed
from shared.names import MAX_STORED_NAME, SEALED_NAME_PATTERN, is_subject_name, subject_name

KEY = GalleryKey("door", bytes(range(32)))
EPOCH = "00112233445566aa"
# A name in each of many scripts, and some that are awkward in paths and in HTML.
SCRIPTS = [
    "obama",
    "Zoë Brontë",
    "Владимир",
    "محمد علي",
    "דוד",
    "अमिताभ बच्चन",
    "张伟",
    "山田 太郎",
    "김철수",
    "Nguyễn Thị Ánh",
    "ใจดี",
    "👩‍👩‍👧",
    "O'Neil; DROP TABLE subject--",
    "50% off?#&=+",
    '"<b>"',
    "ada@example.com",
]


def sealed(key: GalleryKey = KEY, epoch: str = EPOCH) -> SealedNames:
    return SealedNames(key.epoch(epoch))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_name_in_any_script_is_sealed_and_opened(name: str) -> None:
    stored = sealed().stored(subject_name(name))
    assert sealed().shown(stored) == unicodedata.normalize("NFC", name)
    assert name.encode() not in stored.encode()
    assert name.encode() not in base64.urlsafe_b64decode(stored[1:] + "==")


def test_a_token_is_the_same_in_every_version() -> None:
    """A change here loses every enrolled person."""
    assert sealed().stored("obama") == "~3rJ2lbFuNLcE8TiUjFkjABeYRMPu8P2ndIKiZsIf6L3vLl0paxwPlZ6S7M0lrh6i"


def test_the_longest_name_fits_and_the_shortest_too() -> None:
    for name in ("a", "\U0001f469" * 128):
        stored = sealed().stored(subject_name(name))
        assert re.fullmatch(SEALED_NAME_PATTERN, stored)
        assert sealed().shown(stored) == name
    assert len(stored) == MAX_STORED_NAME


def test_the_length_of_a_token_says_the_length_of_a_name_to_32_bytes() -> None:
    lengths = {length: len(sealed().stored("a" * length)) for length in range(1, 97)}
    assert len({lengths[length] for length in range(1, 32)}) == 1
    assert lengths[31] < lengths[32] == lengths[63] < lengths[64] == lengths[95] < lengths[96]


def test_one_name_has_another_token_in_each_gallery_and_epoch() -> None:
    tokens = {
        sealed().stored("obama"),
        sealed(epoch="1" * 16).stored("obama"),
        sealed(GalleryKey("roof", KEY.secret)).stored("obama"),
        sealed(GalleryKey("door", bytes(32))).stored("obama"),
        SealedNames(KEY.epoch(EPOCH, "subject")).stored("obama"),
    }
    assert len(tokens) == 5


def test_names_that_differ_by_normalization_alone_are_one() -> None:
    composed, decomposed = "Zo\u00eb", "Zoe\u0308"
    assert composed != decomposed
    assert sealed().stored(subject_name(composed)) == sealed().stored(subject_name(decomposed))
    assert sealed().stored("zo\u00eb") != sealed().stored("Zo\u00eb")


def _changed(token: str) -> list[str]:
    raw = bytearray(base64.urlsafe_b64decode(token[1:] + "=="))
    flipped = []
    for position in (0, 15, 16, len(raw) - 1):
        other = raw.copy()
        other[position] ^= 1
        flipped.append("~" + base64.urlsafe_b64encode(bytes(other)).rstrip(b"=").decode())
    return flipped


def test_what_does_not_open_is_damage_and_never_a_name() -> None:
    long = sealed().stored("b" * 40)  # 80 bytes: the last character of base64 has bits to spare
    spare = long[:-1] + chr(ord(long[-1]) + 1)
    assert base64.urlsafe_b64decode(spare[1:] + "=") == base64.urlsafe_b64decode(long[1:] + "=")
    token = sealed().stored("obama")
    foreign = SealedNames(GalleryKey("roof", KEY.secret).epoch(EPOCH)).stored("obama")
    for bad in (
        *_changed(token),
        token[:-4],
        token + "AAAA",
        "obama",
        "~",
        "",
        foreign,
        token[1:],
        spare,
        token + "\n",
    ):
        with pytest.raises(UpstreamFailed, match="does not open") as caught:
            sealed().shown(bad)
        assert caught.value.reason == "name_not_opened"
        assert "obama" not in caught.value.detail


def test_plain_names_are_kept_and_others_refused_in_one_sentence() -> None:
    plain = PlainNames("door")
    assert plain.stored("ada@example.com") == plain.shown("ada@example.com") == "ada@example.com"
    for name in ("Zoë", "Ada Lovelace", "-ada", "a/b"):
        with pytest.raises(Unprocessable, match=r"patronus gallery rekey") as refused:
            plain.stored(name)
        assert refused.value.reason == "plain_names"
    with pytest.raises(UpstreamFailed):
        plain.shown(sealed().stored("obama"))


def test_an_epoch_says_under_the_key_that_names_are_sealed() -> None:
    epochs = {new_epoch(KEY) for _ in range(1000)}
    assert len(epochs) == 1000
    assert all(seals_names(KEY, epoch) for epoch in epochs)
    assert not any(seals_names(GalleryKey("door", bytes(32)), epoch) for epoch in epochs)
    assert not any(seals_names(KEY, f"{number:016x}") for number in range(1000))


@pytest.mark.parametrize(
    "name",
    [
        *["", " ", "a" * 129, " ada", "ada ", "a/b", "a\\b", ".", "..", "a\0b", "a\nb", "a\x7fb", "a\u2028b"],
        *["a\ud800b", "Ren\ufffd", "\u00a0ada", "a\u0085"],
    ],
)
def test_what_no_subject_can_be_called(name: str) -> None:
    assert not is_subject_name(name)


@pytest.mark.parametrize("name", [*SCRIPTS, "a", "a" * 128, "...", ".ada", "~ada", "a b"])
def test_what_a_subject_can_be_called(name: str) -> None:
    assert is_subject_name(name)
