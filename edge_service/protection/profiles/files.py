"""Reads profiles, checks them against their digests, and writes them atomically."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from edge_service.models.files import write_whole
from edge_service.protection.profiles.document import ANY_EMBEDDER, NAME_PATTERN, VERSION, ProfileDocument
from edge_service.protection.profiles.score import ScoreCalibration
from shared.contract import MAX_DIM, EmbedderPin, ProfilePin
from shared.errors import Conflict, SetupError
from shared.wire.common import Threshold

_SHIPPED: Final = Path(__file__).parent
DOCUMENT: Final = "profile.json"
# For people. The profile's digest leaves it out, so that its text can be corrected.
CARD: Final = "MODEL_CARD.md"
# Dimensions. A secret rotation of fewer holds too few secret numbers.
_FEWEST_SEALED: Final = 16


@dataclass(frozen=True, slots=True)
class DefaultThreshold:
    """The threshold where a caller names none, and its origin.

    Attributes:
        threshold: cosine, and its false match rate.
        chosen_by: the operator, who set it; the profile, which was calibrated at it; or the embedder, which was
            published with it.
        measured_on: whose faces its false match rate was measured on; `operator`: those that the operator chose.
    """

    threshold: Threshold
    chosen_by: Literal["setting", "profile", "embedder"]
    measured_on: Literal["lfw_adults", "own_profile", "operator"]


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile, read and checked.

    Attributes:
        document: the steps.
        pin: name, version and digest over all files but the model card, for the contract.
        graph: the network's file, whose digest was right; None where no step runs one.
        shipped: whether it comes with Patronus; false for one of the operator's own.
    """

    document: ProfileDocument
    pin: ProfilePin
    graph: bytes | None = field(default=None, repr=False)
    shipped: bool = False

    @property
    def seals(self) -> bool:
        """Whether templates are sealed under the gallery's key."""
        return self.document.kinds[-1] == "seal"

    def default_threshold(
        self, published: Threshold | None, stated: Threshold | None = None
    ) -> DefaultThreshold | None:
        """The threshold where a caller names none: the operator's, else the profile's, else the embedder's.

        Comparisons and new galleries use the same rule.

        Args:
            published: the embedder's own, if it is known.
            stated: the operator's, if there is one.

        Returns:
            None where none of them is known.
        """
        calibrated = self.document.threshold
        if stated is not None:
            return DefaultThreshold(stated, "setting", "operator")
        if calibrated is not None:
            return DefaultThreshold(calibrated, "profile", "lfw_adults" if self.shipped else "own_profile")
        return None if published is None else DefaultThreshold(published, "embedder", "lfw_adults")

    def score_calibration(self, of_embedder: ScoreCalibration | None) -> ScoreCalibration:
        """How subjects with several templates are compared: by the profile, else by the embedder.

        Where neither says so, exponent 0, the mean of the cosines, and equal weights.

        Args:
            of_embedder: the embedder's own.
        """
        return self.document.score or of_embedder or ScoreCalibration()


def available(own: Path | None = None) -> list[str]:
    """The names of the profiles shipped with Patronus, and of those in the operator's folder."""
    folders = [_SHIPPED] if own is None else [_SHIPPED, own]
    return sorted({found.parent.name for folder in folders for found in folder.glob(f"*/{DOCUMENT}")})


def load_profile(
    name: str, embedder: EmbedderPin | None = None, dim: int | None = None, own: Path | None = None
) -> Profile:
    """Reads a profile.

    Args:
        name: of its folder.
        embedder: the embedder that will run; the profile must be for it. None: embeddings come from elsewhere.
        dim: length of its embeddings; None: checked later, with ``check_profile_dimension``.
        own: the operator's folder of profiles, in addition to those shipped with Patronus.

    Raises:
        SetupError: there is no such profile, it is damaged or newer than this program, one of its files is not the one
            it names, or it is for another embedder or dimension.
    """
    profile = read_profile(_place(name, own))
    if embedder is not None:
        _check_embedder(profile.document, embedder)
    if dim is not None:
        check_profile_dimension(profile, dim)
    return profile


def check_profile_dimension(profile: Profile, dim: int) -> None:
    """Refuses a profile that is not for embeddings of this dimension.

    Raises:
        SetupError: its network is for another dimension, or it has none and the dimension is not one to be sealed.
    """
    step, name = profile.document.patronus, profile.document.name
    if step is not None and step.dim != dim:
        raise SetupError(f"The protection profile {name!r} is for {step.dim} dimensions; these embeddings have {dim}.")
    if step is None and not _FEWEST_SEALED <= dim <= MAX_DIM:
        raise SetupError(
            f"The protection profile {name!r} seals {_FEWEST_SEALED} to {MAX_DIM} dimensions, since a secret rotation "
            f"of few is soon found; these embeddings have {dim}."
        )


def read_profile(home: Path) -> Profile:
    """The profile in a folder, whatever embedder it is for.

    Raises:
        SetupError: it is damaged or newer than this program, or a file of it is not the one it names.
    """
    name = home.name
    try:
        files = {path.relative_to(home).as_posix(): path.read_bytes() for path in _files(home)}
        document = _document(name, files[DOCUMENT])
    except (OSError, KeyError):
        raise SetupError(f"The protection profile {name!r} cannot be read whole; put its files back.") from None
    if document.name != name:
        raise SetupError(f"The protection profile in folder {name!r} calls itself {document.name!r}.")
    graph = None
    if document.patronus is not None:
        graph = files.get(document.patronus.file)
        if graph is None:
            raise SetupError(f"The protection profile {name!r} lacks its file {document.patronus.file}; put it back.")
        if hashlib.sha256(graph).hexdigest() != document.patronus.sha256:
            raise SetupError(
                f"The file {document.patronus.file} of the protection profile {name!r} is not the one that the profile "
                "names (its SHA-256 is another); put the right one back."
            )
    pin = ProfilePin(name=name, version=document.version, sha256=_digest(files))
    return Profile(document, pin, graph, shipped=home.parent == _SHIPPED)


