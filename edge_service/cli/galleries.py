"""The commands ``patronus gallery``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edge_service.cli.session import Gallery, Session, Yes, calls_edge, confirm
from edge_service.cli.thresholds import (
    Cosine,
    FalseAccepts,
    Fmr,
    ForSubjects,
    cost_of,
    threshold_of,
    wanted_threshold,
)
from edge_service.cli.times import age_text, seconds_of
from shared.command import counted, finite

if TYPE_CHECKING:
    from shared.wire.common import Erased, KeyChange, Receipt
    from shared.wire.edge import EdgeGallery

gallery = typer.Typer(help="Galleries: create, list, show, change, erase.", no_args_is_help=True)

# How subjects with several faces are compared.
ScoreRule = Literal["mean", "best"]
_COMPARED = {"mean": "by the mean of their faces", "best": "by their most similar face"}
# Items a page: the most that the edge allows.
_PAGE = 500


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
    wanted = wanted_threshold(threshold, fmr, for_subjects, false_accepts)
    answer = session.client.put_gallery(name, threshold=wanted, verify_only=verify_only, score_rule=score)
    kind = " for verification only" if answer.verify_only else ""
    at = threshold_of(answer, _whose_rate(session) if wanted is None else "")
    session.out.result(answer, f"Gallery {name} is ready{kind}; threshold: {at}.{cost_of(answer)}")


@gallery.command("list")
@calls_edge
def list_galleries(session: Session) -> None:
    """Show all galleries."""
    session.out.results(
        "Galleries",
        ["gallery", "subjects", "templates", "for", "score"],
        list(session.client.all_galleries(limit=_PAGE)),
        lambda info: [
            info.gallery,
            str(info.subjects),
            str(info.templates),
            "verify" if info.verify_only else "identify",
            info.score.rule,
        ],
        "No galleries. Make one: patronus gallery create NAME",
    )


@gallery.command("show")
@calls_edge
def show_gallery(session: Session, name: Gallery) -> None:
    """Show a gallery: size, threshold, score rule, contract."""
    answer = session.client.get_gallery(name)
    contract = answer.contract
    sealed = "not sealed" if contract.seal is None else "verify-only" if answer.verify_only else "sealed"
    session.out.result(
        answer,
        f"{counted(answer.subjects, 'subject')}, {counted(answer.templates, 'template')}; threshold: "
        f"{threshold_of(answer)}; {_compared(answer)}; embedder {contract.embedder.name}, profile "
        f"{contract.profile.name}, {sealed}; {_retention(answer)}.",
    )


@gallery.command("delete")
@calls_edge
def delete_gallery(session: Session, name: Gallery, yes: Yes = False) -> None:
    """Erase a gallery with everybody in it."""
    confirm(f"Erase the gallery {name} with everybody in it, for good?", yes=yes)
    answer = session.client.delete_gallery(name)
    erased = f"{counted(answer.subjects, 'subject')} with {counted(answer.templates, 'template')}"
    session.out.result(answer, f"Erased {erased}. {erasure_text(answer)}")


@gallery.command("score")
@calls_edge
def change_score(
    session: Session,
    name: Gallery,
    rule: Annotated[ScoreRule, typer.Argument(metavar="RULE", help="mean: of all faces; best: the most similar one.")],
) -> None:
    """Change how subjects with several faces are compared. Holds for enrolled subjects too."""
    answer = session.patient_client.change_gallery(name, score_rule=rule)
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
    answer = session.patient_client.change_gallery(name, threshold=wanted)
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
    if max_age is None:
        answer = session.client.remove_retention(name)
    else:
        seconds = seconds_of(max_age)
        confirm(f"Erase what is older than {max_age} in {name}, from now on?", yes=yes)
        answer = session.client.set_retention(name, seconds)
    session.out.result(answer, f"Gallery {name}: {_retention(answer)}.")


@gallery.command("erasure")
@calls_edge
def show_erasure(
    session: Session,
    name: Gallery,
    receipt: Annotated[str, typer.Argument(metavar="RECEIPT", help="The receipt that the erasure answered.")],
) -> None:
    """Show what an erasure has overwritten so far."""
    from shared.wire.common import moment_text

    number = re.fullmatch(r"([0-9]{1,18})(:[0-9a-f]{64})?", receipt)
    if number is None:
        raise typer.BadParameter("a receipt is a number, or a number, a colon and 64 hexadecimal digits")
    answer = session.client.get_erasure(name, int(number[1]))
    left = f"not overwritten yet: {', '.join(answer.pending)}" if answer.pending else "nothing of it is left"
    erased = f"{counted(answer.templates, 'template')}, erased at {moment_text(answer.receipt.at)}"
    session.out.result(answer, f"{erased}; {left}.")


@gallery.command("duplicates")
@calls_edge
def find_duplicates(
    session: Session,
    name: Gallery,
    min_similarity: Annotated[
        float | None,
        typer.Option(callback=finite, min=-1, max=1, help="Least similarity. [default: the gallery's threshold]"),
    ] = None,
) -> None:
    """Find people who are enrolled under two names. Changes nothing."""
    from edge_service.cli.subjects.duplicates import show_duplicates

    show_duplicates(session, name, min_similarity)


@gallery.command("rekey")
@calls_edge
def rekey_gallery(
    session: Session,
    name: Gallery,
    abandon: Annotated[bool, typer.Option("--abandon", help="Give up a change that is under way.")] = False,
) -> None:
    """Change a gallery's key while matching goes on. Run it again to continue after a stop."""
    client, out = session.patient_client, session.out
    before = client.get_rekey(name) if abandon else None
    if before is not None and before.state == "settled":
        out.result(before, "No change of key was under way.")
        return
    epoch: str | None = None
    with out.progress() as progress:
        bar = progress.add_task("", total=None)
        while True:
            if abandon:
                answer = client.cancel_rekey(name)
                done = answer.state != "staging"
            else:
                answer = client.start_rekey(name, epoch=epoch)
                # Name the first answer's key from now on: a change that is done is not begun once more.
                epoch = epoch or _next_epoch(answer)
                done = answer.state != "settling" and _epoch(answer) == epoch
            if done:
                break
            total = answer.templates
            progress.update(bar, description=answer.state, total=total, completed=total - answer.left)
    begin = "The change of key was given up. " if before is not None and before.state == "staging" else ""
    held = counted(answer.templates, "template is", "templates are")
    out.result(answer, f"{begin}{answer.gallery}: {held} under the key of epoch {_epoch(answer) or 'none'}.")


def _epoch(found: KeyChange) -> str | None:
    return None if found.contract.seal is None else found.contract.seal.epoch


def _next_epoch(found: KeyChange) -> str | None:
    seal = (found.next_contract or found.contract).seal
    return None if seal is None else seal.epoch


def _compared(info: EdgeGallery) -> str:
    return f"subjects are compared {_COMPARED[info.score.rule]}"


def _retention(info: EdgeGallery) -> str:
    age = info.max_age_seconds
    if age is None:
        return "faces kept until they are erased"
    return f"retention {age_text(age)}"


def erasure_text(erased: Erased) -> str:
    """The receipt of an erasure, and what is not overwritten yet."""
    left = f" Not overwritten yet: {', '.join(erased.pending)}." if erased.pending else ""
    return f"{receipt_text(erased.receipt)}{left}"


def receipt_text(receipt: Receipt) -> str:
    """A receipt as ``gallery erasure`` takes it."""
    return f"Receipt {receipt.id}:{receipt.digest}."


def _whose_rate(session: Session) -> str:
    return " on adults" if session.client.get_info().fmr_measured_on == "lfw_adults" else ""
