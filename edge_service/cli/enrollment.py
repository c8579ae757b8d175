"""Enrolls many pictures, shows how far it is, and sums up what was refused and why."""

from __future__ import annotations

from collections import Counter

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edge_service.cli.client import gallery_path
from edge_service.cli.edge_client import EdgeClient, Refused
from edge_service.cli.output import Output
from edge_service.cli.pictures import Picture
from shared.counted import counted
from shared.errors import BadRequest

_BAD_NAME = "A subject cannot have this name; rename it to letters, digits or ._@- (at most 128, no such sign first)."
_STOPS = frozenset({401, 403, 404, 409, 502, 503})


def enroll_all(client: EdgeClient, out: Output, gallery: str, pictures: list[Picture], quality: str | None) -> bool:
    """Enrolls pictures one by one.

    Returns:
        Whether every one was taken.

    Raises:
        Refused: the edge refuses all alike: the gallery is not there, the key does not allow it, the cloud is away.
        SetupError: no edge answers.
    """
    at = gallery_path(gallery)
    refused: list[tuple[Picture, str, str]] = []
    taken: Counter[str] = Counter()
    columns = (TextColumn("enrolling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out.errors, transient=True, disable=len(pictures) < 2) as progress:
        for picture in progress.track(pictures):
            path = f"{at}/subjects/{picture.subject}/faces"
            label = {"subject": picture.subject, "path": str(picture.path)}
            try:
                if not picture.is_named_well:
                    raise BadRequest(_BAD_NAME, reason="bad_name")
                answer = client.send_picture(path, picture.path, quality_filter=quality)
            except (Refused, BadRequest) as error:
                problem = (
                    error.problem if isinstance(error, Refused) else {"detail": error.detail, "reason": error.reason}
                )
                if problem.get("status") in _STOPS:
                    raise
                refused.append((picture, error.reason or "refused", error.detail))
                out.refused({**label, "enrolled": False, **problem}, f"{picture.path}: {error.detail}")
                continue
            taken[picture.subject] += 1
            face = answer["faces"][0]
            out.result({**label, "enrolled": True, **face}, f"{picture.path}: enrolled as {picture.subject}")
    if len(pictures) > 1:
        out.people.print(
            f"Enrolled {taken.total()} of {len(pictures)} pictures, of {counted(len(taken), 'subject')}.",
            markup=False,
        )
        rows = [[str(picture.path), reason, detail] for picture, reason, detail in refused]
        out.table("Refused", ["picture", "reason", "how to mend it"], rows)
    return not refused
