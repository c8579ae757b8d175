"""Protection profiles: the steps that protect an embedding, as data.

Each folder here is a profile: ``profile.json`` and the files that its steps need. Its digest covers all of them except
the model card, which is for people.
"""

from edge_service.protection.profiles.document import PatronusStep, ProfileDocument, SealStep
from edge_service.protection.profiles.files import (
    DefaultThreshold,
    Profile,
    available,
    check_profile_dimension,
    load_profile,
    write_profile,
)

__all__ = [
    "DefaultThreshold",
    "PatronusStep",
    "Profile",
    "ProfileDocument",
    "SealStep",
    "available",
    "check_profile_dimension",
    "load_profile",
    "write_profile",
]
