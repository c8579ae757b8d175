"""Standard input, output and error of a command, whatever it was started with."""

from __future__ import annotations

import io
import os
import sys

from shared.errors import SetupError

_OUTPUT = 1


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
        if errors == "strict":  # a name in a script that the terminal lacks, or a path in no encoding, ends no command
            errors = "backslashreplace"
        sys.stdout = _Output(given.detach(), encoding=encoding, errors=errors, line_buffering=by_line)


def _failed(error: OSError) -> OutputFailed:
    # What is still in the buffer goes nowhere; without this, Python would try once more when it ends.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _OUTPUT)
    os.close(nowhere)
    return OutputFailed(f"Standard output cannot be written ({error.strerror}).")
