"""Standard input, output and error of a command, whatever it was started with."""

from __future__ import annotations

import io
import json
import os
import sys
import unicodedata

from shared.errors import SetupError

_OUTPUT = 1
# What standard output does with a name in a script that the terminal lacks, or a path in no encoding: it fails. In the
# locales C and POSIX Python chooses the second.
_ENDS_COMMANDS = frozenset({"strict", "surrogateescape"})
# What a sentence or a list of our own has beside characters that are shown.
_LAYOUT = "\n\t"
# Zero width non-joiner and joiner.
_JOINERS = "\u200c\u200d"
# Of a virama, in Unicode's canonical combining classes.
_VIRAMA = 9
# Categories of emoji and of their skin tones, and the selector that makes an emoji of a sign.
_EMOJI = frozenset({"So", "Sk"})
_AS_EMOJI = "\ufe0f"


class OutputFailed(SetupError):
    """Standard output cannot be written: no reader, a full disk, or closed."""


class _Output(io.TextIOWrapper):
    """Standard output whose failure is one sentence.

    Without it, click and rich end silently, and Python ends with a traceback and the status 120.
    """

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise _failed(error) from None

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise _failed(error) from None


def guard_standard_streams() -> None:
    """Opens closed streams, so that no file takes their number, and guards standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed; the lowest free number is the one that open takes
            os.open(os.devnull, os.O_RDONLY)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for as long as the process lives
    if sys.stdout is None:
        sys.stdout = open(_OUTPUT, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123
    given = sys.stdout
    if isinstance(given, io.TextIOWrapper):
        encoding, errors, by_line = given.encoding, given.errors, given.line_buffering
        if errors in _ENDS_COMMANDS:
            errors = "backslashreplace"
        sys.stdout = _Output(given.detach(), encoding=encoding, errors=errors, line_buffering=by_line)


def json_line(found: object) -> str:
    """An object as a line of JSON for standard output: in ASCII, where that is not in UTF-8."""
    in_utf8 = (getattr(sys.stdout, "encoding", None) or "").lower() == "utf-8"
    return json.dumps(found, ensure_ascii=not in_utf8) + "\n"


def visible(text: str) -> str:
    """A text for a terminal, with an escape such as ``\\u202e`` for each character that shows nothing of its own.

    These are controls, format characters (which reorder or hide what stands beside them), line and paragraph
    separators, and unassigned and private ones. Names may hold them; programs get names as they are, in JSON.
    Joiners stay where they are needed, and elsewhere make a second name that looks like the first. Scripts need them
    where RFC 5892 (appendix A) allows them in domain names: after a virama (Hindi, Bengali, Malayalam), and between
    letters of Arabic (Persian, Urdu). A joiner also stays between two emoji.
    """
    if text.isprintable():
        return text
    return "".join(each if _is_shown(each, text, at) else _escaped(each) for at, each in enumerate(text))


def _is_shown(character: str, text: str, at: int) -> bool:
    if character in _JOINERS and 0 < at < len(text) - 1:
        return _joins(text[at - 1], text[at + 1])
    return character.isprintable() or character in _LAYOUT or unicodedata.category(character) == "Zs"


def _joins(before: str, after: str) -> bool:
    if unicodedata.combining(before) == _VIRAMA:
        return True
    if unicodedata.bidirectional(before) == unicodedata.bidirectional(after) == "AL":
        return True
    return unicodedata.category(after) == "So" and (unicodedata.category(before) in _EMOJI or before == _AS_EMOJI)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _failed(error: OSError) -> OutputFailed:
    # What is still in the buffer goes nowhere; without this, Python would try once more when it ends.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _OUTPUT)
    os.close(nowhere)
    return OutputFailed(f"Standard output cannot be written ({error.strerror}).")
