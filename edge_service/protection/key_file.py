"""A key in one file, for programs that protect embeddings without an edge and a cloud.

A pair keeps a master key in the edge's folder, and the cloud keeps which contract each gallery is under. A program
without a cloud has only this file, so the file names the contract too: what was protected once is never compared with
templates of another profile, gallery or key. The derivation of keys, the check and the private mode are those of the
edge's key folder (``keys.py``, ``secret_files.py``).
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError

from edge_service.protection.keys import KEY_BYTES, GalleryKey, derive
from edge_service.protection.profiles.files import Profile, check_profile_dimension
from shared.contract import Contract, EmbedderPin, Epoch
from shared.errors import Conflict, ContractMismatch, SetupError
from shared.names import GALLERY_PATTERN, GalleryName, HexDigest
from shared.security.process_secrets import lock_pages
from shared.security.secret_files import NAME_ANOTHER_FILE, locked, read_secret, write_secret
from shared.strict_types import One, StrictModel, file_path, whole_number, wrong_type

_KIND: Final = "patronus-key"
_VERSION: Final = 1
_DIGITS_SHOWN: Final = 12
# Of an epoch, all of them random: no cloud holds names under this key.
_EPOCH_BYTES: Final = 8
# The gallery of a key whose user names none.
_GALLERY: Final = "main"
# What a contract says of embeddings whose maker is not known here.
_MADE_ELSEWHERE: Final = "made elsewhere"
_UNKNOWN_FILE: Final = "0" * 64


class KeyMissing(SetupError, FileNotFoundError):
    """There is no key file of this name."""


class _Use(StrictModel):
    """What a key protects; known once it was used."""

    gallery: GalleryName
    contract: Contract


class _KeyFile(StrictModel):
    """The content of a key file."""

    kind: Literal["patronus-key"] = _KIND
    version: One = _VERSION
    secret: HexDigest = Field(repr=False)
    epoch: Epoch
    used_for: _Use | None = None
    check: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")] = "0" * 8


@dataclass(frozen=True, slots=True)
class Key:
    """A secret key in a private file. It protects the embeddings of one gallery, under one profile.

    Keep a backup of the file: without it, templates that were made with it match nothing any more. Anyone with it
    recovers the embeddings.

    Attributes:
        path: of its file.
        epoch: its random name, 16 hexadecimal digits.

    Example:
        >>> key = Key.load_or_create("acme.key")
        >>> Key.load("acme.key") == key
        True
        >>> key  # doctest: +ELLIPSIS
        Key(path=PosixPath('acme.key'), epoch='...')
    """

    path: Path = field(compare=False)
    epoch: str
    _secret: bytes = field(repr=False)
    # The same file after the program has changed its folder.
    _file: Path = field(repr=False, compare=False)

    @classmethod
    def load_or_create(cls, path: str | Path) -> Self:
        """Reads a key file, or creates it with a new random key, readable by its owner alone.

        Of several programs that create it at once, one does, and the others read its key.

        Args:
            path: of the file. Missing folders are created.

        Raises:
            SetupError: the file is damaged, newer than this program, not a key file, or readable by others, or it
                cannot be written, or no file can have this name.
            TypeError: it is no path.

        Example:
            >>> Key.load_or_create("acme.key").path.stat().st_mode & 0o777 == 0o600
            True
        """
        file = file_path("path", path)
        try:
            return cls.load(file)
        except KeyMissing:
            new = _KeyFile(secret=secrets.token_hex(KEY_BYTES), epoch=secrets.token_hex(_EPOCH_BYTES))
        with contextlib.suppress(FileExistsError):  # another program was first
            write_secret(file, _written(new), replace=False, remedy=NAME_ANOTHER_FILE)
        return cls.load(file)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a key file, and never creates one: for programs whose templates exist already.

        Args:
            path: of the file.

        Raises:
            KeyMissing: there is no such file. It is a ``SetupError``, and a ``FileNotFoundError``.
            SetupError: it is damaged, newer than this program, not a key file, or readable by others, or no file can
                have this name.
            TypeError: it is no path.

        Example:
            >>> Key.load("missing.key")  # doctest: +ELLIPSIS
            Traceback (most recent call last):
            ...
            edge_service.protection.key_file.KeyMissing: There is no key file missing.key; put its backup back, or ...
        """
        named = file_path("path", path)
        try:
            file = named.absolute()
            content = _read(file, named)
        except FileNotFoundError:
            raise KeyMissing(
                f"There is no key file {named}; put its backup back, or create a new key: Key.load_or_create(path)."
            ) from None
        secret = bytes.fromhex(content.secret)
        lock_pages(secret)
        return cls(named, content.epoch, secret, file)

    def gallery_key(self, gallery: str) -> GalleryKey:
        """The key of a gallery, from which its seal and seeds follow, as from an edge's master key.

        Example:
            >>> Key.load_or_create("acme.key").gallery_key("staff")
            GalleryKey(gallery='staff')
        """
        return GalleryKey(gallery, derive(self._secret, "gallery", gallery))

    def used_for(self) -> tuple[str, Contract] | None:
        """The gallery and the contract that this key protects; None until its first use.

        Raises:
            SetupError: the file is missing, damaged, or holds another key by now.

        Example:
            >>> protector = Protector.open(key=Key.load_or_create("acme.key"), gallery="staff")
            >>> gallery, contract = Key.load("acme.key").used_for()
            >>> gallery, contract.profile.name
            ('staff', 'default-2')
        """
        try:
            content = _read(self._file, self.path)
        except FileNotFoundError:
            raise SetupError(f"The key file {self.path} is gone; put its backup back.") from None
        if bytes.fromhex(content.secret) != self._secret:
            raise SetupError(f"The key file {self.path} holds another key than when it was read; start again.")
        return None if content.used_for is None else (content.used_for.gallery, content.used_for.contract)

    def use_for(self, profile: Profile, gallery: str | None = None, dim: int | None = None) -> tuple[str, Contract]:
        """What this key protects under a profile. The first time, the file notes it; later it must agree.

        Args:
            profile: that protects.
            gallery: its name; None: the key's own, ``main`` for a new key.
            dim: values of an embedding; None: as the profile's network, or the key's first use, has them.

        Returns:
            The gallery's name and its contract.

        Raises:
            Conflict: the key is of another gallery.
            ContractMismatch: it is for another profile, another version of it, or another length of embeddings.
            SetupError: no gallery can have this name, the profile is not for this dimension, or the file is missing or
                damaged, or cannot be written.
            TypeError: the gallery is no string, or the dimension no whole number.

        Example:
            >>> from edge_service.protection.profiles.files import load_profile
            >>> gallery, contract = Key.load_or_create("acme.key").use_for(load_profile("seal"), "staff", 512)
            >>> gallery, contract.dim
            ('staff', 512)
        """
        wanted = None if dim is None else whole_number("dim", dim)
        known = self.used_for()
        if gallery is None:
            gallery = _GALLERY if known is None else known[0]
        if not isinstance(gallery, str):
            raise wrong_type("gallery", "a string", gallery)
        if re.fullmatch(GALLERY_PATTERN, gallery) is None:
            raise SetupError("A gallery's name is 1 to 64 letters, digits, dots, underscores or hyphens.")
        contract = self._contract(
            profile, gallery, _dimension(profile, wanted, None if known is None else known[1].dim)
        )
        if known is None:
            known = self._note(_Use(gallery=gallery, contract=contract))
        self._compare(known, gallery, contract)
        return gallery, contract

    def _contract(self, profile: Profile, gallery: str, dim: int) -> Contract:
        document = profile.document
        embedder = EmbedderPin(
            name=document.embedder, sha256=document.embedder_sha256 or _UNKNOWN_FILE, preprocessing=_MADE_ELSEWHERE
        )
        seal = self.gallery_key(gallery).seal_pin(self.epoch, "gallery") if profile.seals else None
        return Contract(dim=dim, embedder=embedder, profile=profile.pin, seal=seal)

    def _note(self, use: _Use) -> tuple[str, Contract]:
        """Writes the first use into the file, unless another program was first; returns what stands there."""
        with locked(self._file, remedy=NAME_ANOTHER_FILE):
            known = self.used_for()
            if known is None:
                content = _KeyFile(secret=self._secret.hex(), epoch=self.epoch, used_for=use)
                write_secret(self._file, _written(content), replace=True, remedy=NAME_ANOTHER_FILE)
                known = use.gallery, use.contract
        return known

    def _compare(self, known: tuple[str, Contract], gallery: str, contract: Contract) -> None:
        of, theirs = known
        if of != gallery:
            raise Conflict(
                f"The key file {self.path} is of the gallery {of!r}, and this is {gallery!r}; use the key file of this "
                "gallery, or create another."
            )
        if theirs == contract:
            return
        differing = [name for name in Contract.model_fields if getattr(theirs, name) != getattr(contract, name)]
        pins = theirs.profile, contract.profile
        if pins[0].name != pins[1].name:
            what = f"the profile {pins[0].name!r}, and this is {pins[1].name!r}"
        elif pins[0] != pins[1]:
            what = (
                f"other files of the profile {pins[0].name!r} (digest {pins[0].sha256[:_DIGITS_SHOWN]}…) than are here"
            )
        elif theirs.dim != contract.dim:
            what = f"embeddings of {theirs.dim} values, and these have {contract.dim}"
        else:
            what = f"another {' and '.join(differing)}"
        raise ContractMismatch(
            f"The key file {self.path} is for {what}; templates of the two cannot be compared. Use what it is for, or "
            "create another key file and protect the stored embeddings again.",
            differing=differing,
        )


