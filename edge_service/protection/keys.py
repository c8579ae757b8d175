"""Secret keys of the edge. Only a gallery's key leaves it, exported under a passphrase.

::

    master key -- HKDF(gallery) --> gallery key -- HKDF(epoch, scope) --> epoch key -- HKDF(purpose) --> seal, seeds, id
                                                                                  `-- HKDF(subject) --> subject's key

One way only. A gallery's key reveals nothing of the master key or of another gallery. An epoch's key reveals nothing of
another epoch, except of the one that its seeds follow from.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edge_service.protection.key_folder import KeyFolder
from shared.contract import SealPin, SealScope
from shared.errors import Conflict, SetupError
from shared.security.process_secrets import lock_pages
from shared.security.secret_files import read_secret, write_secret

KEY_BYTES: Final = 32
# The epoch of a gallery whose profile does not seal: its contract names none.
NO_EPOCH: Final = "0" * 16
_NONCE_BYTES: Final = 12
# Of as many seals as ``seal.py`` caches.
_CACHED_SEED_KEYS: Final = 256


@dataclass(frozen=True, slots=True)
class GalleryKey:
    """The secret of one gallery, from which each epoch's key follows.

    ``ids`` is the secret that ids of pictures follow from, where an earlier master key made it.
    """

    gallery: str
    secret: bytes = field(repr=False)
    ids: bytes | None = field(default=None, repr=False, compare=False)

    def epoch(self, epoch: str, scope: SealScope = "gallery", seeds: str | None = None) -> EpochKey:
        """The key of one epoch.

        The key and its id also follow from the scope and from the epoch of the seeds. So a cloud that states a wrong
        scope of a gallery names a key that does not exist.

        Args:
            epoch: 16 hexadecimal digits.
            scope: whether the gallery or each subject has a seal.
            seeds: the epoch that seeds follow from; None: this one.
        """
        alike = () if scope == "gallery" else (scope,)
        if seeds is None:
            return EpochKey(self.gallery, epoch, derive(self.secret, "epoch", epoch, *alike))
        secret = derive(self.secret, "epoch", epoch, *alike, "seeds of", seeds)
        return EpochKey(self.gallery, epoch, secret, self.epoch(seeds, scope).secret)

    def of(self, seal: SealPin | None) -> EpochKey:
        """The key that a contract names; where it names none, a key for seeds only."""
        return self.epoch(NO_EPOCH) if seal is None else self.epoch(seal.epoch, seal.scope, seal.seeds)

    def seal_pin(self, epoch: str, scope: SealScope, seeds: str | None = None) -> SealPin:
        """The entry of a contract for the key of an epoch."""
        return SealPin(key_id=self.epoch(epoch, scope, seeds).key_id(), epoch=epoch, scope=scope, seeds=seeds)

    def picture_ids(self) -> bytes:
        """The secret that ids of pictures follow from; it outlives a change to another master key."""
        return self.ids or derive(self.secret, "picture ids")

    def face_id(self, subject: str, kind: Literal["picture", "name", "values"], content: bytes) -> str:
        """32 hexadecimal digits that name a face; no guess can be tested without the key.

        Args:
            subject: the person.
            kind: what the content is; pictures have a secret of their own.
            content: the uploaded picture, or the sender's name of an embedding, or its values.
        """
        key = derive(self.picture_ids() if kind == "picture" else self.secret, "face id", subject)
        return hmac.digest(key, kind.encode() + b" " + content, "sha256")[:16].hex()

    def fingerprint(self) -> str:
        """32 hexadecimal digits to compare keys by; they reveal nothing about the key."""
        return derive(self.secret, "gallery fingerprint", length=16).hex()


@dataclass(frozen=True, slots=True)
class EpochKey:
    """The secret under which a gallery's templates are sealed until the next rotation.

    ``seeding`` is the secret of the epoch that seeds follow from, if that is another one.
    """

    gallery: str
    epoch: str
    secret: bytes = field(repr=False)
    seeding: bytes | None = field(default=None, repr=False)

    def stream_key(self, purpose: str) -> bytes:
        """A separate key for each purpose: 32 bytes."""
        return derive(self.secret, "purpose", purpose)

    def seed_key(self) -> bytes:
        """The key that the seed of each embedding follows from: 32 bytes. A change of key in place keeps it."""
        return _seed_key(self.seeding or self.secret)

    def of_subject(self, subject: str) -> EpochKey:
        """The key of one subject of a verify-only gallery."""
        seeding = None if self.seeding is None else derive(self.seeding, "subject", subject)
        return EpochKey(self.gallery, self.epoch, derive(self.secret, "subject", subject), seeding)

    def key_id(self) -> str:
        """32 hexadecimal digits that name the key in the contract; they reveal nothing about it."""
        return derive(self.secret, "key id", length=16).hex()


# Not secret: for templates without a seal whose seeds anybody may reproduce, as in measurements.
PUBLIC_KEY: Final = EpochKey("", NO_EPOCH, b"patronus: seeds that are public.")


@lru_cache(maxsize=_CACHED_SEED_KEYS)
def _seed_key(secret: bytes) -> bytes:
    return derive(secret, "purpose", "perturb seed")


def derive(secret: bytes, *labels: str, length: int = KEY_BYTES) -> bytes:
    """HKDF-SHA256 (RFC 5869). Its info is the labels, each after its length: unambiguous."""
    info = b"patronus v1" + b"".join(len(part).to_bytes(4, "big") + part for part in (s.encode() for s in labels))
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(secret)


class KeyStore:
    """The edge's keys on disk: the master key, and gallery keys imported from other edges.

    Replaced keys are kept in the folder ``before``, which has the same form, until they are forgotten. A gallery is
    matched under the key that its contract names; its next change of key is to the newest one.

    Args:
        folder: private; created at the first start.
        may_make: whether to create a missing master key.

    Raises:
        SetupError: the master key is damaged or missing, or others can read it.
    """

    def __init__(self, folder: Path, *, may_make: bool = True) -> None:
        self._files = KeyFolder(folder)
        self._files.finish()
        self._master = _load_or_make(self._files, may_make=may_make)

    def gallery(self, name: str) -> GalleryKey:
        """The newest key of a gallery: the imported one, else the one derived from the master key.

        Raises:
            SetupError: the imported key's file is damaged, foreign, or readable by others.
        """
        return self._with_ids(self._imported(name) or self._own(name))

    def named_by(self, name: str, seal: SealPin) -> GalleryKey | None:
        """The key that a gallery's contract names, new or old; None if it is not here.

        Raises:
            SetupError: a key's file is damaged, foreign, or readable by others.
        """
        found, before = self._newest_named_by(name, seal), self._before()
        if found is None and before is not None:
            found = before.named_by(name, seal)
        return found and self._with_ids(found)

    def is_current(self) -> bool:
        """Whether the master key is still the one that this was opened with."""
        return not self._files.master.exists() or _read_key(self._files.master, "master key") == self._master

    def imported(self) -> list[GalleryKey]:
        """The keys of other edges, by gallery.

        Raises:
            SetupError: a key's file is damaged, foreign, or readable by others.
        """
        return [self.gallery(name) for name in self._files.imported_files()]

    def has_old_keys(self) -> bool:
        """Whether there are old keys that ``forget`` would destroy."""
        return self._before() is not None

    def needs_old_key(self, name: str, seal: SealPin) -> bool:
        """Whether a gallery's contract names a key that ``forget`` would destroy.

        Raises:
            SetupError: a key's file is damaged, foreign, or readable by others.
        """
        return self._newest_named_by(name, seal) is None and self.named_by(name, seal) is not None

    def no_gallery(self) -> EpochKey:
        """The key of templates that are for no gallery; for seeds only, never for a seal."""
        return GalleryKey("", derive(self._master, "no gallery")).epoch(NO_EPOCH)

    def put(self, key: GalleryKey, *, replace: bool = False) -> None:
        """Stores a gallery's key of another edge, encrypted under this edge's master key.

        Raises:
            Conflict: another key was imported before, and ``replace`` is false.
            SetupError: the folder cannot be written.
        """
        with self._files.changing():
            self._master = _load(self._files.master)  # it may have been renewed since this was opened
            known = self._imported(key.gallery)
            replaced = None if known == key else known
            if replaced is not None and not replace:
                raise Conflict(
                    f"Another key was imported for gallery {key.gallery} before; to replace it, say "
                    "patronus keys import --replace."
                )
            if key.ids is not None or replaced is not None:
                self._keep_picture_ids(key if replaced is None or key.ids is not None else replaced)
            if replaced is not None:
                self._keep_before(replaced)  # until the gallery's key is changed
            write_secret(self._files.imported(key.gallery), _wrapped(key, self._master), replace=True)

    def keep_picture_ids(self, key: GalleryKey) -> None:
        """Keeps picture ids under this key when a key of another master key replaces it.

        Raises:
            SetupError: the folder cannot be written.
        """
        with self._files.changing():
            self._keep_picture_ids(key)

    def renew(self) -> None:
        """Replaces the master key, and keeps the old one and the imported keys in ``before``.

        Galleries are matched under their old keys until these are changed, gallery by gallery. The rename that replaces
        the master key completes the renewal; one that was stopped earlier has changed nothing.

        Raises:
            Conflict: there are old keys from the last renewal.
            SetupError: the folder cannot be written.
        """
        with self._files.changing():
            if self._files.before.exists():
                raise Conflict(
                    "There are old keys already; change the key of every gallery, then: patronus keys forget"
                )
            old, master = _load(self._files.master), secrets.token_bytes(KEY_BYTES)
            self._files.put_before(_written(old), self._files.imported_files())
            write_secret(self._files.master, _written(master), replace=True)
            self._master = master
        self._files.finish()  # removes the imported keys that only the old master key opens

    def forget(self) -> None:
        """Destroys the old keys, if there are any. Galleries still under them are lost.

        One rename completes it. Its leftovers, if it was stopped, are removed when the folder is opened again.

        Raises:
            SetupError: the folder cannot be written.
        """
        with self._files.changing():
            if self._files.before.exists():
                self._files.destroy_before()

    def _keep_picture_ids(self, key: GalleryKey) -> None:
        if not self._files.picture_ids(key.gallery).exists():
            write_secret(self._files.picture_ids(key.gallery), _written(key.picture_ids()), replace=False)

    def _with_ids(self, key: GalleryKey) -> GalleryKey:
        path = self._files.picture_ids(key.gallery)
        return replace(key, ids=_read_key(path, "key of picture ids")) if path.exists() else key

    def _newest_named_by(self, name: str, seal: SealPin) -> GalleryKey | None:
        """As ``named_by``, without the old keys."""
        for key in (self._imported(name), self._own(name)):
            if key is not None and key.of(seal).key_id() == seal.key_id:
                return key
        return None

    def _keep_before(self, key: GalleryKey) -> None:
        before = self._before()
        if before is not None:
            before.put(key, replace=True)
            return
        master = secrets.token_bytes(KEY_BYTES)
        self._files.put_before(_written(master), {key.gallery: _wrapped(key, master)})

    def _before(self) -> KeyStore | None:
        return KeyStore(self._files.before, may_make=False) if KeyFolder(self._files.before).master.exists() else None

    def _own(self, name: str) -> GalleryKey:
        return GalleryKey(name, derive(self._master, "gallery", name))

    def _imported(self, name: str) -> GalleryKey | None:
        try:
            content = read_secret(self._files.imported(name))
        except FileNotFoundError:
            return None
        nonce, sealed = content[:_NONCE_BYTES], content[_NONCE_BYTES:]
        try:
            return GalleryKey(name, AESGCM(_wrapping_key(self._master)).decrypt(nonce, sealed, name.encode()))
        except (InvalidTag, ValueError):
            raise SetupError(
                f"The imported key of gallery {name} does not open under this edge's master key; import it again."
            ) from None


def _wrapping_key(master: bytes) -> bytes:
    return derive(master, "wrap imported keys")


def _wrapped(key: GalleryKey, master: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(_wrapping_key(master)).encrypt(nonce, key.secret, key.gallery.encode())


def _written(key: bytes) -> bytes:
    return f"{key.hex()}\n{_check(key)}\n".encode()


def _check(key: bytes) -> str:
    """8 hexadecimal digits by which a damaged key is noticed; they reveal nothing about it."""
    return derive(key, "check of a key file", length=4).hex()


def _load_or_make(files: KeyFolder, *, may_make: bool) -> bytes:
    try:
        key = _load(files.master)
        if len(read_secret(files.master).split()) == 1:  # an earlier version wrote it, without its check
            with contextlib.suppress(SetupError), files.changing():  # the folder may be read-only
                write_secret(files.master, _written(_load(files.master)), replace=True)
        return key
    except FileNotFoundError:
        if not may_make:
            raise SetupError(
                f"The master key {files.master} is missing, though this edge was started before: put its backup back. "
                "If nothing that it sealed is needed any more, remove api_keys.json beside it, and a new one is made."
            ) from None
    with files.changing():
        if not files.master.exists():  # else another process had its first start at the same moment
            write_secret(files.master, _written(secrets.token_bytes(KEY_BYTES)), replace=False)
        return _load(files.master)


def _load(path: Path) -> bytes:
    key = _read_key(path, "master key")
    lock_pages(key)
    return key


def _read_key(path: Path, what: str) -> bytes:
    words = read_secret(path).split()
    try:
        key = bytes.fromhex(words[0].decode("ascii"))
    except (IndexError, ValueError):
        key = b""
    if len(key) != KEY_BYTES or words[1:] not in ([], [_check(key).encode()]):
        raise SetupError(
            f"The {what} {path} is damaged: it must hold 64 hexadecimal digits, and 8 that fit them. Put its backup "
            "back; a new key cannot open what the old one sealed."
        )
    return key
