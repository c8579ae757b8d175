"""Protects the embeddings of a file with the edge's own code: no service runs, and no embedding is sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edge_service.cli.arrays import Embeddings, new_arrays_file
from edge_service.cli.cloud_lookup import ask_for_gallery
from edge_service.cli.output import UNPERTURBED, Output
from edge_service.protection.embeddings import unit_rows
from edge_service.protection.keys import PUBLIC_KEY, EpochKey, KeyStore
from edge_service.protection.profiles import Profile, check_profile_dimension, load_profile
from edge_service.protection.protect import Protector
from edge_service.settings import EdgeSettings
from shared.command import counted
from shared.contract import Contract
from shared.errors import BadRequest, Conflict, ContractMismatch, SetupError
from shared.service_settings import load_settings
from shared.wire.common import GalleryInfo

_OTHERWISE: Final = ", or give with --contract what `patronus gallery show GALLERY --json` printed"
# Embeddings a batch: the progress bar moves about once a second.
_ROWS: Final = 2048


@dataclass(frozen=True, slots=True)
class Chosen:
    """How to protect.

    Attributes:
        profile: the protection steps.
        key: gives the seeds and the seal.
        sealed: whether the profile's seal is applied.
        dim: dimension of an embedding: the gallery's, else the profile's.
    """

    profile: Profile
    key: EpochKey = field(repr=False)
    sealed: bool
    dim: int


def choose(name: str | None, gallery: str | None, contract: Path | None, subject: str | None) -> Chosen:
    """The profile and the key, from this edge's settings and key folder.

    Args:
        name: of the profile; None: the one that the edge is set to.
        gallery: whose key; None: the public key and no seal.
        contract: file with the cloud's answer about the gallery, as JSON; None: the cloud is asked.
        subject: whose embeddings they all are, for a verify-only gallery.

    Raises:
        SetupError: no such profile, no key here, or a profile for another dimension than the gallery's.
        BadRequest: the file is not about this gallery.
        NotFound: there is no such gallery.
        ContractMismatch: the gallery was made under another profile.
        Conflict: the gallery is under another key, or exactly one of these holds: it is verify-only, and a subject is
            named.
        UpstreamUnavailable: the cloud is to be asked and does not answer.
    """
    settings = load_settings(EdgeSettings)
    profile = load_profile(settings.profile if name is None else name, own=settings.profiles)
    if gallery is None:
        step = profile.document.patronus
        if step is None:
            raise SetupError(f"Without its seal the profile {profile.pin.name!r} protects nothing; name a --gallery.")
        return Chosen(profile, PUBLIC_KEY, sealed=False, dim=step.dim)
    if not (settings.home / "master.key").exists():
        raise SetupError(f"There is no edge's key in {settings.home}; name the edge's folder with PATRONUS_HOME.")
    keys = KeyStore(settings.home, may_make=False)
    info = ask_for_gallery(gallery, settings, _OTHERWISE) if contract is None else _saved_info(gallery, contract)
    key = _key_of(keys, gallery, profile, info.contract, subject)
    check_profile_dimension(profile, info.contract.dim)
    return Chosen(profile, key, sealed=True, dim=info.contract.dim)


def protect_file(source: Path, target: Path, chosen: Chosen, out: Output, *, force: bool) -> None:
    """Writes templates (n, d), angles (n,) in radians, and norms (n,) of the embeddings; all float32.

    Raises:
        BadRequest: the source cannot be used.
        Unprocessable: an embedding cannot be used.
        Conflict: the target exists.
    """
    embeddings = Embeddings(source)
    profile = chosen.profile
    protector = Protector(profile)
    angles: list[NDArray[np.float32]] = []
    norms: list[NDArray[np.float32]] = []
    unperturbed = done = 0
    with new_arrays_file(target, force=force) as arrays, out.progress() as progress:
        bar = progress.add_task("protecting", total=embeddings.count)
        with arrays.rows("templates", embeddings.count, embeddings.dim) as templates:
            for batch in embeddings.batches(_ROWS):
                unit, lengths = unit_rows(batch, profile, chosen.dim, first=done)
                made = protector.templates(unit, chosen.key, sealed=chosen.sealed)
                templates.write(np.ascontiguousarray(made.templates, dtype="<f4").tobytes())
                angles.append(made.angles)
                norms.append(lengths)
                unperturbed += made.unperturbed
                done += len(batch)
                progress.advance(bar, len(batch))
        arrays.put("angles", np.concatenate(angles))
        arrays.put("norms", np.concatenate(norms))
    sealed = chosen.sealed and profile.seals
    summary = {
        "protected": embeddings.count,
        "unperturbed": unperturbed,
        "profile": profile.pin.name,
        "sealed": sealed,
    }
    written = counted(embeddings.count, "sealed template" if sealed else "template") + (
        "" if sealed else ", NOT sealed,"
    )
    left = f"; {counted(unperturbed, *UNPERTURBED)}" if unperturbed else ""
    out.result(summary, f"{target}: {written} under the profile {profile.pin.name}{left}.")


def _saved_info(gallery: str, contract: Path) -> GalleryInfo:
    try:
        info = GalleryInfo.model_validate_json(contract.read_bytes())
    except OSError as error:
        raise BadRequest(f"{contract}: cannot be read ({error.strerror}).") from None
    except ValidationError:
        raise BadRequest(f"{contract}: is not what `patronus gallery show {gallery} --json` prints.") from None
    if info.gallery != gallery:
        raise BadRequest(f"{contract}: is of the gallery {info.gallery}, not of {gallery}.")
    return info


def _key_of(keys: KeyStore, gallery: str, profile: Profile, contract: Contract, subject: str | None) -> EpochKey:
    seal = contract.seal
    if contract.profile != profile.pin or (seal is not None) != profile.seals:
        raise ContractMismatch(
            f"The gallery was made under the profile {contract.profile.name!r}, and this is {profile.pin.name!r} as it "
            "is here; name that one, or put its files here."
        )
    if subject is not None and not contract.verify_only:
        raise Conflict("The gallery is not verify-only; leave --subject out.")
    if contract.verify_only and subject is None:
        raise Conflict(
            "The gallery is verify-only; name the subject whose embeddings they all are with --subject, or have those "
            "of many protected with patronus migrate --out."
        )
    if seal is None:
        return keys.gallery(gallery).of(None)
    key = keys.named_by(gallery, seal)
    if key is None:
        raise Conflict("This edge does not have the key of this gallery; import it: patronus keys import")
    made = key.of(seal)
    return made if subject is None else made.of_subject(subject)