def _dimension(profile: Profile, wanted: int | None, known: int | None) -> int:
    """The dimension of the embeddings: as the caller says, else the network's, else that of the key's first use."""
    step, name = profile.document.patronus, profile.pin.name
    dim = wanted if wanted is not None else known if step is None else step.dim
    if dim is None:
        raise SetupError(f"The profile {name!r} is for any embedder; say how many values an embedding has: dim=512")
    check_profile_dimension(profile, dim)
    return dim


def _members_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The members of an object; of two with one name, the check would count one."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object names a member twice")
    return members


def _written(content: _KeyFile) -> bytes:
    members = content.model_dump(mode="json")
    return (json.dumps(members | {"check": _check(content.secret, members)}, indent=1) + "\n").encode()


def _check(secret: str, members: dict[str, Any]) -> str:
    """8 hexadecimal digits by which damage to any member is noticed; they reveal nothing of the secret."""
    rest = {name: value for name, value in members.items() if name not in {"secret", "check"}}
    return derive(bytes.fromhex(secret), "check of a key file", json.dumps(rest, sort_keys=True), length=4).hex()


def _read(file: Path, path: Path) -> _KeyFile:
    """The content of a file; sentences call it ``path``."""
    text = read_secret(file)
    found: Any
    try:
        found = json.loads(text, object_pairs_hook=_members_once)
        kind, version = found["kind"], found["version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        kind = version = None
    if kind != _KIND:
        raise SetupError(f"The file {path} is not a key file of Patronus, or is damaged; put its backup back.")
    if isinstance(version, int) and version > _VERSION:
        raise SetupError(
            f"The key file {path} is of version {version}, newer than this program, which reads {_VERSION}; update "
            "patronus-face."
        )
    try:
        content = _KeyFile.model_validate_json(text)
    except ValidationError:
        content = None
    if content is None or content.check != _check(content.secret, found):
        raise SetupError(
            f"The key file {path} is damaged; put its backup back, since a new key cannot open what it sealed."
        )
    return content
