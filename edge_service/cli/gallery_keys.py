"""The commands ``patronus keys``: share a gallery's secret key with another edge."""

from __future__ import annotations

import contextlib
import warnings
from getpass import GetPassWarning
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from edge_service.cli.session import Yes, confirm
from shared.command import gallery_name
from shared.errors import BadRequest, Conflict, NotFound, PatronusError, SetupError
from shared.security.process_secrets import lock_memory
from shared.security.secret_files import NAME_ANOTHER_FILE, read_secret, require_folder, write_secret

if TYPE_CHECKING:
    from edge_service.protection.keys import KeyStore
    from edge_service.settings import EdgeSettings
    from shared.contract import SealPin

app = typer.Typer(help="Secret keys of galleries: move one to another edge.", no_args_is_help=True)

# Galleries named in one sentence.
_MOST_NAMED: Final = 10
_MOST_EXPORTED_BYTES: Final = 1024**2

Gallery = Annotated[str, typer.Argument(metavar="GALLERY", callback=gallery_name, help="The gallery.")]
PassphraseFile = Annotated[
    Path | None, typer.Option(help="Private file that holds the passphrase. Absent: it is asked for.")
]

Unchecked = Annotated[
    bool, typer.Option("--unchecked", help="Skip the check at the cloud. The key may not be the gallery's.")
]


@app.command("export")
def export_key(
    gallery: Gallery,
    out: Annotated[Path, typer.Argument(help="New file for the encrypted key.")],
    passphrase_file: PassphraseFile = None,
    unchecked: Unchecked = False,
) -> None:
    """Write a gallery's key to a file, encrypted with a passphrase."""
    from edge_service.protection.key_transfer import wrap

    store = _store()
    key = store.gallery(gallery)
    require_folder(out)
    if not unchecked:
        _check_is_here(store, gallery, "No key was written (--unchecked writes it anyway)")
    wrapped = wrap(key, _passphrase(passphrase_file, confirm=True))
    try:
        write_secret(out, wrapped.encode(), replace=False, remedy=NAME_ANOTHER_FILE)
    except FileExistsError:
        raise Conflict(f"The file {out} is there already; name another.") from None
    typer.echo(f"The key of gallery {gallery} is in {out}. Fingerprint: {key.fingerprint()}")


@app.command("import")
def import_key(
    file: Annotated[
        Path, typer.Argument(help="A file that `patronus keys export` wrote.", exists=True, dir_okay=False)
    ],
    passphrase_file: PassphraseFile = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace another key of the same gallery.")] = False,
    unchecked: Unchecked = False,
) -> None:
    """Import a gallery's key from another edge."""
    from edge_service.protection.key_transfer import unwrap

    store = _store()
    key = unwrap(_exported(file), _passphrase(passphrase_file, confirm=False))
    if not unchecked:
        seal = _seal_at_cloud(key.gallery, "No key was imported (--unchecked imports it anyway)")
        if not replace and key.of(seal).key_id() != seal.key_id:
            raise Conflict(
                f"No key was imported, since gallery {key.gallery} is under another key at the cloud. If this is its "
                "next key, after a `patronus keys renew`, say patronus keys import --replace."
            )
    store.put(key, replace=replace)
    typer.echo(f"This edge now has the key of gallery {key.gallery}. Fingerprint: {key.fingerprint()}")
    typer.echo("Compare the fingerprint with the one that the export showed. A running edge must be started again.")


@app.command("list")
def list_imported() -> None:
    """Show the imported keys: gallery and fingerprint."""
    found = _store().imported()
    typer.echo("\n".join(f"{key.gallery}  {key.fingerprint()}" for key in found) or "No imported keys.")


@app.command()
def fingerprint(gallery: Gallery) -> None:
    """Show the fingerprint of a gallery's key, which reveals nothing of the key."""
    store = _store()
    with contextlib.suppress(SetupError):  # no cloud answers
        _check_is_here(store, gallery, "")
    typer.echo(store.gallery(gallery).fingerprint())


@app.command()
def renew(yes: Yes = False) -> None:
    """Draw a new master key after a leak. The old one is kept until all galleries are rekeyed."""
    store = _store()
    confirm("Draw a new master key, from which the next key of every gallery follows?", yes=yes)
    store.renew()
    typer.echo(
        "This edge has a new master key. Start it again now, and change the key of each gallery: patronus gallery "
        "rekey GALLERY. Then destroy the old keys: patronus keys forget, and the backups of them."
    )


