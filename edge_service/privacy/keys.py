"""Secret keys of the edge. They never leave it, but for a gallery's key that a person exports under a passphrase.

::

    master key -- HKDF(gallery) --> gallery key -- HKDF(epoch, scope) --> epoch key -- HKDF(purpose) --> seal, seeds, id
                                                                                  `-- HKDF(subject) --> subject's key

One way only: who holds a gallery's key learns nothing of the master key or of another gallery; who holds an epoch's
key, nothing of another epoch, but for the one that its seeds follow from.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.contract import SealPin, SealScope
from shared.errors import Conflict, SetupError
from shared.secret_files import read_secret, write_secret

KEY_BYTES: Final = 32
# The epoch of a gallery whose profile does not seal: its contract names none.
NO_EPOCH: Final = "0" * 16
_NONCE_BYTES: Final = 12
_MASTER: Final = "master.key"
_IMPORTED: Final = "gallery_keys"
_BEFORE: Final = "before"


@dataclass(frozen=True, slots=True)
class GalleryKey:
    """The secret of one gallery, from which each epoch's key follows."""

    gallery: str
    secret: bytes = field(repr=False)

    def epoch(self, epoch: str, scope: SealScope = "gallery", seeds: str | None = None) -> EpochKey:
        """The key of one epoch.

        What is sealed alike enters the key, and whose seeds it takes, and with these the key's id: a cloud that says of
        a gallery with a seal for each subject that it has one seal for all names a key that is not this one.

        Args:
            epoch: 16 hexadecimal digits.
            scope: what has one seal.
            seeds: the epoch that seeds follow from; None: this one.
        """
        alike = () if scope == "gallery" else (scope,)
        if seeds is None:
            return EpochKey(self.gallery, epoch, derive(self.secret, "epoch", epoch, *alike))
        secret = derive(self.secret, "epoch", epoch, *alike, "seeds of", seeds)
        return EpochKey(self.gallery, epoch, secret, self.epoch(seeds, scope).secret)

    def of(self, seal: SealPin | None) -> EpochKey:
        """The key that a contract names; where it names none, the one that only seeds."""
        return self.epoch(NO_EPOCH) if seal is None else self.epoch(seal.epoch, seal.scope, seal.seeds)

    def seal_pin(self, epoch: str, scope: SealScope, seeds: str | None = None) -> SealPin:
        """What a contract says of the key of an epoch."""
        return SealPin(key_id=self.epoch(epoch, scope, seeds).key_id(), epoch=epoch, scope=scope, seeds=seeds)

    def face_id(self, subject: str, kind: bytes, content: bytes) -> str:
        """32 hexadecimal digits that name a face of a subject, and by which nobody else can tell a guess of it."""
        key = derive(self.secret, "face id", subject)
        return hmac.digest(key, kind + b" " + content, "sha256")[:16].hex()

    def fingerprint(self) -> str:
        """32 hexadecimal digits by which two people can see that they hold the same key; tells nothing about it."""
        return derive(self.secret, "gallery fingerprint", length=16).hex()


@dataclass(frozen=True, slots=True)
class EpochKey:
    """The secret under which a gallery's templates are sealed until the next rotation.

    ``seeding`` is the secret of the epoch that seeds follow from, where that is another.
    """

    gallery: str
    epoch: str
    secret: bytes = field(repr=False)
    seeding: bytes | None = field(default=None, repr=False)

    def stream_key(self, purpose: str) -> bytes:
        """A key of its own for each purpose: 32 bytes."""
        return derive(self.secret, "purpose", purpose)

    def seed_key(self) -> bytes:
        """The key that the seed of each embedding follows from: 32 bytes. It outlives a change of key in place."""
        return derive(self.seeding or self.secret, "purpose", "perturb seed")

    def of_subject(self, subject: str) -> EpochKey:
        """The key of one subject of a gallery whose subjects have seals of their own."""
        seeding = None if self.seeding is None else derive(self.seeding, "subject", subject)
        return EpochKey(self.gallery, self.epoch, derive(self.secret, "subject", subject), seeding)

    def key_id(self) -> str:
        """32 hexadecimal digits that name the key in the gallery's contract and tell nothing about it."""
        return derive(self.secret, "key id", length=16).hex()


PUBLIC_KEY: Final = EpochKey("", NO_EPOCH, b"patronus: seeds that are public.")
"""No secret: for templates without a seal whose seeds anybody may draw again, as in measurements."""


def new_epoch() -> str:
    """A name for a new epoch: 16 hexadecimal digits at random.

    At random, not counted: a gallery that is erased and made again under its old name gets a key of its own.
    """
    return secrets.token_hex(8)


def derive(secret: bytes, *labels: str, length: int = KEY_BYTES) -> bytes:
    """HKDF-SHA256 (RFC 5869), the labels being its info, each behind its length so that no two lists read alike."""
    info = b"patronus v1" + b"".join(len(part).to_bytes(4, "big") + part for part in (s.encode() for s in labels))
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(secret)


