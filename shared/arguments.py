"""Arguments that a program gives to the library and to the client.

A wrong type is a mistake of the program: a ``TypeError`` whose one sentence names the argument and what it takes. A
wrong value is a ``PatronusError``.
"""

from __future__ import annotations

import operator
import os
from contextlib import suppress
from pathlib import Path

from shared.errors import SetupError


def wrong_type(what: str, wanted: str, given: object) -> TypeError:
    """The error for an argument of a wrong type. It does not show the value, which may be a secret.

    Args:
        what: the argument.
        wanted: what it takes, with its article.
        given: what was given.
    """
    return TypeError(f"{what} is {wanted}, not {'None' if given is None else type(given).__name__}")


def whole_number(what: str, given: object) -> int:
    """A whole number of any type that stands for one, such as NumPy's.

    Raises:
        TypeError: it is none; true and false are none either.
    """
    if not isinstance(given, bool):
        with suppress(TypeError):
            return operator.index(given)  # type: ignore[arg-type]
    raise wrong_type(what, "a whole number", given)


def file_path(what: str, given: object) -> Path:
    """A path that an operating system can open.

    Raises:
        TypeError: it is no path.
        SetupError: no file can have this name.
    """
    if not isinstance(given, str | os.PathLike):
        raise wrong_type(what, "a path", given)
    path = Path(os.fsdecode(given))
    try:
        possible = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:  # half a surrogate pair
        possible = False
    if not possible:
        raise SetupError(f"No file can have the name {str(path)!r}; name another for {what}.")
    return path