def write_profile(
    folder: Path,
    document: ProfileDocument,
    graph: bytes | None = None,
    card: bytes | None = None,
    *,
    replace: bool = False,
) -> Profile:
    """Writes a profile into ``folder / document.name``, by a rename of a finished folder.

    Args:
        folder: of profiles; made if missing.
        document: whose patronus step, if there is one, names the graph's SHA-256.
        graph: the network's file, where a step runs one.
        card: the model card, Markdown.
        replace: whether a profile of this name may be replaced.

    Returns:
        The profile as it was read back.

    Raises:
        Conflict: a profile of this name is there and is not to be replaced.
        SetupError: graph and document do not belong together, or the folder cannot be written.
    """
    if (graph is None) != (document.patronus is None):
        raise SetupError(f"The protection profile {document.name!r} needs a graph exactly where a step runs one.")
    home = folder / document.name
    if home.exists() and not replace:
        raise Conflict(f"A protection profile {document.name!r} is there already; name another, or replace it.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=folder, prefix=f".{document.name}."))
    except OSError as error:
        raise SetupError(f"The folder of profiles cannot be written ({error.strerror}).") from None
    try:
        made = beside / document.name
        made.mkdir()
        graph_file = document.patronus.file if document.patronus else ""
        text = document.model_dump_json(indent=2) + "\n"
        for name, content in ((graph_file, graph), (CARD, card), (DOCUMENT, text.encode())):
            if content is not None:
                write_whole(made / name, content)
        profile = read_profile(made)
        _put_in_place(made, home, beside / "replaced")
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return profile


def _place(name: str, own: Path | None) -> Path:
    places = [_SHIPPED / name] if re.fullmatch(NAME_PATTERN, name) else []
    if places and own is not None:
        places.append(own / name)
    found = [place for place in places if (place / DOCUMENT).is_file()]
    if not found:
        known = ", ".join(available(own))
        raise SetupError(f"There is no protection profile {name!r}; there are: {known}.")
    if len(found) > 1:
        raise SetupError(f"A protection profile {name!r} comes with Patronus; give your own another name.")
    return found[0]


def _document(name: str, text: bytes) -> ProfileDocument:
    try:
        version = json.loads(text)["version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        version = None  # refused below
    if isinstance(version, int) and not isinstance(version, bool) and version > VERSION:
        raise SetupError(
            f"The protection profile {name!r} is of version {version}, newer than this program, which reads {VERSION}; "
            "update Patronus or choose another profile."
        )
    try:
        return ProfileDocument.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        at = ".".join(str(part) for part in first["loc"]) or DOCUMENT
        raise SetupError(
            f"The protection profile {name!r} is damaged, or made by another version ({at}: {first['msg']})."
        ) from None


def _check_embedder(document: ProfileDocument, embedder: EmbedderPin) -> None:
    """The file decides, where the profile names its digest: an operator may call it otherwise than the training did."""
    name, digest = document.name, document.embedder_sha256
    if digest == embedder.sha256:
        return
    if document.embedder not in {ANY_EMBEDDER, embedder.name}:
        raise SetupError(
            f"The protection profile {name!r} is for {document.embedder}; this edge runs "
            f"{embedder.name}. {_fitting(embedder)}"
        )
    if digest is not None:
        raise SetupError(
            f"The protection profile {name!r} was made for another file of {embedder.name} than this edge runs; "
            "fetch the models of the profile's version, or choose another profile."
        )


def _fitting(embedder: EmbedderPin) -> str:
    """A sentence with the shipped profiles for an embedder, the newest first."""
    fit = [
        name
        for name in available()
        if (found := _document(name, (_SHIPPED / name / DOCUMENT).read_bytes())).embedder == embedder.name
        and found.embedder_sha256 in {None, embedder.sha256}
    ]
    # NAME, NAME-2, NAME-3, … in the order of their making.
    fit.sort(key=lambda name: int(name.rpartition("-")[2]) if re.search("-[0-9]+$", name) else 1, reverse=True)
    if not fit:
        return "Choose another with PATRONUS_EDGE__PROFILE; seal is for any embedder."
    others = f" (or {', '.join(fit[1:])})" if len(fit) > 1 else ""
    return f"Choose one for it, PATRONUS_EDGE__PROFILE={fit[0]}{others}; seal is for any embedder."


def _files(home: Path) -> list[Path]:
    return sorted(found for found in home.rglob("*") if found.is_file() and found != home / CARD)


def _digest(files: dict[str, bytes]) -> str:
    """SHA-256 over the names and digests of files, in the order of names."""
    whole = hashlib.sha256()
    for name, content in files.items():
        whole.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return whole.hexdigest()


def _put_in_place(made: Path, home: Path, aside: Path) -> None:
    if home.exists():
        home.rename(aside)
    try:
        made.rename(home)
    except OSError:
        if aside.exists():
            aside.rename(home)
        raise SetupError(f"The folder of profiles cannot be written ({home.name}).") from None
