"""Changes a gallery's key in place: the cloud gets rotations between seals, and names sealed anew, and no key.

The edge stores no state of a change. The cloud's record names the gallery's current key and the next one. An edge that
was stopped midway, or another edge with the same key, reads both there and continues.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from edge_service.cloud.client import CloudClient
from edge_service.gallery_contexts import GalleryContexts
from edge_service.protection.keys import EpochKey, KeyStore
from edge_service.protection.names import SealedNames, SubjectNames, new_epoch
from edge_service.protection.seal import rotation
from edge_service.workers import Workers
from shared.contract import Contract
from shared.envelope import RotationMatrix
from shared.errors import Conflict
from shared.wire.cloud import NextName, RekeyRequest, RekeyStatus, Rotation

# How long a request waits before it answers 202; less than the command line waits for an answer.
_MOST_SECONDS: Final = 15.0
# How often the cloud is asked for its progress.
_POLL_SECONDS: Final = 0.5
# Bytes of matrices in one request: 24 of 128 times 128 values. One alone may be larger: the cloud takes 16 MiB.
_BYTES_A_REQUEST: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryRekey:
    """Changes of galleries' keys.

    Attributes:
        cloud: where galleries are.
        keys: keys of this edge.
        galleries: cached contracts and keys of galleries.
        workers: where rotations and names are made.
        changing: one change at a time of each gallery.
    """

    cloud: CloudClient
    keys: KeyStore
    galleries: GalleryContexts
    workers: Workers
    changing: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    async def change(self, gallery: str, epoch: str | None) -> RekeyStatus:
        """Changes a gallery's key, or continues a change; returns when it is done, or after 15 s.

        Args:
            gallery: its name.
            epoch: of the new key. None: of the change in progress, else a new one.

        Raises:
            NotFound: there is no such gallery.
            ContractMismatch: this edge cannot make templates under its contract.
            Conflict: the gallery is not sealed, or another change replaced this one.
        """
        async with self.changing[gallery]:
            status = await self.cloud.rekey_status(gallery)
            await self.galleries.key_for(gallery, status.contract)  # refuses what this edge makes no templates for
            wanted = self._wanted(gallery, status, epoch)
            deadline = time.monotonic() + _MOST_SECONDS
            sent: list[str] = []
            while True:
                if status.contract == wanted:
                    self.galleries.forget(gallery)  # templates made from here on are under the new key
                done = status.contract == wanted and status.state != "settling"
                if done or time.monotonic() > deadline:
                    return status
                if status.working:
                    await asyncio.sleep(_POLL_SECONDS)
                    status = await self.cloud.rekey_status(gallery)
                else:
                    if status.next_contract == wanted:
                        # Those sent before again, where there is room: one may have been erased and enrolled again.
                        sent = list(dict.fromkeys([*status.subjects, *sent]))[: _subjects_a_request(wanted.dim)]
                    status = await self._send(gallery, status, wanted, sent if wanted.verify_only else [None])

    def _wanted(self, gallery: str, status: RekeyStatus, epoch: str | None) -> Contract:
        now = status.contract
        if now.seal is None:
            raise Conflict("The gallery's profile does not seal, so it has no key to change.", reason="not_sealed")
        if not self.keys.is_current():
            raise Conflict("The edge's master key was renewed since the edge started; restart the edge first.")
        key = self.keys.gallery(gallery)
        if epoch == now.seal.epoch or (epoch is None and status.state == "settling"):
            return now
        if epoch is None and status.next_contract is not None:
            seal = status.next_contract.seal
            # Another edge may have a newer key than this one; its change is restarted, not continued. And a change of
            # key changes nothing but the seal, whatever the cloud says.
            only_the_key = status.next_contract.model_copy(update={"seal": now.seal}) == now
            if seal is not None and only_the_key and key.of(seal).key_id() == seal.key_id:
                return status.next_contract
        # Seeds stay those of the stored templates, so that every score stays the same. A key from another master key
        # has no such seeds.
        same = key.of(now.seal).key_id() == now.seal.key_id
        seeds = now.seal.seeds or now.seal.epoch
        pin = key.seal_pin(epoch or new_epoch(key), now.seal.scope, seeds if same else None)
        return now.model_copy(update={"seal": pin})

    async def _send(
        self, gallery: str, status: RekeyStatus, wanted: Contract, whose: Sequence[str | None]
    ) -> RekeyStatus:
        """Sends what the change needs next: rotations, and names under the next key."""
        rotations: list[Rotation] = []
        names: list[NextName] = []
        if status.contract != wanted:
            old, new = [await self.galleries.key_for(gallery, each) for each in (status.contract, wanted)]
            if old != new:  # under another master key
                await self.workers.run(self.keys.keep_picture_ids, old)
            seals = old.of(status.contract.seal), new.of(wanted.seal)
            present = (await self.galleries.with_contract(gallery, status.contract_digest)).names
            rotations = await self.workers.run(_rotations, *seals, whose, wanted.dim, present)
            if status.next_contract == wanted:
                names = await self.workers.run(_next_names, status.unnamed, present, SealedNames(seals[1]))
        return await self.cloud.rekey(
            gallery,
            RekeyRequest(contract=wanted, replaces=status.contract_digest, rotations=rotations, names=names),
        )


def _subjects_a_request(dim: int) -> int:
    return max(1, _BYTES_A_REQUEST // (11 * dim * dim))  # 8 bytes, and a third more in base64


def _rotations(
    old: EpochKey, new: EpochKey, whose: Sequence[str | None], dim: int, names: SubjectNames
) -> list[Rotation]:
    """The rotation from an old seal to a new one, for the gallery (None) or for each subject, as the cloud calls it."""
    rotations = []
    for stored in whose:
        subject = None if stored is None else names.shown(stored)
        keys = (old, new) if subject is None else (old.of_subject(subject), new.of_subject(subject))
        rotations.append(Rotation(subject=stored, matrix=RotationMatrix.pack(rotation(*keys, dim))))
    return rotations


def _next_names(whose: Sequence[str], present: SubjectNames, following: SealedNames) -> list[NextName]:
    return [NextName(subject=each, sealed=following.stored(present.shown(each))) for each in whose]
