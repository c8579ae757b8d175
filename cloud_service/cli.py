"""The commands ``patronus cloud …``.

Each loads what it needs when it runs, so that help is quick.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.command import counted, gallery_name
from shared.security.keys_command import keys_command

if TYPE_CHECKING:
    from cloud_service.record.backup import Held
    from cloud_service.settings import Settings
    from shared.security.key_ring import KeyRing


def _settings(host: str | None = None, port: int | None = None) -> Settings:
    from cloud_service.settings import Settings
    from shared.service_settings import load_settings

    return load_settings(Settings, host=host, port=port)


def _ring() -> KeyRing:
    from shared.security.key_ring import KeyRing

    return KeyRing(_settings().keys_file)


app = typer.Typer(
    help="The cloud: stores protected templates and matches them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_audit = typer.Typer(help="The audit log: check it, and search it.", no_args_is_help=True)
_erasures = typer.Typer(help="What was erased: listed in a file, and erased again.", no_args_is_help=True)
app.add_typer(keys_command(_ring, "cloud"), name="keys")
app.add_typer(_audit, name="audit")
app.add_typer(_erasures, name="erasures")

Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", show_default="8001")] = None,
) -> None:
    """Run the service in the foreground."""
    from cloud_service.app import create_app
    from shared.http.serving import serve as run

    settings = _settings(host, port)
    run("cloud", create_app(settings), settings)


@app.command()
def init(
    api_key_out: Annotated[
        Path | None, typer.Option(help="Also leave the first API key in this private file, for the edge.")
    ] = None,
) -> None:
    """Make the home folder and the first API key; harmless when repeated."""
    from shared.errors import SetupError
    from shared.security.secret_files import NAME_ANOTHER_FILE, locked, remove_leftovers, write_secret

    settings = _settings()
    ring = _ring()
    made = ring.ensure_first_key(settings.first_key_file)
    if api_key_out is not None and _key_in(api_key_out, ring) is None:
        key = _key_in(settings.first_key_file, ring)
        if key is None:
            raise SetupError(
                f"The first API key is not in {settings.first_key_file} any more, or was revoked; "
                "make another: patronus cloud keys create --out FILE."
            )
        with locked(ring.path):
            remove_leftovers(api_key_out)
            write_secret(api_key_out, f"{key}\n".encode("ascii"), replace=True, remedy=NAME_ANOTHER_FILE)
    typer.echo(f"The first API key is in {settings.first_key_file}." if made else "The cloud has API keys already.")


@app.command()
def backup(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="The backup to write.")], force: Force = False
) -> None:
    """Copy the record to a file, checked, while the service runs."""
    from cloud_service.record.backup import back_up

    held = back_up(_record(), target, replace=force)
    typer.echo(f"{target}: {_held(held)}.")


@app.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A backup.")],
    force: Force = False,
    erasures: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What was erased, as patronus cloud erasures export wrote it.")
    ] = None,
) -> None:
    """Replace the record by a backup; the service must not run.

    What was erased since the backup is erased from it.
    """
    from cloud_service.record.backup import restore as put_back

    record = _record()
    found = put_back(source, record, replace=force, erasures=erasures)
    carried, repeated = found.carried, ""
    if carried.unread is not None:
        typer.echo(
            f"The audit log of the record that was replaced is broken or cannot be read ({carried.unread}): of what "
            "was erased since the backup, only what the list names is known.",
            err=True,
        )
    if carried.known_from is None:
        typer.echo(
            "What was erased since the backup is not known here, and is there again: erase it again, or restore once "
            "more with a list of it (--erasures FILE).",
            err=True,
        )
    else:
        done = carried.repeated
        repeated = (
            f"Repeated {counted(done.erasures, 'erasure')} (known from {carried.known_from}): "
            f"{counted(done.subjects, 'subject')}, {counted(done.templates, 'template')}. "
        )
    typer.echo(f"{record}: {repeated}Now: {_held(found.held)}.")
    for gallery in carried.other_key:
        typer.echo(f"{gallery} is under its earlier key again.")


@app.command()
def check(
    show_subjects: Annotated[
        bool, typer.Option("--show-subjects", help="Also name the subjects to erase: personal data.")
    ] = False,
) -> None:
    """Read the whole record and the index files, and list what is damaged.

    The service may run meanwhile.
    """
    from cloud_service.record.check import check_record

    settings = _settings()
    found = check_record(settings.record_url, settings.home.expanduser() / "index")
    for one in found.damaged:
        staged = ", written for the change of the gallery's key," if one.staged else ""
        whose = f": subject {one.subject}, template {one.template}" if show_subjects else ""
        typer.echo(f"gallery {one.gallery}: template row {one.row}{staged} is damaged{whose}")
    for problem in found.problems:
        typer.echo(problem)
    galleries, templates = counted(found.galleries, "gallery", "galleries"), counted(found.templates, "template")
    read = f"{galleries}, {templates} and {counted(found.index_files, 'index file')} were read"
    if found.damaged or found.problems:
        damaged = counted(len(found.damaged), "template is", "templates are")
        typer.echo(f"{read}: {damaged} damaged, {counted(len(found.problems), 'other fault')}.", err=True)
        raise typer.Exit(1)
    typer.echo(f"{read}: nothing is damaged.")


@_audit.command()
def verify(
    head: Annotated[
        str | None, typer.Option(metavar="SEQ:DIGEST", help="A head, or a receipt's id and digest, noted earlier.")
    ] = None,
) -> None:
    """Check that no entry was changed, taken out or put in.

    Names the first that does not fit, or a restore.
    """
    from cloud_service.audit.check import check, reading
    from cloud_service.audit.log import parse_head
    from shared.errors import BadRequest

    try:
        noted = None if head is None else parse_head(head)
    except ValueError:
        raise BadRequest("A head is a number, a colon, and 64 hexadecimal digits.") from None
    with reading(_settings().record_url) as connection:
        found = check(connection, noted)
    if found.wrong is not None or found.restored is not None:
        typer.echo(found.restored or f"The audit log was tampered with: {found.wrong}.", err=True)
        raise typer.Exit(1)
    entries = counted(found.head.seq, "entry", "entries")
    typer.echo(f"{entries}, chain intact. Store this head elsewhere:")
    typer.echo(f"{found.head.seq}:{found.head.digest}")


@_audit.command()
def find(
    gallery: Annotated[str, typer.Argument(metavar="GALLERY", callback=gallery_name, help="The gallery.")],
    subject: Annotated[
        str,
        typer.Argument(
            metavar="SUBJECT", help="The subject, as the cloud stores it; its mark; or the id of a receipt."
        ),
    ],
) -> None:
    """Show what the log says about a subject, one JSON object a line.

    The log has marks in place of names. Of an erased subject, the erasure's receipt has the id of the entry with it.
    """
    from cloud_service.audit.check import reading
    from cloud_service.audit.log import about, knows_gallery, mark_in_entry, mark_of
    from shared.errors import BadRequest
    from shared.names import is_utf8

    if not is_utf8(subject):
        raise BadRequest("The name of a subject is a text in UTF-8, and this one is not; send UTF-8.")
    with reading(_settings().record_url) as connection:
        mark = mark_of(connection, gallery, subject) or (subject if re.fullmatch("[0-9a-f]{64}", subject) else None)
        if mark is None and re.fullmatch("[1-9][0-9]{0,17}", subject):
            mark = mark_in_entry(connection, gallery, int(subject))
        found = [] if mark is None else [entry.model_dump_json() for entry in about(connection, gallery, mark)]
        known = bool(found) or knows_gallery(connection, gallery)
    for line in found:
        typer.echo(line)
    if not known:
        typer.echo(f"There is no gallery {gallery}, and the log has nothing about one of this name.", err=True)
    elif not found:
        typer.echo("The log has nothing about this subject. If it is erased, give the id of its receipt.", err=True)


@_erasures.command()
def export(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="The list to write.")], force: Force = False
) -> None:
    """Write all erasures of the record to a file; it names no subject.

    The service may run meanwhile.
    """
    from cloud_service.audit.check import reading
    from cloud_service.erasure.erasure_list import export_erasures

    with reading(_settings().record_url) as connection:
        found = export_erasures(connection, target, replace=force)
    typer.echo(f"{target}: {counted(len(found.erasures), 'erasure')}, up to entry {found.head.seq} of the audit log.")


@_erasures.command()
def apply(source: Annotated[Path, typer.Argument(metavar="FILE", help="A list of erasures.")]) -> None:
    """Erase again what a list names, from the record; the service must not run.

    For PostgreSQL, use it after pg_restore.
    """
    from cloud_service.erasure.carry_over import apply_list

    done = apply_list(_settings(), source)
    typer.echo(
        f"Repeated {counted(done.erasures, 'erasure')}: "
        f"{counted(done.subjects, 'subject')}, {counted(done.templates, 'template')}."
    )


def _key_in(path: Path, ring: KeyRing) -> str | None:
    """Reads the API key in a private file; None if there is none, or it is not valid here."""
    from shared.security.secret_files import read_secret

    try:
        key = read_secret(path).decode("ascii", errors="replace").strip()
    except FileNotFoundError:
        return None
    return key if ring.check(key) else None


def _record() -> Path:
    from cloud_service.record.sqlite import sqlite_file
    from shared.errors import SetupError

    file = sqlite_file(_settings().record_url)
    if file is None:
        raise SetupError("The record is in PostgreSQL: back it up with pg_dump, and put it back with pg_restore.")
    return file


def _held(held: Held) -> str:
    galleries, subjects = counted(held.galleries, "gallery", "galleries"), counted(held.subjects, "subject")
    return f"{galleries}, {subjects}, {counted(held.templates, 'template')}"
