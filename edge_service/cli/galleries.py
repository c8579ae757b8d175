"""The commands ``patronus gallery`` and ``patronus subject``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from edge_service.cli.session import (
    Gallery,
    Session,
    Subject,
    Yes,
    calls_edge,
    confirm,
    face_path,
    gallery_path,
    is_verify_only,
    subject_path,
)
from edge_service.cli.thresholds import (
    Cosine,
    FalseAccepts,
    Fmr,
    ForSubjects,
    cost_of,
    threshold_of,
    wanted_threshold,
)
from shared.command import counted

if TYPE_CHECKING:
    from edge_service.cli.edge_client import EdgeClient

gallery = typer.Typer(help="Galleries: create, list, show, change, erase.", no_args_is_help=True)
subject = typer.Typer(help="Subjects of a gallery: list, show, erase.", no_args_is_help=True)

# How subjects with several faces are compared.
ScoreRule = Literal["mean", "best"]
_COMPARED = {"mean": "by the mean of their faces", "best": "by their most similar face"}
_UNITS = {"day": 86_400, "hour": 3_600, "minute": 60, "second": 1}


@gallery.command("create")
@calls_edge
def create_gallery(
    session: Session,
    name: Gallery,
    threshold: Cosine = None,
    fmr: Fmr = None,
    for_subjects: ForSubjects = None,
    false_accepts: FalseAccepts = None,
    verify_only: Annotated[
        bool | None,
        typer.Option(
            "--verify-only/--identify", help="A seal for each subject: verify, and never identify. [default: identify]"
        ),
    ] = None,
    score: Annotated[
        ScoreRule | None,
        typer.Option(help="Compare subjects by the mean of their faces, or by the best one. [default: mean]"),
    ] = None,
) -> None:
    """Make a gallery. Making it again changes nothing."""
    wanted: dict[str, Any] = {"threshold": wanted_threshold(threshold, fmr, for_subjects, false_accepts)}
    if verify_only is not None:
        wanted["verify_only"] = verify_only
    if score is not None:
        wanted["score_rule"] = score
    answer = session.client.call("PUT", gallery_path(name), json=wanted)
    kind = " for verification only" if is_verify_only(answer) else ""
    at = threshold_of(answer, " on adults" if wanted["threshold"] is None else "")
    session.out.result(answer, f"Gallery {name} is ready{kind}; threshold: {at}.{cost_of(answer)}")


@gallery.command("list")
@calls_edge
def list_galleries(session: Session) -> None:
    """Show all galleries."""
    session.out.results(
        "Galleries",
        ["gallery", "subjects", "templates", "for", "score"],
        _all_pages(session.client, "/v1/galleries"),
        lambda info: [
            info["gallery"],
            str(info["subjects"]),
            str(info["templates"]),
            "verify" if is_verify_only(info) else "identify",
            info["score"]["rule"],
        ],
        "No galleries. Make one: patronus gallery create NAME",
    )


@gallery.command("show")
@calls_edge
def show_gallery(session: Session, name: Gallery) -> None:
    """Show a gallery: how much is in it, threshold, rule of comparison, contract."""
    answer = session.client.call("GET", gallery_path(name))
    contract = answer["contract"]
    sealed = "not sealed" if contract["seal"] is None else "verify-only" if is_verify_only(answer) else "sealed"
    session.out.result(
        answer,
        f"{counted(answer['subjects'], 'subject')}, {counted(answer['templates'], 'template')}; threshold: cosine "
        f"{answer['threshold']['cosine']:g}; {_compared(answer)}; embedder {contract['embedder']['name']}, "
        f"profile {contract['profile']['name']}, {sealed}; {_retention(answer)}.",
    )


@gallery.command("delete")
@calls_edge
def delete_gallery(session: Session, name: Gallery, yes: Yes = False) -> None:
    """Erase a gallery with everybody in it."""
    confirm(f"Erase the gallery {name} with everybody in it, for good?", yes=yes)
    answer = session.client.call("DELETE", gallery_path(name))
    erased = f"{counted(answer['subjects'], 'subject')} with {counted(answer['templates'], 'template')}"
    session.out.result(answer, f"Erased {erased}. {_receipt(answer)}")


@gallery.command("score")
@calls_edge
def change_score(
    session: Session,
    name: Gallery,
    rule: Annotated[ScoreRule, typer.Argument(metavar="RULE", help="mean: of all faces; best: the most similar one.")],
) -> None:
    """Change how subjects with several faces are compared. Holds for enrolled subjects too."""
    answer = session.client.call_with_retries("PATCH", gallery_path(name), json={"score_rule": rule})
    session.out.result(answer, f"Gallery {name}: {_compared(answer)}.")


@gallery.command("threshold")
@calls_edge
def change_threshold(
    session: Session,
    name: Gallery,
    threshold: Cosine = None,
    fmr: Fmr = None,
    for_subjects: ForSubjects = None,
    false_accepts: FalseAccepts = None,
) -> None:
    """Change a gallery's threshold. Holds for enrolled subjects too."""
    wanted = wanted_threshold(threshold, fmr, for_subjects, false_accepts)
    if wanted is None:
        raise typer.BadParameter("give --threshold and --fmr, or --for-subjects and --false-accepts")
    answer = session.client.call_with_retries("PATCH", gallery_path(name), json={"threshold": wanted})
    session.out.result(answer, f"Gallery {name}: threshold {threshold_of(answer)}.{cost_of(answer)}")


