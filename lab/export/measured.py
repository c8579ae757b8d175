"""What ``patronus lab measure`` found, written into a profile of one's own and its model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from edge_service.protection.profiles.document import ProfileDocument
from edge_service.protection.profiles.files import CARD, Profile, write_profile
from lab.export.measured_tables import cost_table, people_table
from shared.errors import SetupError

_SECTION: Final = "## Several pictures of a person, and the cost"
# Of a document. The edge reads it at each start, and curves are most of it.
MOST_BYTES: Final = 600_000
_FITTED: Final = (
    "What protection costs\nthem is of steps that were fitted without the two people compared; the rows above are of "
    "the step that is used,\nand may be a little too good."
)
_MEMBERS: Final = ("score", "curves", "cost")


def refuse_shipped(profile: Profile) -> None:
    """Refuses to write into a profile that comes with Patronus.

    Raises:
        SetupError: it does.
    """
    if profile.shipped:
        raise SetupError(
            f"The profile {profile.document.name} comes with Patronus, and galleries name its digest; write into a "
            "profile of your own, which --profiles holds."
        )


def with_measured(document: ProfileDocument, found: Mapping[str, Any]) -> ProfileDocument:
    """The document with score, curves and cost.

    Rates at the threshold are left out where the profile has none of its own.

    Raises:
        SetupError: it would be over 600 KB.
    """
    content = json.loads(document.model_dump_json())
    content |= {name: found[name] for name in _MEMBERS if found.get(name)}
    if document.threshold is None:
        content["score"] = found["score"] | {"tar": None, "fmr": None}
    made = ProfileDocument.model_validate_json(json.dumps(content))
    if len(made.model_dump_json(indent=2)) > MOST_BYTES:
        raise SetupError(f"The document of {document.name} would be over {MOST_BYTES:,} bytes; measure fewer curves.")
    return made


def write_measured(profile: Profile, folder: Path, found: Mapping[str, Any]) -> Profile:
    """Writes score, curves and cost into a profile, and their tables into its model card. Its digest changes.

    Args:
        profile: of one's own.
        folder: of profiles, which holds it.
        found: what was measured.

    Raises:
        SetupError: the profile comes with Patronus, or cannot be written.
    """
    refuse_shipped(profile)
    document = with_measured(profile.document, found)
    card = folder / document.name / CARD
    text = card.read_text() if card.is_file() else f"# Model card: protection profile `{document.name}`\n"
    return write_profile(folder, document, profile.graph, with_accuracy(text, found).encode(), replace=True)


def with_accuracy(text: str, found: Mapping[str, Any]) -> str:
    """A model card with its section on several pictures; one that is there is replaced.

    Args:
        text: the card.
        found: what was measured.
    """
    before, heading, rest = text.partition(f"\n{_SECTION}\n")
    if heading:
        _, next_heading, rest = rest.partition("\n## ")
        rest = next_heading + rest
    else:
        # The false matches by age, sex and group stay last.
        before, heading, rest = text.partition("\n## False matches by age, sex and group\n")
        rest = heading + rest
    tables = "\n".join(
        f"{population}:\n\n{people_table({'': found}, population)}"
        for population in dict.fromkeys(row["population"] for row in found["accuracy"])
    )
    cost = f"\nAccuracy that protection costs, with one picture:\n\n{cost_table(found)}" if found["cost"] else ""
    if found["in_folds"]:
        cost = f"\nThe people of `{found['sources']['more_people']}` helped to fit the erase step. {_FITTED}\n{cost}"
    sources = ", ".join(f"`{name}`" for name in found["sources"].values())
    return f"""{before.rstrip()}

{_SECTION}

Measured on {sources}, cosine {found["tau"]:g}; the best picture against the weighted mean. In brackets: 95 %, over
people, and how many times the false match rate of one picture.

{tables}{cost}{rest}"""
