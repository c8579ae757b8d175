"""How a gallery's subjects are called at the cloud."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from edge_service.cloud.client import StoredSubjectPath
from edge_service.cloud.recorder import current_recording
from edge_service.protection.keys import EpochKey, KeyStore
from edge_service.protection.names import PlainNames, SealedNames, SubjectNames, seals_names
from shared.contract import Contract
from shared.errors import ContractMismatch, UpstreamFailed
from shared.wire.common import GalleryInfo

OTHER_KEY: Final = (
    "The gallery is under another key than this edge has for it; import the key from the edge that has it (patronus "
    "keys export there, patronus keys import here) or, if it was forgotten here, restore this edge from a backup."
)


@dataclass(frozen=True, slots=True)
class GalleryNames:
    """How a gallery's subjects are called at the cloud.

    Attributes:
        gallery: its name.
        contract: of the gallery.
        contract_digest: of it; a sealed name is sent with it, so that the cloud refuses one under an outdated key.
        names: what turns names into what the cloud holds, and back.
        key: of the contract's epoch; None where names are plain and this edge has not got it.
    """

    gallery: str
    contract: Contract
    contract_digest: str
    names: SubjectNames
    key: EpochKey | None = field(repr=False)

    def at_cloud(self, subject: str) -> StoredSubjectPath:
        """Where a subject is at the cloud.

        Raises:
            Unprocessable: names are plain in this gallery, and no plain name has such characters.
        """
        stored = self.names.stored(subject)
        if (recording := current_recording()) is not None:
            recording.names[stored] = subject  # so that it is known even after a change of the key
        return StoredSubjectPath(self.gallery, stored, self.contract_digest)


def names_of(gallery: str, info: GalleryInfo, keys: KeyStore) -> GalleryNames:
    """How a gallery's subjects are called at the cloud, by its key alone.

    Args:
        gallery: its name.
        info: what the cloud says of it.
        keys: keys of this edge.

    Raises:
        ContractMismatch: names are sealed under a key that is not here.
        UpstreamFailed: the cloud says that they are not sealed, and the key says that they are.
    """
    seal = info.contract.seal
    found = keys.gallery(gallery) if seal is None else keys.named_by(gallery, seal)
    key = None if found is None else found.of(seal)
    names: SubjectNames = PlainNames(gallery)
    if info.sealed_names:
        if key is None:
            raise ContractMismatch(OTHER_KEY, differing=["seal"])
        names = SealedNames(key)
    elif found is not None and seal is not None and seals_names(found, seal.epoch):
        raise UpstreamFailed(
            "The cloud says that this gallery's names are not sealed, but they are; no name was sent to it. Let "
            "its operator look at the record.",
            reason="names_are_sealed",
        )
    return GalleryNames(gallery, info.contract, info.contract.digest(), names, key)