class KeyStore:
    """The edge's keys on disk: the master key, and the keys of galleries that were imported from another edge.

    Keys that others took the place of are kept beside them, in a folder of the same form, until they are forgotten: a
    gallery is matched under the key that its contract names, and its next change of key is to the newest.

    Args:
        folder: private; made at the first start.
        may_make: whether a master key may be made where there is none.

    Raises:
        SetupError: the master key is damaged or missing, or others than its owner can read it.
    """

    def __init__(self, folder: Path, *, may_make: bool = True) -> None:
        self._folder = folder
        self._master = _load_or_make(folder / _MASTER, may_make=may_make)

    def gallery(self, name: str) -> GalleryKey:
        """The newest key of a gallery: the imported one where there is one, else the master key's own.

        Raises:
            SetupError: the imported key's file is damaged, foreign, or readable by others.
        """
        return self._imported(name) or self._own(name)

    def named_by(self, name: str, seal: SealPin) -> GalleryKey | None:
        """The key of a gallery that its contract names: the newest, or one before; None where this edge has none.

        Raises:
            SetupError: a key's file is damaged, foreign, or readable by others.
        """
        for key in (self._imported(name), self._own(name)):
            if key is not None and key.of(seal).key_id() == seal.key_id:
                return key
        before = self._before()
        return None if before is None else before.named_by(name, seal)

    def no_gallery(self) -> EpochKey:
        """The key of templates that are for no gallery of ours. It seeds; nothing is ever sealed with it."""
        return GalleryKey("", derive(self._master, "no gallery")).epoch(NO_EPOCH)

    def put(self, key: GalleryKey, *, replace: bool = False) -> None:
        """Keeps a gallery's key that another edge made, encrypted under this edge's master key.

        Raises:
            Conflict: another imported key is there already and is not to be replaced.
            SetupError: the folder cannot be written.
        """
        known = self._imported(key.gallery)
        if known is not None and known != key:
            if not replace:
                raise Conflict("Another key was imported for this gallery before; say so if it is to be replaced.")
            KeyStore(self._folder / _BEFORE).put(known, replace=True)  # until the gallery's key is changed
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = AESGCM(self._wrapping_key()).encrypt(nonce, key.secret, key.gallery.encode())
        write_secret(self._path(key.gallery), nonce + sealed, replace=True)

    def renew(self) -> None:
        """Puts a new master key in the place of the old one, which is kept aside with the imported keys: galleries are
        matched under their old keys until these are changed, one gallery after the other.

        Who is stopped in between has lost nothing, and does it again.

        Raises:
            Conflict: there are keys aside from the last time.
            SetupError: the folder cannot be written.
        """
        before = self._before()
        if before is not None and before._master != self._master:
            raise Conflict(
                "There are old keys aside already; change the key of every gallery, then: patronus keys forget"
            )
        write_secret(self._folder / _BEFORE / _MASTER, _written(self._master), replace=True)
        imported = list((self._folder / _IMPORTED).glob("*.key"))
        for path in imported:
            write_secret(self._folder / _BEFORE / _IMPORTED / path.name, read_secret(path), replace=True)
        for path in imported:  # before the master key goes, under which they open
            path.unlink(missing_ok=True)
        master = secrets.token_bytes(KEY_BYTES)
        write_secret(self._folder / _MASTER, _written(master), replace=True)
        self._master = master

    def forget(self) -> bool:
        """Destroys the keys that are aside; false where there are none. A gallery still under one of them is lost."""
        before = self._folder / _BEFORE
        found = before.exists()
        if found:
            shutil.rmtree(before)
        return found

    def _before(self) -> KeyStore | None:
        folder = self._folder / _BEFORE
        return KeyStore(folder, may_make=False) if (folder / _MASTER).exists() else None

    def _own(self, name: str) -> GalleryKey:
        return GalleryKey(name, derive(self._master, "gallery", name))

    def _imported(self, name: str) -> GalleryKey | None:
        try:
            content = read_secret(self._path(name))
        except FileNotFoundError:
            return None
        nonce, sealed = content[:_NONCE_BYTES], content[_NONCE_BYTES:]
        try:
            return GalleryKey(name, AESGCM(self._wrapping_key()).decrypt(nonce, sealed, name.encode()))
        except (InvalidTag, ValueError):
            raise SetupError(
                f"The imported key of gallery {name} does not open under this edge's master key; import it again."
            ) from None

    def _path(self, name: str) -> Path:
        return self._folder / _IMPORTED / f"{name}.key"

    def _wrapping_key(self) -> bytes:
        return derive(self._master, "wrap imported keys")


def _written(key: bytes) -> bytes:
    return key.hex().encode() + b"\n"


def _load_or_make(path: Path, *, may_make: bool) -> bytes:
    try:
        content = read_secret(path)
    except FileNotFoundError:
        if not may_make:
            raise SetupError(
                f"The master key {path} is missing, though this edge was started before: put its backup back. If "
                "nothing that it sealed is needed any more, remove api_keys.json beside it, and a new one is made."
            ) from None
        # If another process had its first start at the same moment, its key is the key.
        with contextlib.suppress(FileExistsError):
            write_secret(path, _written(secrets.token_bytes(KEY_BYTES)), replace=False)
        content = read_secret(path)
    try:
        key = bytes.fromhex(content.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise SetupError(
            f"The master key {path} is damaged: it must hold 64 hexadecimal digits. Put its backup back; "
            "a new key cannot open what the old one sealed."
        )
    return key
