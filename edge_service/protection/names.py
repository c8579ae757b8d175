"""Seals the names of subjects: what the cloud is told instead of a name, and what only the edge turns back into it.

A sealed name is ``~`` and the base64url of AES-SIV (RFC 5297) of the name, under a key of the gallery's epoch. It is
deterministic: equal names of a gallery are equal at the cloud, which can look a subject up and tell nothing else.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from edge_service.protection.keys import EpochKey, GalleryKey, derive
from shared.errors import Unprocessable, UpstreamFailed
from shared.names import PLAIN_NAME_PATTERN, SEALED, SEALED_NAME_PATTERN

# Of AES-256-SIV: one half for the synthetic IV, one for the encryption.
_KEY_BYTES: Final = 64
# What is sealed is a multiple of this: a token says the length of a name to 32 bytes. Most names are one block.
_BLOCK_BYTES: Final = 32
_PLAIN: Final = re.compile(PLAIN_NAME_PATTERN)
_SEALED: Final = re.compile(SEALED_NAME_PATTERN)
# Of an epoch's 16 hexadecimal digits: the random ones, and those that say that names are sealed.
_RANDOM_BYTES: Final = 5
_EPOCH_MARK_BYTES: Final = 3


@dataclass(frozen=True, slots=True)
class SealedNames:
    """The names of a gallery's subjects, sealed under a key of one epoch.

    Args:
        key: of the epoch; in a verify-only gallery too, that of all subjects.
    """

    key: EpochKey
    _cipher: AESSIV = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        cipher = AESSIV(derive(self.key.secret, "purpose", "subject names", length=_KEY_BYTES))
        object.__setattr__(self, "_cipher", cipher)

    def stored(self, name: str) -> str:
        """What the cloud is told: the name, sealed.

        Args:
            name: as ``subject_name`` returns it.
        """
        sealed = self._cipher.encrypt(_padded(name.encode()), [self.key.gallery.encode()])
        return SEALED + _base64(sealed)

    def shown(self, stored: str) -> str:
        """The name that the cloud holds sealed.

        Raises:
            UpstreamFailed: it does not open. It is damaged, or sealed under another key or for another gallery.
        """
        try:
            if not _SEALED.fullmatch(stored):
                raise ValueError("not sealed")
            text = stored.removeprefix(SEALED)
            sealed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            if _base64(sealed) != text:
                raise ValueError("written in another way")
            return _unpadded(self._cipher.decrypt(sealed, [self.key.gallery.encode()])).decode()
        except (InvalidTag, ValueError):  # ValueError: also of what is not base64 or not UTF-8
            raise _damaged(self.key.gallery) from None


@dataclass(frozen=True, slots=True)
class PlainNames:
    """The names of a gallery that was made before names were sealed: the cloud holds them as they are.

    Args:
        gallery: its name.
    """

    gallery: str

    def stored(self, name: str) -> str:
        """What the cloud is told: the name itself.

        Raises:
            Unprocessable: only a sealed name can have these characters.
        """
        if not _PLAIN.fullmatch(name):
            raise Unprocessable(
                "The gallery was made before names were sealed, and takes 1 to 128 letters A to Z, digits or ._@-, a "
                "letter or digit first; change its key (patronus gallery rekey), and it takes any name.",
                reason="plain_names",
            )
        return name

    def shown(self, stored: str) -> str:
        """The name that the cloud holds.

        Raises:
            UpstreamFailed: no subject of such a gallery can have this name.
        """
        if not _PLAIN.fullmatch(stored):
            raise _damaged(self.gallery)
        return stored


SubjectNames = SealedNames | PlainNames


def new_epoch(key: GalleryKey) -> str:
    """A name for a new epoch, whose names are sealed: 16 hexadecimal digits, the first 10 of them random.

    Random, not counted: a gallery that is erased and created again under its old name gets a new key. The other digits
    say, to those who have the key, that names are sealed in this epoch: no cloud can claim that they are not.
    """
    drawn = secrets.token_bytes(_RANDOM_BYTES)
    return (drawn + _epoch_mark(key, drawn)).hex()


def seals_names(key: GalleryKey, epoch: str) -> bool:
    """Whether ``new_epoch`` made the name of an epoch; of 16 million names made otherwise, one seems so."""
    found = bytes.fromhex(epoch)
    return hmac.compare_digest(found[_RANDOM_BYTES:], _epoch_mark(key, found[:_RANDOM_BYTES]))


def _epoch_mark(key: GalleryKey, drawn: bytes) -> bytes:
    return derive(key.secret, "epoch of sealed names", drawn.hex(), length=_EPOCH_MARK_BYTES)


def _base64(sealed: bytes) -> str:
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii")


def _padded(name: bytes) -> bytes:
    """Pads as ISO/IEC 7816-4 says: one byte 0x80, then zeros."""
    return name + b"\x80" + bytes(-(len(name) + 1) % _BLOCK_BYTES)


def _unpadded(padded: bytes) -> bytes:
    name, mark, zeros = padded.rpartition(b"\x80")
    if not mark or zeros.strip(b"\0"):
        raise ValueError("not padded")
    return name


def _damaged(gallery: str) -> UpstreamFailed:
    return UpstreamFailed(
        f"A subject's name that the cloud holds for the gallery {gallery} does not open: it is damaged, or was sealed "
        "under another key. Let the cloud's operator run patronus cloud check.",
        reason="name_not_opened",
    )
