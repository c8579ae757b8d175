"""Protects embeddings of a recognition system, in its own process."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_service.protection import protect
from edge_service.protection.embeddings import check_dimension, check_norms, divided, row_norms, unit_rows
from edge_service.protection.key_file import Key
from edge_service.protection.profiles.files import Profile, load_profile
from edge_service.protection.seal import rotation
from shared.contract import Contract
from shared.errors import Conflict, Unprocessable
from shared.strict_types import file_path, wrong_type
from shared.wire.common import Threshold

_log = logging.getLogger("patronus_face")
# Values that are converted, checked and protected together: a batch needs some 20 MB beside the templates.
_VALUES_A_BATCH: Final = 2**20
# Lists: of embeddings, and of the values of each.
_MOST_NESTED: Final = 2


class Protector:
    """Turns embeddings into protected templates, for one gallery and one key. Several threads may share one.

    Templates are compared like the embeddings were: same cosine, same index, same threshold. Protect the stored
    embeddings once, and each probe.

    Example:
        >>> import numpy as np
        >>> from patronus_face import Key, Protector
        >>> protector = Protector.open("default-2", key=Key.load_or_create("acme.key"))
        >>> embeddings = np.random.default_rng(1).normal(size=(3, 128))  # yours, of SFace
        >>> protector.protect(embeddings).shape
        (3, 128)
    """

    def __init__(self, profile: Profile, key: Key, gallery: str, contract: Contract) -> None:
        """``open`` makes one."""
        self._engine = protect.Protector(profile)
        self._key = key
        self._epoch_key = key.gallery_key(gallery).of(contract.seal)
        self._gallery = gallery
        self._contract = contract

    @classmethod
    def open(
        cls,
        profile: str = "default-2",
        *,
        key: Key,
        gallery: str | None = None,
        dim: int | None = None,
        profiles: str | Path | None = None,
    ) -> Self:
        """Loads a profile for a key. The first time, the key's file notes what the key is for; later it must agree.

        Args:
            profile: ``default-2`` (embeddings of SFace), ``dlib``, ``plugin``, one of your own, or ``seal`` (any
                embedder of 16 to 4,096 dimensions).
            key: secret of the templates.
            gallery: a name for all templates that are compared with each other; the key's own if left out, which is
                ``main`` for a new key.
            dim: values of an embedding; only ``seal`` needs it, the first time.
            profiles: folder of your own profiles.

        Raises:
            SetupError: the profile is missing, damaged or for another dimension, or the key's file is damaged.
            Conflict: the key is of another gallery.
            ContractMismatch: the key is for another profile, or for another dimension.
            TypeError: an argument is of another type.

        Example:
            >>> protector = Protector.open("seal", key=Key.load_or_create("arcface.key"), gallery="staff", dim=512)
            >>> Protector.open("default-2", key=Key.load("arcface.key"))  # doctest: +ELLIPSIS
            Traceback (most recent call last):
            ...
            shared.errors.ContractMismatch: The key file arcface.key is for the profile 'seal', and this is ...
        """
        if not isinstance(profile, str):
            raise wrong_type("profile", "the name of a profile", profile)
        _check_key("key", key)
        found = load_profile(profile, own=None if profiles is None else file_path("profiles", profiles))
        opened = cls(found, key, *key.use_for(found, gallery, dim))
        if not found.seals:
            _log.warning("The profile %s does not seal: its templates are nearly embeddings.", found.pin.name)
        return opened

    def protect(self, embeddings: ArrayLike) -> NDArray[np.float32]:
        """Protects embeddings. The same embedding gives the same template.

        Args:
            embeddings: (n, d) or (d,), as the embedder gives them or scaled to length 1. Floating-point numbers of any
                precision and layout; they are converted to float32.

        Returns:
            (n, d) or (d,) float32, of length 1.

        Raises:
            Unprocessable: not such an array, no rows, masked values, another dimension, a value that is not finite, a
                zero vector, or a length that the profile's embedder does not give.
            ProtectionFailed: a step failed; there is no template.

        Example:
            >>> import numpy as np
            >>> protector = Protector.open("seal", key=Key.load_or_create("small.key"), dim=32)
            >>> probe = np.random.default_rng(1).normal(size=32)
            >>> template = protector.protect(probe)
            >>> template.shape, template.dtype
            ((32,), dtype('float32'))
            >>> protector.protect(probe[:31])
            Traceback (most recent call last):
            ...
            shared.errors.Unprocessable: The embeddings have 31 dimensions, and 32 are wanted; ...
        """
        given, alone = _rows(embeddings)
        dim = self._contract.dim
        check_dimension(given.shape[1], dim)
        if given.size <= _VALUES_A_BATCH:  # a probe's way: nothing is computed twice
            unit, _ = unit_rows(_converted(given), self._engine.profile, dim)
            made = self._engine.templates(unit, self._epoch_key)
            templates, unperturbed = made.templates, made.unperturbed
        else:
            templates, unperturbed = self._in_batches(given, dim)
        if unperturbed:
            _log.warning("%d of %d embeddings had no margin and were not perturbed.", unperturbed, len(given))
        return templates[0] if alone else templates

    def _in_batches(self, given: NDArray[np.floating[Any]], dim: int) -> tuple[NDArray[np.float32], int]:
        """Templates, and how many were not perturbed. All rows are checked before one is protected."""
        each = max(1, _VALUES_A_BATCH // dim)
        batches = [slice(start, start + each) for start in range(0, len(given), each)]
        norms = np.concatenate([row_norms(_converted(given[batch])) for batch in batches])
        check_norms(norms, self._engine.profile)
        templates, unperturbed = np.empty(given.shape, np.float32), 0
        for batch in batches:
            made = self._engine.templates(divided(_converted(given[batch]), norms[batch]), self._epoch_key)
            templates[batch] = made.templates
            unperturbed += made.unperturbed
        return templates, unperturbed

    def rekey_matrix(self, new_key: Key) -> NDArray[np.float64]:
        """The rotation that turns stored templates of this key into those of another: ``templates @ matrix.T``.

        Cosines among the turned templates stay the same. Whoever has the matrix and one of the keys has the other's
        seal, so destroy it after use.

        Args:
            new_key: that replaces this one, for the same gallery.

        Returns:
            (d, d) float64, orthogonal.

        Raises:
            Conflict: the profile does not seal, or the new key is this one, or is of another gallery or profile.
            SetupError: the new key's file is missing or damaged.
            TypeError: it is no key.

        Example:
            >>> import numpy as np
            >>> old = Protector.open("seal", key=Key.load_or_create("2025.key"), dim=64)
            >>> new_key = Key.load_or_create("2026.key")
            >>> new = Protector.open("seal", key=new_key, dim=64)
            >>> embedding = np.random.default_rng(1).normal(size=64)
            >>> turned = old.protect(embedding) @ old.rekey_matrix(new_key).T
            >>> np.allclose(turned, new.protect(embedding), atol=1e-6)
            True
        """
        _check_key("new_key", new_key)
        if self._contract.seal is None:
            raise Conflict(
                f"The profile {self._contract.profile.name} does not seal, so no rotation leads to another key; "
                "protect the stored embeddings again.",
                reason="not_sealed",
            )
        if new_key == self._key:
            raise Conflict(f"The key in {new_key.path} is the present one; create another: Key.load_or_create(path).")
        known = new_key.used_for()
        if known is not None and known[0] != self._gallery:
            raise Conflict(
                f"The key file {new_key.path} is of the gallery {known[0]!r}, and this is {self._gallery!r}; create "
                "another."
            )
        if known is not None and (known[1].profile, known[1].dim) != (self._contract.profile, self._contract.dim):
            raise Conflict(
                f"The key file {new_key.path} is for the profile {known[1].profile.name!r} at {known[1].dim} values, "
                f"and this is {self._contract.profile.name!r} at {self._contract.dim}; create another."
            )
        new = new_key.gallery_key(self._gallery).epoch(new_key.epoch)
        return rotation(self._epoch_key, new, self._contract.dim)

    @property
    def contract(self) -> Contract:
        """What two templates must share to be compared: embedder, profile by digest, and the key by a one-way name.

        Example:
            >>> protector = Protector.open(key=Key.load_or_create("acme.key"))
            >>> protector.contract.dim, protector.contract.embedder.name
            (128, 'sface_2021dec')
            >>> len(protector.contract.digest())  # to keep beside the templates
            64
        """
        return self._contract

    @property
    def gallery(self) -> str:
        """The name of the gallery that the key is of.

        Example:
            >>> Protector.open(key=Key.load_or_create("acme.key")).gallery
            'main'
        """
        return self._gallery

    @property
    def threshold(self) -> Threshold | None:
        """The cosine that the profile was calibrated at, and its false match rate there; None under ``seal``.

        A system that has a threshold of its own keeps it.

        Example:
            >>> Protector.open(key=Key.load_or_create("acme.key")).threshold.cosine
            0.384
        """
        return self._engine.profile.document.threshold


def _check_key(what: str, key: object) -> None:
    if not isinstance(key, Key):
        raise wrong_type(what, "a Key, as Key.load_or_create(path) gives it", key)


def _rows(embeddings: ArrayLike) -> tuple[NDArray[np.floating[Any]], bool]:
    """An array as (n, d) of floating-point numbers, n over 0; and whether it was one row."""
    parts = embeddings if isinstance(embeddings, list | tuple) else (embeddings,)
    if any(isinstance(part, np.ma.MaskedArray) and np.ma.is_masked(part) for part in parts):
        raise Unprocessable(
            "The embeddings have masked values, which cannot be protected; give the rows that have none.",
            reason="masked",
        )
    try:
        given: NDArray[Any] = np.asarray(embeddings)
    except ValueError:
        if _nested(embeddings) > _MOST_NESTED:
            raise Unprocessable(
                "The embeddings are a list of lists of lists; give one (d,) or n of them (n, d), n over 0.",
                reason="bad_shape",
            ) from None
        raise Unprocessable(
            "The embeddings are not of one length; give those of one system.", reason="uneven"
        ) from None
    if given.dtype.kind != "f":
        raise Unprocessable(
            f"The embeddings are of type {given.dtype}; give floating-point numbers, such as float32.",
            reason="bad_type",
        )
    if given.ndim not in (1, 2) or not given.size:
        raise Unprocessable(
            f"The embeddings have the shape {given.shape}; give one (d,) or n of them (n, d), n over 0.",
            reason="bad_shape",
        )
    return given.reshape(-1, given.shape[-1]), given.ndim == 1


def _nested(given: object) -> int:
    """How deep the first value of a list lies, up to one more than embeddings may."""
    depth = 0
    while isinstance(given, list | tuple) and given and depth <= _MOST_NESTED:
        given, depth = given[0], depth + 1
    return depth


def _converted(rows: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what becomes infinite is refused as such
        return np.ascontiguousarray(rows, np.float32)
