"""The commands ``patronus subject``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from edge_service.cli.galleries import erasure_text, receipt_text
from edge_service.cli.session import Gallery, Session, Subject, Yes, calls_edge, confirm
from edge_service.cli.times import moment_of, seconds_of
from shared.command import counted

if TYPE_CHECKING:
    from shared.wire.edge_subjects import Moved

app = typer.Typer(help="Subjects: list, show, rename, merge, report, erase.", no_args_is_help=True)

# Items a page: the most that the edge allows.
_PAGE: Final = 500


@app.command("list")
@calls_edge
def list_subjects(
    session: Session,
    name: Gallery,
    prefix: Annotated[str | None, typer.Option(metavar="TEXT", help="Only names that begin so.")] = None,
) -> None:
    """Show the subjects of a gallery."""
    session.out.results(
        f"Subjects of {name}",
        ["subject", "templates"],
        list(session.client.all_subjects(name, limit=_PAGE, prefix=prefix)),
        lambda info: [info.subject, str(info.templates)],
        "No subjects." if prefix is None else "No subjects whose names begin so.",
    )


@app.command("show")
@calls_edge
def show_subject(session: Session, name: Gallery, who: Subject) -> None:
    """Show the ids of a subject's faces."""
    from shared.wire.common import moment_text

    answer = session.client.get_subject(name, who)
    lines = [f"{face.id}  {moment_text(face.created_at)}" for face in answer.faces]
    if answer.expires_at is not None:
        lines.append(f"expires at {moment_text(answer.expires_at)}")
    session.out.result(answer, "\n".join(lines))


@app.command("rename")
@calls_edge
def rename_subject(
    session: Session,
    name: Gallery,
    who: Subject,
    new: Annotated[str, typer.Argument(metavar="NEW", help="A name that no subject of the gallery has.")],
) -> None:
    """Give a subject another name."""
    answer = session.client.rename_subject(name, who, new)
    has = counted(answer.faces_enrolled, "face")
    session.out.result(answer, f"{who} is called {answer.subject} now: {has}. {receipt_text(answer.receipt)}")


@app.command("merge")
@calls_edge
def merge_subject(
    session: Session,
    name: Gallery,
    who: Subject,
    into: Annotated[str, typer.Argument(metavar="INTO", help="The subject that is the same person.")],
    yes: Yes = False,
) -> None:
    """Give all faces of a subject to another one. The first is gone then."""
    confirm(f"Give all faces of {who} to {into}? It cannot be undone as a whole.", yes=yes)
    answer = session.client.merge_subject(name, who, into)
    session.out.result(answer, _moved(who, answer))


@app.command("move")
@calls_edge
def move_face(
    session: Session,
    name: Gallery,
    who: Subject,
    face: Annotated[str, typer.Argument(metavar="FACE", help="Its id, as `patronus subject show` prints it.")],
    to: Annotated[str, typer.Argument(metavar="TO", help="A subject of the gallery, or a new one.")],
) -> None:
    """Give one face of a subject to another one."""
    answer = session.client.move_face(name, who, face, to)
    session.out.result(answer, _moved(who, answer))


@app.command("expiry")
@calls_edge
def set_expiry(
    session: Session,
    name: Gallery,
    who: Subject,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="DATE", help="2027-01-31 (0:00 UTC), or with a time and its zone: 2027-01-31T18:00+01:00."
        ),
    ] = None,
    after: Annotated[str | None, typer.Option(metavar="AGE", help="From now on: 90d, 12h, 30m or 45s.")] = None,
    never: Annotated[bool, typer.Option("--never", help="Keep it as long as the gallery keeps faces.")] = False,
    yes: Yes = False,
) -> None:
    """Set when a subject expires. It matches nobody from then on, and is erased."""
    from shared.wire.common import moment_text

    if (at is not None) + (after is not None) + never != 1:
        raise typer.BadParameter("give --at DATE, --after AGE or --never, one of the three")
    if never:
        answer = session.client.remove_expiry(name, who)
        session.out.result(answer, f"{who} has no expiry of its own.")
        return
    moment = moment_of(at) if at is not None else _from_now(after or "")
    confirm(f"Erase {who} at {moment_text(moment)}?", yes=yes)
    answer = session.client.set_expiry(name, who, moment)
    session.out.result(answer, f"{who} expires at {moment_text(answer.expires_at or moment)}.")


@app.command("report")
@calls_edge
def report_subject(
    session: Session,
    name: Gallery,
    who: Subject,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it all to a private file, as JSON. It is personal data.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Show all that is held about a subject."""
    from edge_service.cli.subjects.report import show_report, write_report

    if out is None:
        show_report(session, name, who)
    else:
        write_report(session, name, who, out, force=force)


@app.command("delete")
@calls_edge
def delete_subject(
    session: Session,
    name: Gallery,
    who: Subject,
    face: Annotated[str | None, typer.Option(help="Only this face, by its id.")] = None,
    yes: Yes = False,
) -> None:
    """Erase a subject with all faces, or one face."""
    confirm(f"Erase {f'this face of {who}' if face else who}, for good?", yes=yes)
    client = session.client
    answer = client.delete_face(name, who, face) if face else client.delete_subject(name, who)
    session.out.result(answer, f"Erased {counted(answer.templates, 'template')}. {erasure_text(answer)}")


def _moved(who: str, answer: Moved) -> str:
    gone = f" {who} has no face left and is gone." if answer.emptied else ""
    return (
        f"{answer.subject} got {counted(answer.faces, 'face')}, and has {answer.faces_enrolled} now.{gone} "
        f"{receipt_text(answer.receipt)}"
    )


def _from_now(age: str) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds_of(age))