@gallery.command("retention")
@calls_edge
def set_retention(
    session: Session,
    name: Gallery,
    max_age: Annotated[
        str | None, typer.Option(metavar="AGE", help="Faces expire at this age: 90d, 12h, 30m or 45s.")
    ] = None,
    forever: Annotated[bool, typer.Option("--forever", help="Faces are kept until somebody erases them.")] = False,
    yes: Yes = False,
) -> None:
    """Set how long faces are kept. Expired faces match nobody and are erased within a minute."""
    if (max_age is None) is not forever:
        raise typer.BadParameter("give --max-age AGE or --forever, one of the two")
    path = f"{gallery_path(name)}/retention"
    if max_age is None:
        answer = session.client.call("DELETE", path)
    else:
        seconds = _seconds(max_age)
        confirm(f"Erase what is older than {max_age} in {name}, from now on?", yes=yes)
        answer = session.client.call("PUT", path, json={"max_age_seconds": seconds})
    session.out.result(answer, f"Gallery {name}: {_retention(answer)}.")


@gallery.command("erasure")
@calls_edge
def show_erasure(
    session: Session,
    name: Gallery,
    receipt: Annotated[str, typer.Argument(metavar="RECEIPT", help="The receipt that the erasure answered.")],
) -> None:
    """Show what an erasure has overwritten so far."""
    number = re.fullmatch(r"([0-9]{1,18})(:[0-9a-f]{64})?", receipt)
    if number is None:
        raise typer.BadParameter("a receipt is a number, or a number, a colon and 64 hexadecimal digits")
    answer = session.client.call("GET", f"{gallery_path(name)}/erasures/{int(number[1])}")
    left = f"not overwritten yet: {', '.join(answer['pending'])}" if answer["pending"] else "nothing of it is left"
    erased = f"{counted(answer['templates'], 'template')}, erased at {answer['receipt']['at']}"
    session.out.result(answer, f"{erased}; {left}.")


@gallery.command("rekey")
@calls_edge
def rekey_gallery(
    session: Session,
    name: Gallery,
    abandon: Annotated[bool, typer.Option("--abandon", help="Give up a change that is under way.")] = False,
) -> None:
    """Change a gallery's key while matching goes on. Run it again to continue after a stop."""
    path = f"{gallery_path(name)}/rekey"
    client, out = session.client, session.out
    before = client.call_with_retries("GET", path) if abandon else None
    if before is not None and before["state"] == "settled":
        out.result(before, "No change of key was under way.")
        return
    epoch: str | None = None
    with out.progress() as progress:
        bar = progress.add_task("", total=None)
        while True:
            if abandon:
                answer = client.call_with_retries("DELETE", path)
                done = answer["state"] != "staging"
            else:
                answer = client.call_with_retries("POST", path, json={"epoch": epoch})
                # Name the first answer's key from now on: a change that is done is not begun once more.
                epoch = epoch or (answer["next_contract"] or answer["contract"])["seal"]["epoch"]
                done = answer["state"] != "settling" and answer["contract"]["seal"]["epoch"] == epoch
            if done:
                break
            total = answer["templates"]
            progress.update(bar, description=answer["state"], total=total, completed=total - answer["left"])
    key = (answer["contract"]["seal"] or {}).get("epoch", "none")
    begin = "The change of key was given up. " if before is not None and before["state"] == "staging" else ""
    held = counted(answer["templates"], "template is", "templates are")
    out.result(answer, f"{begin}{answer['gallery']}: {held} under the key of epoch {key}.")


@subject.command("list")
@calls_edge
def list_subjects(session: Session, name: Gallery) -> None:
    """Show the subjects of a gallery."""
    session.out.results(
        f"Subjects of {name}",
        ["subject", "templates"],
        _all_pages(session.client, f"{gallery_path(name)}/subjects"),
        lambda info: [info["subject"], str(info["templates"])],
        "No subjects.",
    )


@subject.command("show")
@calls_edge
def show_subject(session: Session, name: Gallery, who: Subject) -> None:
    """Show the ids of a subject's faces."""
    answer = session.client.call("GET", subject_path(name, who))
    session.out.result(answer, "\n".join(f"{face['id']}  {face['created_at']}" for face in answer["faces"]))


@subject.command("delete")
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
    answer = session.client.call("DELETE", face_path(name, who, face) if face else subject_path(name, who))
    session.out.result(answer, f"Erased {counted(answer['templates'], 'template')}. {_receipt(answer)}")


def _compared(info: dict[str, Any]) -> str:
    return f"subjects are compared {_COMPARED[info['score']['rule']]}"


def _retention(info: dict[str, Any]) -> str:
    age = info["max_age_seconds"]
    if age is None:
        return "faces kept until they are erased"
    unit = next(unit for unit in _UNITS if age % _UNITS[unit] == 0)
    return f"retention {counted(age // _UNITS[unit], unit)}"


def _receipt(erased: dict[str, Any]) -> str:
    receipt = erased["receipt"]
    left = f" Not overwritten yet: {', '.join(erased['pending'])}." if erased["pending"] else ""
    return f"Receipt {receipt['id']}:{receipt['digest']}.{left}"


def _seconds(age: str) -> int:
    parts = re.fullmatch(r"([1-9][0-9]{0,9})([dhms])", age)
    if parts is None:
        raise typer.BadParameter("an age is a number and a unit, such as 90d, 12h, 30m or 45s")
    return int(parts[1]) * next(_UNITS[unit] for unit in _UNITS if unit.startswith(parts[2]))


def _all_pages(client: EdgeClient, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    params: dict[str, Any] = {"limit": 500}
    while True:
        page = client.call("GET", path, params=params)
        found += page["items"]
        if page["next"] is None:
            return found
        params["after"] = page["next"]
