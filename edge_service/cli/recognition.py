"""The commands ``patronus enroll``, ``verify`` and ``identify``.

Against the pair that ``make run`` started on this machine they need no options.
Exit status: 0 done (a no_match too), 1 refused or failed, 2 wrong usage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edge_service.cli.session import Gallery, Session, Subject, calls_edge, gallery_path, subject_path
from shared.command import counted
from shared.names import QualityFilter

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
    who: Annotated[str | None, typer.Argument(metavar="[SUBJECT]", help="The subject; absent with --from.")] = None,
    pictures: Annotated[
        list[Path] | None, typer.Argument(metavar="[PICTURE]...", help="Pictures, or folders of them.")
    ] = None,
    people: Annotated[
        Path | None, typer.Option("--from", help="Folder with a folder, or a picture, of each subject.")
    ] = None,
    quality: Quality = None,
) -> None:
    """Enroll pictures one by one. A refused picture does not stop the rest."""
    from edge_service.cli.enrollment import enroll_all, people_in, pictures_of

    if people is not None and who is None:
        found = people_in(people)
    elif people is None and who is not None and pictures:
        found = pictures_of(who, pictures)
    else:
        raise typer.BadParameter("give SUBJECT and PICTURE..., or --from FOLDER and neither")
    if not enroll_all(session, name, found, quality):
        raise typer.Exit(1)


@app.command()
@calls_edge
def verify(session: Session, name: Gallery, who: Subject, picture: Picture, quality: Quality = None) -> None:
    """Tell whether a picture shows a subject (1:1)."""
    answer = session.client.send_picture(f"{subject_path(name, who)}/verify", picture, quality_filter=quality)
    scores = f"similarity {answer['similarity']:.3f}, accepted from {answer['threshold']:g}"
    session.out.result(answer, f"{answer['decision']}: {scores}")


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
    answer = session.client.send_picture(
        f"{gallery_path(name)}/identify", picture, top_k=top_k, max_faces=max_faces, quality_filter=quality
    )
    lines = []
    for number, face in enumerate(answer["faces"], start=1):
        who = ", ".join(f"{one['subject']} ({one['similarity']:.3f})" for one in face["candidates"]) or "unknown"
        lines.append(f"face {number}: {who}")
    session.out.result(answer, "\n".join(lines + _left_out(answer)))


def _left_out(answer: dict[str, Any]) -> list[str]:
    """A line about the faces that were found and not looked for; none where all were."""
    left_out = answer["faces_left_out"]
    why = []
    if left_out["over_max_faces"]:
        why.append(f"{left_out['over_max_faces']} beyond --max-faces")
    if left_out["poor_quality"]:
        reasons = ", ".join(f"{reason.replace('_', ' ')}: {n}" for reason, n in left_out["reasons"].items())
        why.append(f"{left_out['poor_quality']} of poor quality ({reasons})")
    found = counted(answer["faces_found"], "face was", "faces were")
    return [f"{found} found; left out: {'; '.join(why)}"] if why else []
