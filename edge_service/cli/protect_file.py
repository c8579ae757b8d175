"""Protects the embeddings of a file with the edge's own code, without a service."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edge_service.cli.arrays import Embeddings, new_arrays_file, new_rows, put_array
from edge_service.cli.gallery_keys import existing_keys
from edge_service.cli.output import UNPERTURBED, Output
from edge_service.models.files import read_at_most
from edge_service.protection.embeddings import unit_rows
from edge_service.protection.key_file import Key
from edge_service.protection.keys import PUBLIC_KEY, EpochKey, KeyStore
from edge_service.protection.profiles.files import Profile, check_profile_dimension, load_profile
from edge_service.protection.protect import Protector
from edge_service.protection.served_profiles import served_profile
from edge_service.settings import EdgeSettings
from shared.command import counted
from shared.contract import Contract
from shared.errors import BadRequest, Conflict, ContractMismatch, SetupError
from shared.service_settings import load_settings
from shared.wire.common import GalleryInfo
from shared.wire.edge import EdgeGallery

_OTHERWISE: Final = ", or give with --contract what `patronus gallery show GALLERY --json` printed"
# Embeddings a batch: the progress bar moves several times a second.
_ROWS: Final = 2048
# Values of an embedding whose seal is drawn in seconds.
_LONG_TO_DRAW: Final = 2048
_MOST_CONTRACT_BYTES: Final = 1024**2


def protect_file(
    source: Path,
    target: Path,
    out: Output,
    *,
    force: bool,
    name: str | None,
    gallery: str | None,
    contract: Path | None,
    subject: str | None,
    key_file: Path | None,
) -> None:
    """Protects a file's embeddings, with the profile and the key of this edge's settings.

    Args:
        source: with the array embeddings (n, d) float32.
        target: gets templates (n, d), angles (n,) in radians, and norms (n,) of the embeddings; all float32.
        out: where the result is printed.
        force: whether an existing target may be replaced.
        name: of the profile; None: the gallery's, or without a gallery the one that the edge is set to.
        gallery: whose key; None, and no key file either: the public key and no seal.
        contract: file with the cloud's answer about the gallery, as JSON. None: from the cloud.
        subject: whose embeddings they all are, for a verify-only gallery.
        key_file: of a system of the user's own, in place of a gallery; made if missing.

    Raises:
        SetupError: no such profile, no key here, a damaged key file, or a profile for another dimension than the
            gallery's.
        BadRequest: the contract's file is not about this gallery, or the source cannot be used.
        NotFound: there is no such gallery.
        ContractMismatch: the gallery was made, or the key file was used, under another profile than the one named, or
            the gallery under one that this edge does not serve.
        Conflict: the target exists, or the gallery is under another key, or exactly one of these holds: it is
            verify-only, and a subject is named.
        Unprocessable: an embedding cannot be used.
        UpstreamUnavailable: the contract must come from the cloud, which does not answer.
    """
    settings = load_settings(EdgeSettings)
    profile = load_profile(settings.profile if name is None else name, own=settings.profiles)
    embeddings, step = Embeddings(source), profile.document.patronus
    is_new_key = key_file is not None and not key_file.exists()
    if key_file is not None:
        own = Key.load_or_create(key_file)
        named, used = own.use_for(profile, dim=embeddings.dim if step is None else None)
        key, dim = own.gallery_key(named).of(used.seal), used.dim
    elif gallery is not None:
        keys = existing_keys(settings)
        info = _info_of_the_cloud(gallery, settings) if contract is None else _saved_info(gallery, contract)
        if name is None:
            profile = served_profile(info.contract.profile, profile, settings.profiles, settings.weaker_profiles)
        key, dim = _key_of(keys, gallery, profile, info.contract, subject), info.contract.dim
        check_profile_dimension(profile, dim)
    elif step is not None:
        key, dim = PUBLIC_KEY, step.dim
    else:
        raise SetupError(
            f"Without its seal the profile {profile.pin.name!r} protects nothing; name a --key or a --gallery."
        )
    protector, sealed = Protector(profile), key is not PUBLIC_KEY
    angles: list[NDArray[np.float32]] = []
    norms: list[NDArray[np.float32]] = []
    unperturbed = done = 0
    with new_arrays_file(target, force=force) as archive, out.progress() as progress:
        if sealed and dim >= _LONG_TO_DRAW:
            progress.console.print(f"Drawing the seal of {dim:,} values takes up to half a minute.", soft_wrap=True)
        bar = progress.add_task("protecting", total=embeddings.count)
        with new_rows(archive, "templates", embeddings.count, embeddings.dim) as templates:
            for batch in embeddings.batches(_ROWS):
                unit, lengths = unit_rows(batch, profile, dim, first=done)
                made = protector.templates(unit, key, sealed=sealed)
                templates.write(np.ascontiguousarray(made.templates, dtype="<f4").tobytes())
                angles.append(made.angles)
                norms.append(lengths)
                unperturbed += made.unperturbed
                done += len(batch)
                progress.advance(bar, len(batch))
        put_array(archive, "angles", np.concatenate(angles))
        put_array(archive, "norms", np.concatenate(norms))
    sealed = sealed and profile.seals
    summary = {"protected": done, "unperturbed": unperturbed, "profile": profile.pin.name, "sealed": sealed}
    written = counted(done, "sealed template") if sealed else f"{counted(done, 'template')}, NOT sealed,"
    left = f"; {counted(unperturbed, *UNPERTURBED)}" if unperturbed else ""
    out.result(summary, f"{target}: {written} under the profile {profile.pin.name}{left}.")
    if is_new_key:
        out.warn(f"{key_file}: a new key. Keep a backup: without it these templates match nothing.")


def _info_of_the_cloud(gallery: str, settings: EdgeSettings) -> EdgeGallery | GalleryInfo:
    from edge_service.cli.cloud_lookup import ask, find_cloud  # needs what comes with the edge

    return ask(find_cloud(settings), lambda cloud: cloud.gallery(gallery), _OTHERWISE)


def _saved_info(gallery: str, contract: Path) -> EdgeGallery:
    try:
        info = EdgeGallery.model_validate_json(read_at_most(contract, _MOST_CONTRACT_BYTES), strict=True)
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
