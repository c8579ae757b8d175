"""A gallery's key as the cloud sees it: contracts that differ in the seal, and rotations between them."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.contract import Contract, SealPin
from shared.envelope import RotationMatrix
from tests.support.cloud_client import contract_of, enveloped, unit

Rows = NDArray[np.float32]


@cache
def _haar(name: str, dim: int) -> NDArray[np.float64]:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))
    return np.asarray(q * np.sign(np.diagonal(r)))


# Of each key by its number and scope: what it calls subjects; and what the names of all keys say.
_NAMES: dict[tuple[int, bool], dict[str, str]] = {}
_PLAIN: dict[str, str] = {}


def plain(name: str) -> str:
    """What a name says that a key of these tests sealed; a plain one says itself."""
    return _PLAIN.get(name, name)


@dataclass(frozen=True)
class Key:
    """One epoch's key of a gallery, or of each of its subjects."""

    dim: int
    number: int
    verify_only: bool = False

    @property
    def contract(self) -> Contract:
        scope = "subject" if self.verify_only else "gallery"
        pin = SealPin(key_id=f"{self.number:032x}", epoch=f"{self.number:016x}", scope=scope)
        return contract_of(self.dim).model_copy(update={"seal": pin})

    def seal(self, subject: str = "") -> NDArray[np.float64]:
        """(dim, dim) float64, orthogonal."""
        return _haar(f"{self.number} {subject if self.verify_only else ''}", self.dim)

    def template(self, row: Rows, subject: str = "") -> Rows:
        """What the edge makes of an embedding."""
        return unit(self.seal(subject) @ row.astype(np.float64))

    def envelope(self, row: Rows, subject: str = "") -> dict[str, Any]:
        return enveloped(self.template(row, subject), self.contract)

    def name(self, subject: str) -> str:
        """What the cloud is told of a subject, in place of its name."""
        digest = hashlib.sha512(f"{self.number} {self.verify_only} {subject}".encode()).digest()
        sealed = "~" + base64.urlsafe_b64encode(digest).decode().rstrip("=")
        _PLAIN[sealed] = subject
        return _NAMES.setdefault((self.number, self.verify_only), {}).setdefault(subject, sealed)

    def rekey(self, after: Key, *subjects: str) -> dict[str, Any]:
        """The request that changes this key to another, with the next name of all whom this key named.

        Args:
            after: the other key.
            subjects: of a verify-only gallery: those whose matrices are sent, by plain or sealed names.
        """
        named = (plain(subject) for subject in subjects)
        turns = [_turn(self, after, subject) for subject in (named if self.verify_only else ("",))]
        mine = _NAMES.get((self.number, self.verify_only), {})
        return {
            "names": [{"subject": sealed, "sealed": after.name(subject)} for subject, sealed in mine.items()],
            "contract": after.contract.model_dump(mode="json"),
            "replaces": self.contract.digest(),
            "rotations": turns,
        }


def _turn(before: Key, after: Key, subject: str) -> dict[str, Any]:
    matrix = RotationMatrix.pack(after.seal(subject) @ before.seal(subject).T).model_dump(mode="json")
    return {"matrix": matrix} | ({"subject": before.name(subject)} if before.verify_only else {})
