"""One-time codes by which a browser on this machine signs in to the console.

Whoever can write the edge's private folder can make one: a command line beside the edge, or in its container. The edge
exchanges it for an API key. Only its digest is kept, in a private file.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.logs import get_logger
from shared.names import HexDigest
from shared.security.secret_files import locked, read_secret, remove_leftovers, write_secret

_log = get_logger(__name__)
CODE_SECONDS: Final = 600
# Further ones push the oldest out.
_MOST_CODES: Final = 16
_CODE: Final = re.compile(r"[A-Za-z0-9_-]{43}")


class _Code(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    digest: HexDigest
    expires: float = Field(description="seconds since 1970")


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    codes: list[_Code]


class SignInCodes:
    """The codes that were made and not used yet, in a file that several processes change.

    Args:
        path: the file of digests, such as ``PATRONUS_HOME/edge/sign_in_codes.json``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> str:
        """Makes a code: 256 random bits, valid once, for ten minutes.

        Raises:
            SetupError: the folder cannot be written.
        """
        code = secrets.token_urlsafe(32)
        with locked(self.path):
            remove_leftovers(self.path)
            kept = [*self._valid(), _Code(digest=_digest(code), expires=time.time() + CODE_SECONDS)]
            self._write(kept[-_MOST_CODES:])
        return code

    def use(self, code: str) -> bool:
        """Takes a code out; whether it was valid. Of two that use it at once, one gets true.

        Raises:
            SetupError: the folder cannot be written, so that the code could be used again.
        """
        if not _CODE.fullmatch(code):
            return False
        digest = _digest(code)
        # A digest of 256 random bits: the time that a comparison takes reveals nothing of use.
        if all(known.digest != digest for known in self._valid()):
            return False
        with locked(self.path):
            valid = self._valid()
            left = [known for known in valid if known.digest != digest]
            if len(left) < len(valid):
                self._write(left)
        return len(left) < len(valid)

    def _valid(self) -> list[_Code]:
        """Codes whose time has not come; a clock that was set back does not make them last longer."""
        try:
            codes = _File.model_validate_json(read_secret(self.path)).codes
        except FileNotFoundError:
            return []
        except ValidationError:
            _log.warning("sign_in_codes_damaged", file=str(self.path))  # the next code replaces the file
            return []
        now = time.time()
        return [code for code in codes if 0 < code.expires - now <= CODE_SECONDS]

    def _write(self, codes: list[_Code]) -> None:
        write_secret(self.path, _File(codes=codes).model_dump_json(indent=1).encode(), replace=True)


def sign_in_link(edge_url: str, codes: SignInCodes) -> str:
    """A link that signs a browser in, once.

    The code is behind ``#``: browsers send that part to no server, and no log has it.

    Args:
        edge_url: where the browser reaches the edge.
        codes: of this edge.

    Raises:
        SetupError: the edge's folder cannot be written.
    """
    return f"{edge_url.rstrip('/')}/#sign-in={codes.make()}"


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode("ascii")).hexdigest()
