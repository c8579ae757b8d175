"""The client verbs: gallery, subject, enroll, verify, identify.

Against the pair that ``make run`` started on this machine they need no flags.
Exit status: 0 done (a no_match too), 1 refused or failed, 2 wrong usage.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared.command import finite
from shared.counted import counted
from shared.errors import BadRequest
from shared.names import GALLERY_PATTERN, SUBJECT_PATTERN, TEMPLATE_ID_PATTERN
from shared.wire.edge import QualityFilter

if TYPE_CHECKING:
    from edge_service.cli.edge_client import EdgeClient
    from edge_service.cli.output import Output

app = typer.Typer()
gallery = typer.Typer(help="Galleries: create, list, show, erase.", no_args_is_help=True)
subject = typer.Typer(help="Subjects of a gallery: list, show, erase.", no_args_is_help=True)
app.add_typer(gallery, name="gallery")
app.add_typer(subject, name="subject")

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_RULES = {
    GALLERY_PATTERN: "1 to 64 letters, digits or ._-, and a letter or digit first",
    SUBJECT_PATTERN: "1 to 128 letters, digits or ._@-, and a letter or digit first",
    TEMPLATE_ID_PATTERN: "32 hexadecimal digits in lower case, as `patronus subject show` prints them",
}

Edge = Annotated[
    str | None, typer.Option(envvar="PATRONUS_EDGE_URL", help="The edge. [default: the one on this machine]")
]
KeyFile = Annotated[Path | None, typer.Option(help="File with an API key. [default: the edge's own on this machine]")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
Gallery = Annotated[str, typer.Argument(metavar="GALLERY", help="The gallery.")]
Subject = Annotated[str, typer.Argument(metavar="SUBJECT", help="The subject.")]
Picture = Annotated[Path, typer.Argument(metavar="PICTURE", help="A JPEG, PNG or WebP file.")]
Quality = Annotated[
    QualityFilter | None,
    typer.Option("--quality", help="What a face must be good enough for. [default: as the edge is set]"),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@gallery.command("create")
def create_gallery(
    name: Gallery,
    threshold: Annotated[
        float | None,
        typer.Option(callback=finite, min=0.0001, max=0.9999, help="Cosine to accept at. [default: the edge's]"),
    ] = None,
    fmr: Annotated[
        float | None,
        typer.Option(callback=finite, min=0, max=1, help="False match rate that you measured at this threshold."),
    ] = None,
    verify_only: Annotated[
        bool | None,
        typer.Option(
            "--verify-only/--identify", help="A seal for each subject: verify, and never identify. [default: identify]"
        ),
    ] = None,
    edge: Edge = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Make a gallery. Making it again changes nothing."""
    if (threshold is None) != (fmr is None):
        raise typer.BadParameter("--threshold and --fmr go together: a threshold means nothing without its rate")
    wanted: dict[str, Any] = {"threshold": None if threshold is None else {"cosine": threshold, "fmr": fmr}}
    if verify_only is not None:
        wanted["verify_only"] = verify_only
    client, out = _open(edge, key_file, json)
    answer = client.call("PUT", gallery_path(name), json=wanted)
    at = answer["threshold"]
    kind = " for verification only" if _verify_only(answer) else ""
    rate = f"reference FMR {at['fmr']:g}, not of children"
    out.result(answer, f"Gallery {name} is ready{kind}; it accepts from cosine {at['cosine']:g} ({rate}).")


@gallery.command("list")
def list_galleries(edge: Edge = None, key_file: KeyFile = None, json: Json = False) -> None:
    """Show all galleries."""
    client, out = _open(edge, key_file, json)
    found = _pages(client, "/v1/galleries")
    for info in found if json else []:
        out.result(info, "")
    rows = [
        [info["gallery"], str(info["subjects"]), str(info["templates"]), "verify" if _verify_only(info) else "identify"]
        for info in found
    ]
    out.table("Galleries", ["gallery", "subjects", "templates", "for"], rows)
    if not found and not json:
        out.people.print("There is no gallery yet; make one: patronus gallery create NAME")


@gallery.command("show")
def show_gallery(name: Gallery, edge: Edge = None, key_file: KeyFile = None, json: Json = False) -> None:
    """Show a gallery: how much is in it, threshold, contract."""
    client, out = _open(edge, key_file, json)
    answer = client.call("GET", gallery_path(name))
    contract = answer["contract"]
    out.result(
        answer,
        f"{counted(answer['subjects'], 'subject')}, {counted(answer['templates'], 'template')}; accepts from cosine "
        f"{answer['threshold']['cosine']:g}; embedder {contract['embedder']['name']}, "
        f"profile {contract['profile']['name']}, {_sealed(answer)}; {_kept(answer)}.",
    )


