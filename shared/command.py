"""The ``patronus`` command, assembled from groups that each package registers.

So no package imports another.
"""

import contextlib
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

from shared.errors import PatronusError
from shared.home import patronus_version
from shared.security.process_secrets import keep_out_of_dumps
from shared.standard_streams import guard_standard_streams, json_line, visible

if TYPE_CHECKING:
    import typer


# A plain installation has the library and the client; these bring what the services, the converter and the lab need.
_EXTRAS = ("cloud", "edge", "lab", "models")
_OURS = ("cloud_service", "edge_service", "lab", "patronus_face", "shared")


def build(words: Sequence[str] = ()) -> "typer.Typer":
    """The command with its groups; the commands of the group ``client`` are at the top level.

    Args:
        words: of the command line. Where the first one names a group, only that group is loaded.
    """
    from importlib.metadata import entry_points

    import typer

    app = typer.Typer(
        name="patronus",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback()
    def options(
        _version: Annotated[
            bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and end.")
        ] = False,
    ) -> None:
        """Face recognition in which the cloud sees sealed templates, and never a face."""

    groups = {found.name: found for found in entry_points(group="patronus.commands")}
    if words and not words[0].startswith("-"):
        name = words[0] if words[0] in groups else "client"
        groups = {name: groups[name]}
    for name, found in sorted(groups.items()):
        if find_spec(found.module.split(".", maxsplit=1)[0]) is None:
            continue  # an image of one service holds no code of the other
        app.add_typer(found.load(), name=None if name == "client" else name)
    return app


def _show_version(wanted: bool) -> None:
    import typer

    if wanted:
        print(patronus_version())
        raise typer.Exit


def finite(value: float | None) -> float | None:
    """For an option's ``callback``: refuses NaN, which every range lets through, and infinity.

    Raises:
        typer.BadParameter: it is one of these.
    """
    import typer

    if value is not None and not math.isfinite(value):
        raise typer.BadParameter("this takes a finite number")
    return value


def gallery_name(name: str | None) -> str | None:
    """For the ``callback`` of an option or argument: refuses a name that no gallery can have.

    Raises:
        typer.BadParameter: it is one of these.
    """
    import typer

    from shared.names import GALLERY_PATTERN

    if name is not None and re.fullmatch(GALLERY_PATTERN, name) is None:
        raise typer.BadParameter("a gallery's name is 1 to 64 letters, digits, dots, underscores or hyphens")
    return name


def main() -> None:
    """Runs ``patronus``. Shows the version before anything else is loaded."""
    words = sys.argv[1:]
    if words[:1] == ["--version"]:
        with _guarded():
            print(patronus_version())
    else:
        run(build(words))


def run(app: Callable[[], object]) -> None:
    """Runs a command. Exit status: 0 done, 1 refused or failed, 2 wrong usage."""
    keep_out_of_dumps()
    # It comes with the services, and takes a third of a command's help.
    if find_spec("structlog") is not None and "--help" not in sys.argv:
        from shared.logs import silence_logs

        silence_logs()  # a service that is started here turns its log on
    with _guarded():
        app()


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    """Prints an error as one sentence, with ``--json`` as JSON too, and exits with status 1."""
    guard_standard_streams()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # else Python would fail with a traceback when it ends
    except PatronusError as error:
        _fail(error.detail, error.problem or {"detail": error.detail, "reason": error.reason})
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OURS:
            raise
        extra = sys.argv[1] if sys.argv[1:2] and sys.argv[1] in _EXTRAS else "edge"
        sentence = f"This needs the package {package}: pip install 'patronus-face[{extra}]'"
        _fail(sentence, {"detail": sentence, "reason": None})
    except OSError as error:
        place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        sentence = f"The system refused this: {place}{error.strerror or type(error).__name__}."
        _fail(sentence, {"detail": sentence, "reason": None})


def _fail(sentence: str, problem: dict[str, Any]) -> None:
    if "--json" in sys.argv:
        with contextlib.suppress(PatronusError):  # standard output may be what failed
            print(json_line(problem), end="", flush=True)
    with contextlib.suppress(OSError):
        print(visible(sentence), file=sys.stderr, flush=True)
    sys.exit(1)


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun, as in "1 template" and "2 templates".

    Args:
        number: how many.
        one: the noun for one; it may bring its verb along ("face was").
        many: the noun for any other number; by default the one with an s behind it.
    """
    return f"{number} {one if number == 1 else many or f'{one}s'}"
