"""Shows, or writes to a private file, all that is held about a subject."""

from __future__ import annotations

import json
from pathlib import Path

from edge_service.cli.output import plain
from edge_service.cli.session import Session
from shared.command import counted
from shared.errors import Conflict
from shared.security.secret_files import NAME_ANOTHER_FILE, require_folder, write_secret
from shared.wire.common import moment_text
from shared.wire.edge_subjects import SubjectReport


def show_report(session: Session, gallery: str, subject: str) -> None:
    """Prints what is held; as JSON also the templates.

    Raises:
        NotFound: there is no such subject.
    """
    held = session.client.report_subject(gallery, subject)
    lines = [f"{held.subject} in {held.gallery}, enrolled at {moment_text(held.created_at)}; {_expiry(held)}"]
    for face in held.faces:
        size = counted(len(face.template), "value")
        lines.append(f"face {face.id}, enrolled at {moment_text(face.created_at)}: a template of {size}")
    for event in held.events:
        details = ", ".join(f"{name} {json.dumps(value, ensure_ascii=False)}" for name, value in event.details.items())
        entry = f"entry {event.receipt.id} of the audit log, at {moment_text(event.receipt.at)}: {event.action}"
        lines.append(f"{entry} ({details})" if details else entry)
    session.out.result(held, "\n".join(lines))


def write_report(session: Session, gallery: str, subject: str, target: Path, *, force: bool) -> None:
    """Writes what is held to a file of mode 0600, as the edge answers it.

    Args:
        session: with the edge.
        gallery: its name.
        subject: whom the report is about.
        target: of the file.
        force: whether an existing file may be replaced.

    Raises:
        NotFound: there is no such subject.
        SetupError: the folder is missing, or cannot be written.
        Conflict: the file exists and may not be replaced.
    """
    require_folder(target)
    held = session.client.report_subject(gallery, subject)
    text = json.dumps(plain(held), ensure_ascii=False, indent=2)
    try:
        write_secret(target, f"{text}\n".encode(), replace=force, remedy=NAME_ANOTHER_FILE)
    except FileExistsError:
        raise Conflict(f"{target}: exists already; choose another name, or replace it with --force.") from None
    counts = {"faces": len(held.faces), "events": len(held.events)}
    session.out.result(
        {"gallery": held.gallery, "subject": held.subject, "file": str(target), **counts},
        f"{target}: {counted(counts['faces'], 'face')}, and {counted(counts['events'], 'entry', 'entries')} of the "
        "audit log.",
    )


def _expiry(held: SubjectReport) -> str:
    return "no expiry of its own" if held.expires_at is None else f"expires at {moment_text(held.expires_at)}"
