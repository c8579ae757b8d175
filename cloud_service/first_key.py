"""What ``patronus cloud init`` does."""

from __future__ import annotations

from pathlib import Path

from cloud_service.settings import Settings
from shared.errors import SetupError
from shared.security.key_ring import KeyRing
from shared.security.secret_files import locked, read_secret, remove_leftovers, write_secret
from shared.service_settings import load_settings


def make_first_key(api_key_out: Path | None) -> str:
    """Makes the home folder and the first API key, and leaves a copy of that where it is wanted; says what was done.

    Raises:
        SetupError: the folder cannot be written, or a copy is wanted of a key that is not there any more.
    """
    settings = load_settings(Settings)
    ring = KeyRing(settings.keys_file)
    made = ring.ensure_first_key(settings.first_key_file)
    if api_key_out is not None and _key_in(api_key_out, ring) is None:
        key = _key_in(settings.first_key_file, ring)
        if key is None:
            raise SetupError(
                f"The first API key is not in {settings.first_key_file} any more, or was revoked; "
                "make another: patronus cloud keys create --out FILE."
            )
        with locked(ring.path):
            remove_leftovers(api_key_out)
            write_secret(api_key_out, f"{key}\n".encode("ascii"), replace=True)
    if made:
        return f"The first API key is in {settings.first_key_file}."
    return "The cloud has API keys already."


def _key_in(path: Path, ring: KeyRing) -> str | None:
    """The API key in a private file if it is valid here, else None."""
    try:
        key = read_secret(path).decode("ascii", errors="replace").strip()
    except FileNotFoundError:
        return None
    return key if ring.check(key) else None
