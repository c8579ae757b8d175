"""The commands ``patronus keys``: share a gallery's secret key with another edge."""

from __future__ import annotations

import warnings
from getpass import GetPassWarning
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from edge_service.cli.session import Yes, confirm
from shared.command import gallery_name
from shared.errors import BadRequest, Conflict, NotFound, PatronusError, SetupError
from shared.security.process_secrets import lock_memory
from shared.security.secret_files import read_secret, write_secret

if TYPE_CHECKING:
    from edge_service.protection.keys import GalleryKey, KeyStore
    from edge_service.settings import EdgeSettings

app = typer.Typer(help="Secret keys of galleries: move one to another edge.", no_args_is_help=True)

# Galleries named in one sentence.
_MOST_NAMED: Final = 10

Gallery = Annotated[str, typer.Argument(metavar="GALLERY", callback=gallery_name, help="The gallery.")]
PassphraseFile = Annotated[
    Path | None, typer.Option(help="Private file that holds the passphrase. Absent: it is asked for.")
]


@app.command("export")
def export_key(
    gallery: Gallery,
    out: Annotated[Path, typer.Argument(help="New file for the wrapped key.")],
    passphrase_file: PassphraseFile = None,
) -> None:
    """Write a gallery's key to a file, wrapped under a passphrase."""
    from edge_service.protection.key_transfer import wrap

    store = _store()
    key = store.gallery(gallery)
    unchecked = _check_with_cloud(store, key)
    wrapped = wrap(key, _passphrase(passphrase_file, confirm=True))
    try:
        write_secret(out, wrapped.encode(), replace=False)
    except FileExistsError:
        raise Conflict(f"The file {out} is there already; name another.") from None
    typer.echo(f"The key of gallery {gallery} is in {out}. Fingerprint: {key.fingerprint()}")
    if unchecked is not None:
        typer.echo(unchecked, err=True)


@app.command("import")
def import_key(
    file: Annotated[
        Path, typer.Argument(help="A file that `patronus keys export` wrote.", exists=True, dir_okay=False)
    ],
    passphrase_file: PassphraseFile = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace another key of the same gallery.")] = False,
) -> None:
    """Keep the key of a gallery that another edge made."""
    from edge_service.protection.key_transfer import unwrap

    key = unwrap(file.read_bytes(), _passphrase(passphrase_file, confirm=False))
    _store().put(key, replace=replace)
    typer.echo(f"This edge now has the key of gallery {key.gallery}. Fingerprint: {key.fingerprint()}")
    typer.echo("Compare the fingerprint with the one that the export showed. A running edge must be started again.")


@app.command()
def fingerprint(gallery: Gallery) -> None:
    """Show the fingerprint of a gallery's key, which reveals nothing of the key."""
    typer.echo(_store().gallery(gallery).fingerprint())


@app.command()
def renew(yes: Yes = False) -> None:
    """Draw a new master key after a leak. The old one is kept until all galleries are rekeyed."""
    store = _store()
    confirm("Draw a new master key, from which the next key of every gallery follows?", yes=yes)
    store.renew()
    typer.echo(
        "This edge has a new master key. Start it again now, and change the key of each gallery: patronus gallery "
        "rekey GALLERY. Then destroy the old keys: patronus keys forget, and the back-ups of them."
    )


@app.command()
def forget(
    yes: Yes = False,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Do not ask the cloud: a gallery under an old key is lost.")
    ] = False,
) -> None:
    """Destroy the old keys that are kept aside. Refused while the cloud has a gallery that needs one of them."""
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


def _check_with_cloud(store: KeyStore, key: GalleryKey) -> str | None:
    """Makes sure that this edge has the gallery's key, since any name gives some key.

    Returns:
        Why this could not be checked, for a person; None where it was.

    Raises:
        NotFound: there is no such gallery.
        Conflict: another edge made it, and this edge does not have its key.
    """
    from edge_service.cli.cloud_lookup import ask, find_cloud

    try:
        seal = ask(find_cloud(_settings()), lambda cloud: cloud.gallery(key.gallery)).contract.seal
    except NotFound:
        raise
    except PatronusError as error:
        return f"{error.detail} So it was not checked that this is the gallery's key; compare the fingerprints."
    if seal is None or store.named_by(key.gallery, seal) is None:
        raise Conflict("This edge does not have the key of this gallery; export it at the edge that made the gallery.")
    return None


def _settings() -> EdgeSettings:
    from edge_service.settings import EdgeSettings
    from shared.service_settings import load_settings

    return load_settings(EdgeSettings)


def _store() -> KeyStore:
    from edge_service.protection.keys import KeyStore

    lock_memory()
    settings = _settings()
    return KeyStore(settings.home, may_make=not settings.keys_file.exists())


def _passphrase(file: Path | None, *, confirm: bool) -> str:
    if file is not None:
        try:
            return read_secret(file).decode().rstrip("\r\n")
        except (FileNotFoundError, UnicodeDecodeError):
            raise BadRequest(f"The passphrase file {file} cannot be read as text.") from None
    try:
        with warnings.catch_warnings(action="error", category=GetPassWarning):  # it would show what is typed
            entered: str = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    except GetPassWarning:
        typer.echo("\nThere is no terminal to ask at; name the passphrase's file with --passphrase-file.", err=True)
        raise typer.Exit(2) from None
    return entered
