"""Protection profiles: which steps an embedding goes through before it may leave. Data, not code paths.

A folder here is a profile: ``profile.json`` and the files that its steps need. Its digest covers all of them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from shared.contract import ProfilePin
from shared.errors import SetupError

_FOLDER: Final = Path(__file__).parent
_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)
_Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


class SealStep(BaseModel):
    """Turn by the secret rotation of the gallery's epoch."""

    model_config = _STRICT

    kind: Literal["seal"]


class ProfileDocument(BaseModel):
    """What ``profile.json`` holds."""

    model_config = _STRICT

    version: Literal[1]
    name: _Name
    summary: str
    embedder: str = Field(description="the embedder that the profile was made for, or `any`")
    # In this order. A seal is the last step: whatever came after it would work on a space that nothing is known of.
    steps: Annotated[list[SealStep], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile that was read and checked.

    Attributes:
        document: the steps.
        pin: name, version and digest over all files, for the contract.
    """

    document: ProfileDocument
    pin: ProfilePin

    @property
    def seals(self) -> bool:
        """Whether templates are sealed under the gallery's key."""
        return self.document.steps[-1].kind == "seal"


def available() -> list[str]:
    """The names of the profiles that come with Patronus."""
    return sorted(found.parent.name for found in _FOLDER.glob("*/profile.json"))


def load_profile(name: str, embedder: str, folder: Path = _FOLDER) -> Profile:
    """Reads a profile.

    Args:
        name: of its folder.
        embedder: the embedder that will run; the profile must be for it.
        folder: where the profiles are.

    Raises:
        SetupError: there is no such profile, it is damaged or newer than this program, or it is for another embedder.
    """
    home = folder / name
    try:
        document = ProfileDocument.model_validate_json((home / "profile.json").read_bytes())
    except (OSError, ValueError) as error:
        known = ", ".join(available())
        why = "is damaged or newer than this program" if isinstance(error, ValidationError) else "is not there"
        raise SetupError(f"The protection profile {name!r} {why}; there are: {known}.") from None
    if document.name != name:
        raise SetupError(f"The protection profile in folder {name!r} calls itself {document.name!r}.")
    if any(step.kind == "seal" for step in document.steps[:-1]):
        raise SetupError(f"The protection profile {name!r} seals before its last step.")
    if document.embedder not in {"any", embedder}:
        raise SetupError(f"The protection profile {name!r} is for {document.embedder}; this edge runs {embedder}.")
    return Profile(document, ProfilePin(name=name, version=document.version, sha256=_digest(home)))


def _digest(home: Path) -> str:
    """SHA-256 over the names and digests of all files, in the order of names."""
    whole = hashlib.sha256()
    for path in sorted(found for found in home.rglob("*") if found.is_file()):
        whole.update(f"{path.relative_to(home).as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()