@gallery.command("delete")
def delete_gallery(
    name: Gallery,
    yes: Yes = False,
    edge: Edge = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Erase a gallery with everybody in it."""
    if not yes:
        typer.confirm(f"Erase the gallery {name} with everybody in it, for good?", abort=True, err=True)
    client, out = _open(edge, key_file, json)
    answer = client.call("DELETE", gallery_path(name))
    erased = f"{counted(answer['subjects'], 'subject')} with {counted(answer['templates'], 'template')}"
    out.result(answer, f"Erased {erased}. {_receipt(answer)}")


@gallery.command("retention")
def keep_gallery(
    name: Gallery,
    max_age: Annotated[
        str | None, typer.Option(metavar="AGE", help="Faces expire at this age: 90d, 12h, 30m or 45s.")
    ] = None,
    forever: Annotated[bool, typer.Option("--forever", help="Faces are kept until somebody erases them.")] = False,
    yes: Yes = False,
    edge: Edge = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Set how long faces are kept. One that has expired matches nobody, and is erased within a minute."""
    if (max_age is None) is not forever:
        raise typer.BadParameter("give --max-age AGE or --forever, one of the two")
    path = f"{gallery_path(name)}/retention"
    if max_age is None:
        client, out = _open(edge, key_file, json)
        answer = client.call("DELETE", path)
    else:
        seconds = _seconds(max_age)
        if not yes:
            typer.confirm(f"Erase what is older than {max_age} in {name}, from now on?", abort=True, err=True)
        client, out = _open(edge, key_file, json)
        answer = client.call("PUT", path, json={"max_age_seconds": seconds})
    out.result(answer, f"Gallery {name} {_kept(answer)}.")


@gallery.command("erasure")
def show_erasure(
    name: Gallery,
    receipt: Annotated[int, typer.Argument(metavar="RECEIPT", min=0, help="The number that the erasure answered.")],
    edge: Edge = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Show what has become of an erasure."""
    client, out = _open(edge, key_file, json)
    answer = client.call("GET", f"{gallery_path(name)}/erasures/{receipt}")
    left = f"not overwritten yet: {', '.join(answer['pending'])}" if answer["pending"] else "nothing of it is left"
    out.result(answer, f"{counted(answer['templates'], 'template')}, erased at {answer['receipt']['at']}; {left}.")


@gallery.command("rekey")
def rekey_gallery(
    name: Gallery,
    abandon: Annotated[bool, typer.Option("--abandon", help="Give up a change that is under way.")] = False,
    edge: Edge = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Change a gallery's key: nobody is enrolled anew, and matching goes on. Run again after a stop, it goes on."""
    from edge_service.cli.rekey import rekey

    client, out = _open(edge, key_file, json)
    rekey(client, f"{gallery_path(name)}/rekey", out, abandon=abandon)


@subject.command("list")
def list_subjects(name: Gallery, edge: Edge = None, key_file: KeyFile = None, json: Json = False) -> None:
    """Show the subjects of a gallery."""
    client, out = _open(edge, key_file, json)
    found = _pages(client, f"{gallery_path(name)}/subjects")
    for info in found if json else []:
        out.result(info, "")
    out.table(f"Subjects of {name}", ["subject", "templates"], [[i["subject"], str(i["templates"])] for i in found])


@subject.command("show")
def show_subject(name: Gallery, who: Subject, edge: Edge = None, key_file: KeyFile = None, json: Json = False) -> None:
    """Show the ids of a subject's faces."""
    client, out = _open(edge, key_file, json)
    answer = client.call("GET", _subject(name, who))
    out.result(answer, "\n".join(f"{face['id']}  {face['created_at']}" for face in answer["faces"]))


@subject.command("delete")
def delete_subject(
    name: Gallery,
    who: Subject,
    face: Annotated[str | None, typer.Option(help="Only this face, by its id.")] = None,
    yes: Yes = False,
    edge: Edge = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Erase a subject with all faces, or one face."""
    if not yes:
        typer.confirm(f"Erase {f'this face of {who}' if face else who}, for good?", abort=True, err=True)
    client, out = _open(edge, key_file, json)
    answer = client.call(
        "DELETE", _subject(name, who) + (f"/faces/{_named(face, TEMPLATE_ID_PATTERN, 'face')}" if face else "")
    )
    out.result(answer, f"Erased {counted(answer['templates'], 'template')}. {_receipt(answer)}")


@app.command()
def enroll(
    name: Gallery,
    who: Annotated[str | None, typer.Argument(metavar="[SUBJECT]", help="The subject; absent with --from.")] = None,
    pictures: Annotated[
        list[Path] | None, typer.Argument(metavar="[PICTURE]...", help="Pictures, or folders of them.")
    ] = None,
    people: Annotated[
        Path | None, typer.Option("--from", help="Folder with a folder, or a picture, of each subject.")
    ] = None,
    quality: Quality = None,
    edge: Edge = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Enroll pictures: each by itself, so that a poor one stops none of the others."""
    from edge_service.cli.enrollment import enroll_all
    from edge_service.cli.pictures import people_in, pictures_of

    if people is not None and who is None:
        found = people_in(people)
    elif people is None and who is not None and pictures:
        found = pictures_of(who, pictures)
    else:
        raise typer.BadParameter("give SUBJECT and PICTURE..., or --from FOLDER and neither")
    client, out = _open(edge, key_file, json)
    if not enroll_all(client, out, name, found, quality):
        raise typer.Exit(1)


@app.command()
def verify(
    name: Gallery,
    who: Subject,
    picture: Picture,
    quality: Quality = None,
    edge: Edge = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Tell whether a picture shows a subject (1:1)."""
    client, out = _open(edge, key_file, json)
    answer = client.send_picture(f"{_subject(name, who)}/verify", picture, quality_filter=quality)
    out.result(
        answer, f"{answer['decision']}: cosine {answer['similarity']:.3f}, accepted from {answer['threshold']:g}"
    )


@app.command()
def identify(
    name: Gallery,
    picture: Picture,
    top_k: Annotated[int, typer.Option(min=1, max=100, help="Candidates a face, at most.")] = 5,
    max_faces: Annotated[int, typer.Option(min=1, max=200, help="Faces to look for, largest first.")] = 1,
    quality: Quality = None,
    edge: Edge = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Tell who of a gallery a picture shows (1:N)."""
    client, out = _open(edge, key_file, json)
    answer = client.send_picture(
        f"{gallery_path(name)}/identify", picture, top_k=top_k, max_faces=max_faces, quality_filter=quality
    )
    lines = []
    for number, face in enumerate(answer["faces"], start=1):
        who = ", ".join(f"{one['subject']} ({one['similarity']:.3f})" for one in face["candidates"]) or "unknown"
        lines.append(f"face {number}: {who}")
    lines += _left_out(answer)
    out.result(answer, "\n".join(lines))


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


def _open(edge: str | None, key_file: Path | None, as_json: bool) -> tuple[EdgeClient, Output]:
    from edge_service.cli.edge_client import connect
    from edge_service.cli.output import Output

    return connect(edge, key_file), Output(as_json=as_json)


def _verify_only(info: dict[str, Any]) -> bool:
    seal = info["contract"]["seal"]
    return seal is not None and seal["scope"] == "subject"


def _sealed(info: dict[str, Any]) -> str:
    if info["contract"]["seal"] is None:
        return "not sealed"
    return "a seal for each subject: verify-only" if _verify_only(info) else "sealed"


def _kept(info: dict[str, Any]) -> str:
    age = info["max_age_seconds"]
    if age is None:
        return "keeps faces until they are erased"
    unit = next(unit for unit in ("d", "h", "m", "s") if age % _UNITS[unit] == 0)
    return f"keeps faces for {age // _UNITS[unit]}{unit}"


def _receipt(erased: dict[str, Any]) -> str:
    receipt = erased["receipt"]
    left = f" Not overwritten yet: {', '.join(erased['pending'])}." if erased["pending"] else ""
    return f"Receipt {receipt['id']}:{receipt['digest']}.{left}"


def _seconds(age: str) -> int:
    parts = re.fullmatch(r"([1-9][0-9]{0,9})([dhms])", age)
    if parts is None:
        raise typer.BadParameter("an age is a number and a unit, such as 90d, 12h, 30m or 45s")
    return int(parts[1]) * _UNITS[parts[2]]


def _pages(client: EdgeClient, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = client.call("GET", path, params={"limit": 500} | ({"after": after} if after else {}))
        found += page["items"]
        after = page["next"]
        if after is None:
            return found


def _named(name: str, pattern: str, what: str) -> str:
    """A name that may stand in a path: a slash or a dot in it would lead to another resource."""
    if re.fullmatch(pattern, name) is None:
        raise BadRequest(f"{name!r} is not a name that a {what} can have: {_RULES[pattern]}.")
    return name


def gallery_path(name: str) -> str:
    """Where a gallery is.

    Raises:
        BadRequest: none can have this name.
    """
    return f"/v1/galleries/{_named(name, GALLERY_PATTERN, 'gallery')}"


def _subject(name: str, who: str) -> str:
    return f"{gallery_path(name)}/subjects/{_named(who, SUBJECT_PATTERN, 'subject')}"