@app.command()
def forget(
    yes: Yes = False,
    unchecked: Annotated[
        bool,
        typer.Option(
            "--unchecked", help="Skip the check at the cloud. Galleries still under an old key become unusable."
        ),
    ] = False,
) -> None:
    """Delete the previous master keys. Refused while the cloud has a gallery that needs one of them."""
    store = _store()
    if not store.has_old_keys():
        typer.echo("There are no old keys aside.")
        return
    confirm("Was every gallery rekeyed? What was not is lost, for good.", yes=yes)
    if not unchecked:
        _refuse_to_forget_needed(store)
    store.forget()
    typer.echo("The old keys are gone. Start the edge again.")


def _refuse_to_forget_needed(store: KeyStore) -> None:
    """Makes sure that no gallery of the cloud needs a key that would be destroyed.

    Raises:
        Conflict: a gallery does.
        SetupError: the cloud cannot be asked.
    """
    from edge_service.cli.cloud_lookup import all_galleries, ask, find_cloud

    cloud = find_cloud(_settings())
    try:
        found = ask(cloud, all_galleries)
    except PatronusError as error:
        raise SetupError(
            f"No key was destroyed, since the cloud at {cloud.settings.url} could not be asked which galleries need "
            f"one; --unchecked forgets without asking. {error.detail}"
        ) from None
    needing = [
        info.gallery
        for info in found
        if info.contract.seal is not None and store.needs_old_key(info.gallery, info.contract.seal)
    ]
    if needing:
        more = f" and {len(needing) - _MOST_NAMED} more" if len(needing) > _MOST_NAMED else ""
        raise Conflict(
            f"No key was destroyed, since these galleries still need an old one: {', '.join(needing[:_MOST_NAMED])}"
            f"{more}; change the key of each with `patronus gallery rekey NAME` first."
        )


def _seal_at_cloud(gallery: str, not_done: str) -> SealPin:
    """The seal of a gallery as the cloud states it.

    Raises:
        NotFound: there is no such gallery.
        SetupError: the cloud cannot be asked, or the gallery has no seal to compare keys with.
    """
    from edge_service.cli.cloud_lookup import ask, find_cloud

    cloud = find_cloud(_settings())
    try:
        seal = ask(cloud, lambda client: client.gallery(gallery)).contract.seal
    except NotFound:
        raise
    except PatronusError as error:
        raise SetupError(
            f"{not_done}, since the cloud at {cloud.settings.url} could not be asked about the gallery. {error.detail}"
        ) from None
    if seal is None:
        raise SetupError(f"{not_done}, since the gallery's profile does not seal, and no key can be compared with it.")
    return seal


def _check_is_here(store: KeyStore, gallery: str, not_done: str) -> None:
    if store.named_by(gallery, _seal_at_cloud(gallery, not_done)) is None:
        raise Conflict("This edge does not have the key of this gallery; export it at the edge that made it.")


def _settings() -> EdgeSettings:
    from edge_service.settings import EdgeSettings
    from shared.service_settings import load_settings

    return load_settings(EdgeSettings)


def existing_keys(settings: EdgeSettings) -> KeyStore:
    """The keys of an edge that has been started; no command but ``edge serve`` makes a master key.

    Raises:
        SetupError: there is no edge's key in the folder, or it is damaged.
    """
    from edge_service.protection.keys import KeyStore

    if not (settings.home / "master.key").exists() and not settings.keys_file.exists():
        raise SetupError(f"There is no edge's key in {settings.home}; name the edge's folder with PATRONUS_HOME.")
    return KeyStore(settings.home, may_make=False)


def _exported(file: Path) -> bytes:
    from edge_service.models.files import read_at_most

    try:
        return read_at_most(file, _MOST_EXPORTED_BYTES)
    except OSError as error:
        raise BadRequest(f"{file}: cannot be read ({error.strerror}).") from None


def _store() -> KeyStore:
    lock_memory()
    return existing_keys(_settings())


def _passphrase(file: Path | None, *, confirm: bool) -> str:
    if file is not None:
        try:
            content = read_secret(file).decode()
        except (FileNotFoundError, UnicodeDecodeError):
            raise BadRequest(f"The passphrase file {file} cannot be read as text.") from None
        lines = content.splitlines()
        if len(lines) != 1 or not lines[0].strip():
            raise BadRequest(f"The passphrase file {file} must hold the passphrase in one line, and nothing else.")
        return lines[0]
    try:
        with warnings.catch_warnings(action="error", category=GetPassWarning):  # it would show what is typed
            entered: str = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    except GetPassWarning:
        typer.echo("\nThere is no terminal to ask at; name the passphrase's file with --passphrase-file.", err=True)
        raise typer.Exit(2) from None
    return entered
