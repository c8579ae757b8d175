"""Exports a gallery's key to another edge, encrypted under a passphrase."""

from __future__ import annotations

import base64
import secrets
from typing import Annotated, Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, ValidationError

from edge_service.protection.keys import KEY_BYTES, GalleryKey
from shared.errors import BadRequest
from shared.names import GalleryName
from shared.strict_types import JsonInteger, One

MIN_PASSPHRASE: Final = 12
_NONCE_BYTES: Final = 12
# scrypt with 128 MiB and some 0.3 s a guess, against guessing of weak passphrases.
_LOG2_N: Final = 17
_BLOCK: Final = 8


class WrappedKey(BaseModel):
    """The file that ``patronus keys export`` writes. Useless without the passphrase."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["patronus-gallery-key"] = "patronus-gallery-key"
    version: One = 1
    gallery: GalleryName
    # Bounded, so that a hostile file cannot ask for all of the memory.
    scrypt_log2_n: Annotated[JsonInteger, Field(ge=14, le=20)]
    salt: Annotated[Base64Bytes, Field(min_length=16, max_length=64)]
    nonce: Annotated[Base64Bytes, Field(min_length=_NONCE_BYTES, max_length=_NONCE_BYTES)]
    # The key; and the secret that ids of pictures follow from, where that is not derived from the key.
    sealed: Annotated[Base64Bytes, Field(min_length=KEY_BYTES + 16, max_length=2 * KEY_BYTES + 16)]


def wrap(key: GalleryKey, passphrase: str) -> str:
    """A gallery's key as JSON text under a passphrase (scrypt, AES-256-GCM).

    Raises:
        BadRequest: the passphrase is too short.
    """
    if len(passphrase) < MIN_PASSPHRASE:
        raise BadRequest(f"A passphrase needs at least {MIN_PASSPHRASE} characters.")
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(_NONCE_BYTES)
    cipher = AESGCM(_stretch(passphrase, salt, _LOG2_N))
    sealed = cipher.encrypt(nonce, key.secret + (key.ids or b""), _bound_to(key.gallery))
    return WrappedKey(
        gallery=key.gallery,
        scrypt_log2_n=_LOG2_N,
        salt=base64.b64encode(salt),
        nonce=base64.b64encode(nonce),
        sealed=base64.b64encode(sealed),
    ).model_dump_json(indent=1)


def unwrap(text: str | bytes, passphrase: str) -> GalleryKey:
    """The gallery's key from a text that ``wrap`` returned.

    Raises:
        BadRequest: not such a file, or the passphrase is wrong, or the file was changed.
    """
    try:
        file = WrappedKey.model_validate_json(text)
    except ValidationError:
        raise BadRequest("This is not a file that `patronus keys export` wrote.") from None
    cipher = AESGCM(_stretch(passphrase, file.salt, file.scrypt_log2_n))
    try:
        secrets_of_gallery = cipher.decrypt(file.nonce, file.sealed, _bound_to(file.gallery))
    except InvalidTag:
        raise BadRequest("The passphrase is wrong, or the file was changed since it was written.") from None
    return GalleryKey(file.gallery, secrets_of_gallery[:KEY_BYTES], secrets_of_gallery[KEY_BYTES:] or None)


def _stretch(passphrase: str, salt: bytes, log2_n: int) -> bytes:
    return Scrypt(salt=salt, length=KEY_BYTES, n=2**log2_n, r=_BLOCK, p=1).derive(passphrase.encode())


def _bound_to(gallery: str) -> bytes:
    return b"patronus gallery key v1 " + gallery.encode()
