"""The commands ``patronus enroll``, ``verify``, ``identify``, ``detect``, ``compare`` and ``status``.

Against the pair that ``make run`` started on this machine they need no options.
Exit status: 0 done (a no_match too), 1 refused or failed, or not ready; 2 wrong usage.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edge_service.cli.session import Gallery, Session, Subject, calls_edge
from shared.command import counted
from shared.errors import BadRequest
from shared.names import QualityFilter

if TYPE_CHECKING:
    from shared.wire.edge import IdentifyFacesAnswer, RefusalReason

app = typer.Typer()

Picture = Annotated[Path, typer.Argument(metavar="PICTURE", help="A JPEG, PNG or WebP file.")]
Quality = Annotated[
    QualityFilter | None,
    typer.Option("--quality", help="Minimum quality of a face. [default: as the edge is set]"),
]


@app.command()
@calls_edge
def enroll(
    session: Session,
    name: Gallery,
    who: Annotated[
        str | None, typer.Argument(metavar="[SUBJECT|FOLDER]", help="The subject; or a folder of people, as --from.")
    ] = None,
    pictures: Annotated[
        list[Path] | None, typer.Argument(metavar="[PICTURE]...", help="Pictures, or folders of them.")
    ] = None,
    people: Annotated[
        Path | None, typer.Option("--from", help="Folder with a folder of pictures of each subject.")
    ] = None,
    named_files: Annotated[
        bool,
        typer.Option(
            "--named-files", help="A picture in FOLDER itself is of the subject that its file is named after."
        ),
    ] = False,
    quality: Quality = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Store nothing; say what would be, and whom of those enrolled a face matches."),
    ] = False,
    on_conflict: Annotated[
        Literal["store", "refuse"],
        typer.Option(help="What to do with a face that is nearer to another subject, whom it matches."),
    ] = "store",
) -> None:
    """Enroll pictures one by one, of a subject or of a folder of people: FOLDER/SUBJECT/PICTURE.

    A refused picture does not stop the rest; what was enrolled before is not again.
    """
    from edge_service.cli.subjects.enrollment import PictureEnrollment, people_in, pictures_of

    if people is None and who is not None and not pictures and Path(who).is_dir():
        people, who = Path(who), None
    if people is None and who is not None and not pictures and "/" in who:  # which no subject's name has
        if Path(who).exists():
            raise BadRequest(f"{who}: is not a folder; name the subject before the picture.")
        raise BadRequest(f"{who}: there is no such folder.")
    if people is not None and who is None:
        found = people_in(people, named_files=named_files)
    elif people is None and who is not None and pictures and not named_files:
        found = pictures_of(who, pictures)
    else:
        raise typer.BadParameter("give SUBJECT and PICTURE..., or a FOLDER of people: FOLDER/SUBJECT/PICTURE")
    if not PictureEnrollment(session, name, quality, dry_run=dry_run, on_conflict=on_conflict).run(found):
        raise typer.Exit(1)


@app.command()
@calls_edge
def verify(session: Session, name: Gallery, who: Subject, picture: Picture, quality: Quality = None) -> None:
    """Tell whether a picture shows a subject (1:1)."""
    answer = session.client.verify_face(name, who, picture, quality_filter=quality)
    session.out.result(answer, _decision(answer.decision, answer.similarity, answer.threshold))


@app.command()
@calls_edge
def identify(
    session: Session,
    name: Gallery,
    picture: Picture,
    top_k: Annotated[int, typer.Option(min=1, max=100, help="Candidates a face, at most.")] = 5,
    max_faces: Annotated[int, typer.Option(min=1, max=200, help="Faces to look for, largest first.")] = 1,
    quality: Quality = None,
) -> None:
    """Identify the people in a picture (1:N)."""
    answer = session.client.identify_faces(name, picture, top_k=top_k, max_faces=max_faces, quality_filter=quality)
    lines = []
    for number, face in enumerate(answer.faces, start=1):
        who = ", ".join(f"{one.subject} ({one.similarity:.3f})" for one in face.candidates) or "unknown"
        lines.append(f"face {number}: {who}")
    session.out.result(answer, "\n".join(lines + _left_out(answer)))


@app.command()
@calls_edge
def detect(session: Session, picture: Picture, quality: Quality = None) -> None:
    """Show the faces of a picture, and their quality. Nothing leaves the edge."""
    answer = session.client.detect_faces(picture, quality_filter=quality)
    lines = [f"{counted(answer.faces_found, 'face')} in {answer.width} x {answer.height} pixels"]
    for number, face in enumerate(answer.faces, start=1):
        box = face.box
        place = f"{box.width:.0f} x {box.height:.0f} at {box.x:.0f}, {box.y:.0f}"
        refused = ", ".join(_in_words(reason) for reason in face.quality.reasons)
        lines.append(f"face {number}: {place}; {refused or 'good enough'}")
    session.out.result(answer, "\n".join(lines))


@app.command()
@calls_edge
def compare(
    session: Session,
    picture: Picture,
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="Another one.")],
    quality: Quality = None,
) -> None:
    """Tell whether two pictures show one person. Nothing leaves the edge."""
    answer = session.client.compare_faces(picture, other, quality_filter=quality)
    session.out.result(answer, _decision(answer.decision, answer.similarity, answer.threshold))


@app.command()
@calls_edge
def status(session: Session) -> None:
    """Show whether edge and cloud are ready, and their versions."""
    from edge_service.cli.status import show_status

    if not show_status(session):
        raise typer.Exit(1)


def _decision(decision: str, similarity: float, threshold: float) -> str:
    return f"{decision}: similarity {similarity:.3f}, accepted from {threshold:g}"


def _in_words(reason: RefusalReason) -> str:
    return reason.replace("_", " ")


def _left_out(answer: IdentifyFacesAnswer) -> list[str]:
    """A line about the faces that were found and not looked for; none where all were."""
    left_out = answer.faces_left_out
    why = []
    if left_out.over_max_faces:
        why.append(f"{left_out.over_max_faces} beyond --max-faces")
    if left_out.poor_quality:
        reasons = ", ".join(f"{_in_words(reason)}: {n}" for reason, n in left_out.reasons.items())
        why.append(f"{left_out.poor_quality} of poor quality ({reasons})")
    found = counted(answer.faces_found, "face was", "faces were")
    return [f"{found} found; left out: {'; '.join(why)}"] if why else []
