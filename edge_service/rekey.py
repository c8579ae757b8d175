"""Changes a gallery's key in place: the cloud gets a rotation from the old seal to the new one, and no key.

Nothing of this is kept at the edge. Both keys follow from the gallery's, and which of them the gallery is under, and
which one it is being turned to, stand in the cloud's record: an edge that was stopped in between, or another one with
the same key, finds both there and goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_service.cloud_client import CloudClient
from edge_service.gallery_contexts import GalleryContexts
from edge_service.protection.keys import EpochKey, KeyStore, new_epoch
from edge_service.protection.seal import rotation
from edge_service.workers import Workers
from shared.contract import Contract
from shared.errors import Conflict
from shared.rotation import RotationMatrix
from shared.wire.cloud import RekeyRequest, RekeyStatus, Rotation

# How long a caller waits before it is told to come again; under the command line's patience with an answer.
_PATIENCE_SECONDS: Final = 15.0
# How often the cloud is asked how far it is.
_PAUSE_SECONDS: Final = 0.5
# Bytes of matrices in one request: 24 of 128 times 128 values. One alone may be larger: the cloud takes 16 MiB.
_BYTES_A_REQUEST: Final = 4 * 1024 * 1024


class Rekeying:
    """What ``…/rekey`` does.

    Args:
        cloud: where galleries are.
        keys: this edge's.
        galleries: what this edge knows of them.
        workers: where matrices are made.
    """

    def __init__(self, *, cloud: CloudClient, keys: KeyStore, galleries: GalleryContexts, workers: Workers) -> None:
        self._cloud = cloud
        self._keys = keys
        self._galleries = galleries
        self._workers = workers
        self._changing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def change(self, gallery: str, epoch: str | None) -> RekeyStatus:
        """Changes a gallery's key, or goes on with a change; returns when it is done, or after some seconds.

        Args:
            gallery: its name.
            epoch: of the new key. None: of the change that is under way, and if there is none, a new one.

        Raises:
            NotFound: there is no such gallery.
            ContractMismatch: it is under a contract that is not this edge's.
            Conflict: it is not sealed, or another change took this one's place.
        """
        async with self._changing[gallery]:
            status = await self._cloud.rekey_status(gallery)
            wanted = self._wanted(gallery, status, epoch)
            deadline = time.monotonic() + _PATIENCE_SECONDS
            sent: list[str] = []
            while True:
                if status.contract == wanted:
                    self._galleries.forget(gallery)  # the cloud has turned; what is made from here on is new
                done = status.contract == wanted and status.state != "settling"
                if done or time.monotonic() > deadline:
                    return status
                if status.working:
                    await asyncio.sleep(_PAUSE_SECONDS)
                    status = await self._cloud.rekey_status(gallery)
                else:
                    if status.next_contract == wanted:
                        # Those of before once more where there is room: who left and came back is there anew.
                        sent = list(dict.fromkeys([*status.subjects, *sent]))[: _subjects_a_request(wanted.dim)]
                    status = await self._sent(gallery, status, wanted, sent if wanted.verify_only else [None])

    async def status(self, gallery: str) -> RekeyStatus:
        """How far a change is."""
        return await self._cloud.rekey_status(gallery)

    async def abandon(self, gallery: str) -> RekeyStatus:
        """Gives a change up, where the gallery is still under its old key."""
        return await self._cloud.abandon_rekey(gallery)

    def _wanted(self, gallery: str, status: RekeyStatus, epoch: str | None) -> Contract:
        now = status.contract
        self._galleries.checked(gallery, now)
        if now.seal is None:
            raise Conflict(
                "The gallery's profile does not seal: there is no key of it to be changed.", reason="not_sealed"
            )
        key = self._keys.gallery(gallery)
        if epoch == now.seal.epoch or (epoch is None and status.state == "settling"):
            return now
        if epoch is None and status.next_contract is not None:
            seal = status.next_contract.seal
            # Another edge's newest key may not be this edge's: its change is not gone on with, but begun anew.
            if seal is not None and key.of(seal).key_id() == seal.key_id:
                return status.next_contract
        # Seeds stay those that the stored templates were made with, so that every score stays what it is. A key from
        # another master key has no such seeds.
        same = key.of(now.seal).key_id() == now.seal.key_id
        seeds = now.seal.seeds or now.seal.epoch
        pin = key.seal_pin(epoch or new_epoch(), now.seal.scope, seeds if same else None)
        return now.model_copy(update={"seal": pin})

    async def _sent(
        self, gallery: str, status: RekeyStatus, wanted: Contract, whose: Sequence[str | None]
    ) -> RekeyStatus:
        old_seal, new_seal = status.contract.seal, wanted.seal
        assert old_seal is not None  # noqa: S101 - checked above
        assert new_seal is not None  # noqa: S101
        old = self._galleries.checked(gallery, status.contract).of(old_seal)
        new = self._galleries.checked(gallery, wanted).of(new_seal)
        rotations = (
            [] if status.contract == wanted else await self._workers.run(_rotations, old, new, whose, wanted.dim)
        )
        return await self._cloud.rekey(
            gallery, RekeyRequest(contract=wanted, replaces=status.contract_digest, rotations=rotations)
        )


def _subjects_a_request(dim: int) -> int:
    return max(1, _BYTES_A_REQUEST // (11 * dim * dim))  # 8 bytes, and a third more in base64


def _rotations(old: EpochKey, new: EpochKey, whose: Sequence[str | None], dim: int) -> list[Rotation]:
    return [
        Rotation(subject=subject, matrix=RotationMatrix.pack(_between(old, new, subject, dim))) for subject in whose
    ]


def _between(old: EpochKey, new: EpochKey, subject: str | None, dim: int) -> NDArray[np.float64]:
    if subject is None:
        return rotation(old, new, dim)
    return rotation(old.of_subject(subject), new.of_subject(subject), dim)
