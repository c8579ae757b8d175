"""A profile as its attackers meet it: templates as they cross the wire, and what a stolen key makes of them."""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_service.protection.keys import EpochKey, GalleryKey
from edge_service.protection.profiles.files import Profile
from edge_service.protection.protect import Protector
from edge_service.protection.seal import seal_matrix

Rows = NDArray[np.float32]
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
        """What who has the key makes of templates: the seal undone."""
        if not self.seals:
            return templates
        return np.asarray(templates @ seal_matrix(self.key(gallery, epoch), templates.shape[1]))

    def plain(self, unit: Rows, gallery: int = 0) -> Rows:
        """Templates whose seal was undone; anybody can make such ones of pictures of their own, for the profile is
        public: with another gallery number they differ by the keyed seed alone.
        """
        return self.opened(self.templates(unit, gallery), gallery)
