"""The table of false matches by age, sex and group: of a training that is evaluated, and of a finished profile.

The seal is a rotation that all templates of a gallery share, and keeps every score, so protected figures are unsealed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_service.protection.keys import PUBLIC_KEY
from edge_service.protection.profiles.files import Profile
from edge_service.protection.protect import Protector
from lab.data.embedders import Encoder, embed_images, unit
from lab.data.images import read_images
from lab.data.matching import Sides
from lab.data.verification import Rows
from lab.evaluation.demographics import MOST_A_BAND, Labels, drawn, false_matches, first_of_each_photo, labels_of
from shared.errors import SetupError

# Of pictures with labels; a set with fewer is not one that is labelled so.
_FEWEST: Final = 100
# A band whose rate is over this multiple of that of adults is named as one that the profile is not for.
_FAR_WORSE: Final = 10
_ADULTS: Final = "25 to 45"
_CHILDREN: Final = ("0 to 2", "3 to 6", "7 to 12", "13 to 17")


def has_labels(names: NDArray[np.object_]) -> bool:
    """Whether file names tell age, sex and group of enough faces to measure."""
    return len(labels_of(names).known) >= _FEWEST


@dataclass(frozen=True, slots=True, eq=False)
class LabelledByName:
    """Faces whose file names tell age, sex and group, each photo once.

    Attributes:
        unit: (n, d) float32, unit rows.
        labels: of these, n.
        copies: further copies of the same photos, which are left out.
        unlabelled: pictures of the set whose names tell nothing.
    """

    unit: Rows
    labels: Labels
    copies: int
    unlabelled: int


def read_with_labels(source: Path, encoder: Encoder, cache: Path, most: int | None = MOST_A_BAND) -> LabelledByName:
    """Reads and embeds a set whose file names hold labels.

    Borders stay black: filled ones make strangers alike (``lab.data.alignment``).

    Args:
        source: folder or tar.
        encoder: the embedder.
        cache: for faces and embeddings.
        most: pictures of each age band at most, drawn at random; None: all.

    Raises:
        SetupError: there is no such set, or too few of its names hold labels.
    """
    everyone = read_images(source, cache=cache, fills=False)
    labels = labels_of(everyone.names)
    if not has_labels(everyone.names):
        raise SetupError(
            f"{source} has {len(labels.known)} pictures whose names hold age, sex and group, and {_FEWEST} are needed; "
            "name them AGE_SEX_GROUP_NUMBER.jpg, as UTKFace does."
        )
    rows = drawn(labels, most)
    images = everyone.subset(rows)
    embedded = unit(embed_images(images, encoder, cache=cache))
    kept = np.flatnonzero(first_of_each_photo(images.pixels))
    unlabelled = len(everyone) - len(labels.known)
    return LabelledByName(
        np.ascontiguousarray(embedded[kept]), labels.subset(rows[kept]), len(rows) - len(kept), unlabelled
    )


def measure(
    source: Path,
    encoder: Encoder,
    tau: float,
    protected: Callable[[Rows], Rows],
    sides: Sides,
    *,
    cache: Path,
    most: int | None = MOST_A_BAND,
) -> dict[str, Any]:
    """False match rates of a labelled set, clean and protected, ready for JSON.

    Args:
        source: folder or tar of faces whose file names hold labels.
        encoder: the embedder.
        tau: cosine of the threshold.
        protected: (n, d) float32 unit rows to their templates, unsealed.
        sides: whether the gallery is protected too.
        cache: for faces and embeddings.
        most: pictures of each age band at most, drawn at random; None: all.

    Raises:
        SetupError: there is no such set, or too few of its names hold labels.
    """
    faces = read_with_labels(source, encoder, cache, most)
    templates = protected(faces.unit)
    return {
        "source": source.resolve().name,
        "embedder": encoder.name,
        "tau": tau,
        "sides": sides,
        "most_a_band": most,
        "pictures": len(faces.unit),
        "copies": faces.copies,
        "unlabelled": faces.unlabelled,
        "clean": false_matches(faces.labels, faces.unit, tau),
        "protected": false_matches(faces.labels, templates, tau, None if sides == "both" else faces.unit),
    }


def measure_profile(
    profile: Profile, encoder: Encoder, tau: float, source: Path, *, cache: Path, most: int | None = MOST_A_BAND
) -> dict[str, Any]:
    """The same of a finished profile, run by the edge's own code, with seeds of the public key.

    Raises:
        SetupError: there is no such set, too few of its names hold labels, or the profile's network is damaged.
    """
    protector = Protector(profile)

    def protect(rows: Rows) -> Rows:
        # A profile that only seals keeps every score.
        if profile.document.patronus is None:
            return rows
        return protector.templates(rows, PUBLIC_KEY, sealed=False).templates

    found = measure(source, encoder, tau, protect, "both" if profile.seals else "probe", cache=cache, most=most)
    return {"profile": profile.document.name, "profile_sha256": profile.pin.sha256} | found


def far_worse(found: dict[str, Any]) -> list[str]:
    """The bands of children whose rate is over ten times that of adults, clean or protected."""
    said = []
    for kind in ("clean", "protected"):
        rates = {row["ages"]: row["value"] for row in found[kind] if row["sex"] is None and row["group"] is None}
        adults = rates.get(_ADULTS)
        if adults is not None:
            said += [ages for ages in _CHILDREN if rates.get(ages, 0.0) > _FAR_WORSE * adults]
    return [ages for ages in _CHILDREN if ages in said]


def table(found: dict[str, Any]) -> str:
    """The figures for people to read, as Markdown: bands with counts, then each sex and each group of a band."""
    bands = [row for row in found["clean"] if row["sex"] is None and row["group"] is None]
    lines = [
        "",
        f"| ages, cosine {found['tau']:g} | pictures | pairs | clean: false matches | % (95 %) "
        "| protected: false matches | % (95 %) | cosine where 0.1 % are accepted: clean, protected |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in bands:
        other = _same(found["protected"], row)
        thresholds = ", ".join(
            "too few pairs" if at is None else f"{at:.3f}" for at in (row["threshold"], other["threshold"])
        )
        lines.append(
            f"| {row['ages']} | {row['pictures']:,} | {row['pairs']:,} | {row['accepted']:,} | {percent(row)} "
            f"| {other['accepted']:,} | {percent(other)} | {thresholds} |"
        )
    lines += ["", "| ages | of whom | pairs | clean, % (95 %) | protected: false matches | % (95 %) |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for row in found["clean"]:
        if (row["sex"] is None) == (row["group"] is None):
            continue
        other = _same(found["protected"], row)
        lines.append(
            f"| {row['ages']} | {row['sex'] or row['group']} | {row['pairs']:,} | {percent(row)} "
            f"| {other['accepted']:,} | {percent(other)} |"
        )
    return "\n".join(lines) + "\n"


def percent(row: dict[str, Any]) -> str:
    """A rate with its interval, in percent: ``62.1 (60.0 to 64.3)``."""
    value, low, high = (_digits(100 * row[name]) for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _digits(share: float) -> str:
    """Two digits that matter, and no more than three after the point."""
    places = next((places for least, places in ((10, 0), (1, 1), (0.1, 2)) if share >= least), 3)
    return f"{share:.{places}f}"


def _same(rows: list[dict[str, Any]], wanted: dict[str, Any]) -> dict[str, Any]:
    return next(row for row in rows if all(row[name] == wanted[name] for name in ("ages", "sex", "group")))
