"""Base64 in its one canonical form (RFC 4648, sections 3.2 and 3.5): padded, no other characters, no bits left over."""

from __future__ import annotations

import base64
import binascii
from typing import Final

CANONICAL_PATTERN: Final = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$"
"""For JSON schemas."""


def decode_canonical(text: str) -> bytes:
    """The bytes that a text in base64 stands for.

    Raises:
        ValueError: it is not how these bytes are encoded.
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("not base64") from None
    # The decoder ignores the bits of the last character that belong to no byte, so the last few bytes are written anew.
    rest = len(raw) % 3
    if len(text) != 4 * ((len(raw) + 2) // 3) or (rest and base64.b64encode(raw[-rest:]) != text[-4:].encode("ascii")):
        raise ValueError("not canonical base64")
    return raw
