"""Options and connection shared by all commands that call an edge."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from shared.errors import SetupError, Unauthenticated
from shared.standard_streams import visible

if TYPE_CHECKING:
    from edge_service.cli.output import Output
    from shared.client import Client

Gallery = Annotated[str, typer.Argument(metavar="GALLERY", help="The gallery.")]
Subject = Annotated[str, typer.Argument(metavar="SUBJECT", help="The subject.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
Edge = Annotated[
    str | None, typer.Option(envvar="PATRONUS_EDGE_URL", help="The edge. [default: the one on this machine]")
]
KeyFile = Annotated[Path | None, typer.Option(help="File with an API key. [default: the edge's own on this machine]")]

# Of a call that somebody waits for.
_TIMEOUT_S: Final = 60.0
# Of a call within a long command: for up to some 20 s while the edge or the cloud is busy.
_PATIENT_RETRIES: Final = 5
# Of one of its requests: up to 64 MB over a slow uplink.
_PATIENT_TIMEOUT_S: Final = 300.0


class Session:
    """A command's connection to its edge, opened at the first use, and its output."""

    def __init__(self, edge: Edge = None, key_file: KeyFile = None, json: Json = False) -> None:
        self._edge = edge
        self._key_file = key_file
        self._json = json
        self._opened = contextlib.ExitStack()

    @functools.cached_property
    def client(self) -> Client:
        """The edge, for a command that somebody waits for: what fails is reported at once.

        Raises:
            SetupError: there is no API key where it is looked for, or the address is wrong.
        """
        return self._connect(retries=0, timeout_s=_TIMEOUT_S)

    @functools.cached_property
    def patient_client(self) -> Client:
        """The edge, for a command of many calls: they are repeated while the edge or the cloud is busy.

        Raises:
            SetupError: there is no API key where it is looked for, or the address is wrong.
        """
        return self._connect(retries=_PATIENT_RETRIES, timeout_s=_PATIENT_TIMEOUT_S)

    @functools.cached_property
    def out(self) -> Output:
        """Where results are printed."""
        from edge_service.cli.output import Output

        return Output(as_json=self._json)

    @property
    def is_of_this_machine(self) -> bool:
        """Whether the edge is the one that runs here, whose folder says how it reaches its cloud."""
        running_here = address_here()
        return running_here is not None and self._edge in {None, running_here}

    @contextlib.contextmanager
    def ended(self) -> Iterator[None]:
        """Closes the connections at the end, and says where a key that is not known was sent.

        Raises:
            Unauthenticated: with that sentence.
        """
        try:
            with self._opened:
                yield
        except Unauthenticated as error:
            error.detail = (
                f"The edge at {self._url} does not know this API key, or it was revoked. Name the edge with --edge (a "
                "cloud takes no key of an edge), or a file with its key with --key-file."
            )
            error.problem = (error.problem or {}) | {"detail": error.detail}
            raise

    @property
    def _url(self) -> str | None:
        return self._edge or address_here()

    def _connect(self, *, retries: int, timeout_s: float) -> Client:
        from shared.client import Client

        client = Client(self._url, api_key=self._key(), retries=retries, timeout_s=timeout_s)
        self._opened.callback(client.close)
        return client

    def _key(self) -> str:
        from shared.security.secret_files import read_secret

        key = os.environ.get("PATRONUS_API_KEY")
        if key is not None and self._key_file is None:
            return key
        path = self._key_file or _edge_home() / "api_key"
        try:
            return read_secret(path).decode("ascii").strip()
        except (FileNotFoundError, UnicodeDecodeError):
            raise SetupError(
                f"There is no API key in {path}; start an edge here, or name the key's file with --key-file or the key "
                "itself in PATRONUS_API_KEY."
            ) from None


def calls_edge(command: Callable[..., None]) -> Callable[..., None]:
    """Adds --edge, --key-file and --json to a command that takes a ``Session`` first."""

    @functools.wraps(command)
    def with_options(*, edge: str | None, key_file: Path | None, json: bool, **arguments: Any) -> None:
        session = Session(edge, key_file, json)
        with session.ended():
            command(session, **arguments)

    own = inspect.signature(command, eval_str=True)
    added = inspect.signature(Session, eval_str=True)
    wrapped: Any = with_options
    wrapped.__signature__ = own.replace(parameters=[*list(own.parameters.values())[1:], *added.parameters.values()])
    return with_options


def confirm(question: str, *, yes: bool) -> None:
    """Asks before something is lost, unless ``--yes`` was given; ends the command on a no."""
    if not yes:
        typer.confirm(f"{visible(question)} (--yes: do not ask)", abort=True, err=True)


def address_here() -> str | None:
    """Where the edge that runs on this machine is reached; None: none runs here."""
    try:
        return (_edge_home() / "address").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _edge_home() -> Path:
    """The edge's folder. Its settings are not loaded here: a client's installation need not have the service."""
    from shared.home import patronus_home

    named = os.environ.get("PATRONUS_EDGE__HOME")
    return Path(named) if named else patronus_home() / "edge"
