"""Options, connection and paths shared by all commands that call an edge."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from shared.errors import BadRequest
from shared.names import GALLERY_PATTERN, TEMPLATE_ID_PATTERN, subject_name

if TYPE_CHECKING:
    from edge_service.cli.edge_client import EdgeClient
    from edge_service.cli.output import Output

_RULES = {
    GALLERY_PATTERN: "1 to 64 letters, digits or ._-, and a letter or digit first",
    TEMPLATE_ID_PATTERN: "32 hexadecimal digits in lower case, as `patronus subject show` prints them",
}

Gallery = Annotated[str, typer.Argument(metavar="GALLERY", help="The gallery.")]
Subject = Annotated[str, typer.Argument(metavar="SUBJECT", help="The subject.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
Edge = Annotated[
    str | None, typer.Option(envvar="PATRONUS_EDGE_URL", help="The edge. [default: the one on this machine]")
]
KeyFile = Annotated[Path | None, typer.Option(help="File with an API key. [default: the edge's own on this machine]")]


class Session:
    """A command's connection to its edge, opened at the first use, and its output."""

    def __init__(self, edge: Edge = None, key_file: KeyFile = None, json: Json = False) -> None:
        self._edge = edge
        self._key_file = key_file
        self._json = json

    @functools.cached_property
    def client(self) -> EdgeClient:
        """The edge.

        Raises:
            SetupError: there is no API key where it is looked for, or the address is wrong.
        """
        from edge_service.cli.edge_client import connect

        return connect(self._edge, self._key_file)

    @functools.cached_property
    def out(self) -> Output:
        """Where results are printed."""
        from edge_service.cli.output import Output

        return Output(as_json=self._json)


def calls_edge(command: Callable[..., None]) -> Callable[..., None]:
    """Adds --edge, --key-file and --json to a command that takes a ``Session`` first."""

    @functools.wraps(command)
    def with_options(*, edge: str | None, key_file: Path | None, json: bool, **arguments: Any) -> None:
        command(Session(edge, key_file, json), **arguments)

    own = inspect.signature(command, eval_str=True)
    added = inspect.signature(Session, eval_str=True)
    wrapped: Any = with_options
    wrapped.__signature__ = own.replace(parameters=[*list(own.parameters.values())[1:], *added.parameters.values()])
    return with_options


def confirm(question: str, *, yes: bool) -> None:
    """Asks before something is lost, unless ``--yes`` was given; ends the command on a no."""
    if not yes:
        typer.confirm(f"{question} (--yes: do not ask)", abort=True, err=True)


def gallery_path(gallery: str) -> str:
    """The path of a gallery.

    Raises:
        BadRequest: no gallery can have this name.
    """
    return f"/v1/galleries/{_checked(gallery, GALLERY_PATTERN, 'gallery')}"


def subject_path(gallery: str, subject: str) -> str:
    """The path of a subject.

    Raises:
        BadRequest: no gallery or subject can have this name.
    """
    try:
        return f"{gallery_path(gallery)}/subjects/{quote(subject_name(subject), safe='')}"
    except ValueError as error:
        raise BadRequest(f"{subject!r} cannot be used: {error}.") from None


def face_path(gallery: str, subject: str, face: str) -> str:
    """The path of a face.

    Raises:
        BadRequest: no gallery, subject or face can have this name.
    """
    return f"{subject_path(gallery, subject)}/faces/{_checked(face, TEMPLATE_ID_PATTERN, 'face')}"


def is_verify_only(info: dict[str, Any]) -> bool:
    """Whether each subject of a gallery has its own seal."""
    seal = info["contract"]["seal"]
    return seal is not None and seal["scope"] == "subject"


def _checked(name: str, pattern: str, what: str) -> str:
    """Checks a name for a path: a slash or a dot in it would lead to another resource."""
    if re.fullmatch(pattern, name) is None:
        raise BadRequest(f"{name!r} is not a name that a {what} can have: {_RULES[pattern]}.")
    return name
