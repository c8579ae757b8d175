"""``patronus edge``: run the service, make its keys, and manage its API keys."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated

import typer

from shared.security.keys_command import keys_command

if TYPE_CHECKING:
    from shared.security.key_ring import KeyRing


def _ring() -> KeyRing:
    from edge_service.settings import EdgeSettings
    from shared.security.key_ring import KeyRing
    from shared.service_settings import load_settings

    return KeyRing(load_settings(EdgeSettings).keys_file)


app = typer.Typer(help="The edge: takes pictures, sends protected templates.", no_args_is_help=True)
app.add_typer(keys_command(_ring, "edge"), name="keys")


@app.command("sign-in")
def sign_in(
    url: Annotated[
        str | None, typer.Option(help="Where the browser reaches the edge.", show_default="where it runs here")
    ] = None,
) -> None:
    """Print a link that signs a browser in to the console: it works once, within ten minutes."""
    from edge_service.console.sign_in_codes import SignInCodes, sign_in_link
    from edge_service.settings import EdgeSettings
    from shared.errors import SetupError
    from shared.security.secret_files import read_secret
    from shared.service_settings import load_settings
    from shared.urls import service_url

    settings = load_settings(EdgeSettings)
    if not settings.console:
        raise SetupError("The console is off; set PATRONUS_EDGE__CONSOLE=true for the edge, and restart it.")
    if url is None:
        url = service_url(settings.host, settings.port, tls=settings.tls.certificate is not None)
        with contextlib.suppress(OSError, SetupError, UnicodeDecodeError):  # else no edge runs here
            url = read_secret(settings.address_file).decode("ascii").strip()
    typer.echo(sign_in_link(url, SignInCodes(settings.sign_in_file)))


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", show_default="8000")] = None,
) -> None:
    """Run the service in the foreground."""
    from edge_service.app import create_app
    from edge_service.cli.cloud_lookup import published
    from edge_service.picture_memory import unmap_large_blocks
    from edge_service.settings import EdgeSettings
    from shared.http.serving import serve as run
    from shared.logs import configure_logging, get_logger
    from shared.security.process_secrets import lock_memory
    from shared.service_settings import load_settings

    settings = load_settings(EdgeSettings, host=host, port=port)
    configure_logging(settings.log_level, "edge")
    get_logger(__name__).info("memory_locked", what=lock_memory())
    unmap_large_blocks()
    app = create_app(settings)
    with published(settings):
        run("edge", app, settings)
