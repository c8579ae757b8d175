"""A profile as its attackers meet it: templates as they cross the wire, and what a stolen key makes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_service.protection.keys import EpochKey, GalleryKey
from edge_service.protection.profiles.document import ANY_EMBEDDER
from edge_service.protection.profiles.files import Profile
from edge_service.protection.protect import Protector
from edge_service.protection.seal import seal_matrix
from edge_service.vision.embed import EMBEDDERS, SFACE
from lab.attacks.attackers import Attacker
from lab.data.embedders import Encoder, open_encoder
from lab.data.splits import TEST
from lab.data.verification import Rows
from lab.evaluation.reconstruction import Cases, Outcome
from shared.errors import SetupError

_FIRST_EPOCH: Final = "0" * 15


class Target:
    """A profile under attack, run by the edge's own code in ONNX Runtime.

    Galleries are told apart by a number; each has a key of its own, and so has each of its epochs. They are as random
    to an attacker as any, and the same in every run.

    Args:
        profile: any.

    Raises:
        SetupError: the profile's network is not what the profile says.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._protector = Protector(profile)

    @property
    def seals(self) -> bool:
        """Whether templates are sealed; else what crosses the wire is what a stolen key would give."""
        return self.profile.seals

    def key(self, gallery: int, epoch: int = 0) -> EpochKey:
        """The key of a gallery and epoch."""
        secret = hashlib.sha256(b"red team gallery %d" % gallery).digest()
        return GalleryKey(f"red-team-{gallery}", secret).epoch(f"{_FIRST_EPOCH}{epoch}")

    def templates(self, unit: Rows, gallery: int = 0, epoch: int = 0) -> Rows:
        """What a cloud stores: (n, d) float32 unit rows to (n, d) float32 unit rows."""
        made = self._protector.templates(np.ascontiguousarray(unit), self.key(gallery, epoch), sealed=self.seals)
        return made.templates

    def one_by_one(self, unit: Rows, subjects: NDArray[np.int64], gallery: int = 0) -> Rows:
        """What a cloud stores of a verify-only gallery, where each subject has a seal of its own.

        Args:
            unit: (n, d) float32 unit rows.
            subjects: (n,) whose each is.
            gallery: which.
        """
        made = np.empty_like(unit)
        key = self.key(gallery)
        for one in np.unique(subjects):
            own = subjects == one
            rows = np.ascontiguousarray(unit[own])
            made[own] = self._protector.templates(rows, key.of_subject(str(one)), sealed=self.seals).templates
        return made

    def opened(self, templates: Rows, gallery: int = 0, epoch: int = 0) -> Rows:
        """Undoes the seal, as an attacker with the key does."""
        if not self.seals:
            return templates
        return np.asarray(templates @ seal_matrix(self.key(gallery, epoch), templates.shape[1]))

    def plain(self, unit: Rows, gallery: int = 0) -> Rows:
        """Templates whose seal was undone; anybody can make such ones of pictures of their own, for the profile is
        public: with another gallery number they differ by the keyed seed alone.
        """
        return self.opened(self.templates(unit, gallery), gallery)


def encoder_of(profile: Profile, wanted: str | None) -> Encoder:
    """The embedder that a profile is for, or the one wanted where it is for any.

    Raises:
        SetupError: the profile is for another one.
    """
    document = profile.document
    name = wanted or (SFACE.name if document.embedder == ANY_EMBEDDER else document.embedder)
    if wanted is None and document.embedder != ANY_EMBEDDER and name not in EMBEDDERS:
        raise SetupError(
            f"The profile {document.name} is for {name}, an embedder of one's own; name its file: --embedder."
        )
    encoder = open_encoder(name)
    if document.embedder_sha256 not in (None, encoder.sha256):
        raise SetupError(
            f"The profile {document.name} is for the embedder {document.embedder} (SHA-256 "
            f"{(document.embedder_sha256 or '')[:12]}…), and {encoder.name} is another one ({encoder.sha256[:12]}…)."
        )
    return encoder


def tau_of(profile: Profile, encoder: Encoder, asked: float | None) -> float:
    """The cosine threshold that a profile was calibrated at, else the one asked for, else the embedder's.

    Raises:
        SetupError: the profile's is another one than the one asked for, or there is none.
    """
    threshold = profile.document.threshold
    if threshold is not None:
        if asked not in (None, threshold.cosine):
            raise SetupError(
                f"The profile {profile.document.name} was calibrated at cosine {threshold.cosine:g}; leave --tau out."
            )
        return threshold.cosine
    tau = encoder.tau if asked is None else asked
    if tau is None:
        raise SetupError(f"The threshold of {encoder.name} is not known; give your system's with --tau.")
    return tau


# What an attacker knows.
CLEAN: Final = "learned on unprotected embeddings"
OTHER_KEYS: Final = "learned on templates of other keys"
KEY: Final = "attacker with the key"
# What is attacked.
PLAIN: Final = "unprotected embeddings"
WIRE: Final = "templates as stored by the cloud"
OPENED: Final = "templates, the seal undone"


@dataclass(slots=True, kw_only=True)
class AttackContext(Cases):
    """Attacker, people and judges.

    Attributes:
        attacker: who attacks.
        target: the profile.
        tau: cosine of the unchanged threshold.
        wire: (n, d) templates of all labelled faces, in the gallery that is attacked.
        opened: the same with the seal undone.
        seed: of draws.
    """

    attacker: Attacker
    target: Target
    tau: float
    wire: Rows
    opened: Rows
    seed: int = 0

    @property
    def clean(self) -> Rows:
        """(n, d) unprotected embeddings of all labelled faces."""
        return self.labelled.unit

    def test_people(self, pictures: int) -> dict[int, NDArray[np.int64]]:
        """People who test and have so many pictures or more, with their rows."""
        rows = self.labelled.rows(TEST)
        order = rows[np.argsort(self.labelled.people[rows], kind="stable")]
        people, starts = np.unique(self.labelled.people[order], return_index=True)
        parts = np.split(order, starts[1:])
        return {int(one): part for one, part in zip(people, parts, strict=True) if len(part) >= pictures}


def row(attack: str, knows: str, on: str, outcome: Outcome, **more: Any) -> dict[str, Any]:
    """A row of the report."""
    return {"attack": attack, "knows": knows, "on": on, **more, **asdict(outcome)}


def surfaces(context: AttackContext) -> Mapping[str, Rows]:
    """What there is to attack; with no seal, what crosses the wire is open."""
    found = {PLAIN: context.clean, WIRE: context.wire}
    if context.target.seals:
        found[OPENED] = context.opened
    return found
