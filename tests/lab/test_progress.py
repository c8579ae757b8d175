"""How far long work is, where nobody looks at a terminal."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from lab.progress import continued_by_same_command, progress
from shared.processes import progress_lines


def test_a_file_gets_a_line_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress_lines, "time", SimpleNamespace(monotonic=lambda: float(next(now))))
    written = io.StringIO()
    shown = progress(range(10), "reading faces", 10, weight=256, console=Console(file=written, width=40))
    assert list(shown) == list(range(10))
    lines = written.getvalue().splitlines()
    assert lines[0].startswith("reading faces: 512 of 2,560, ")
    assert lines[1].startswith("reading faces: 1,024 of 2,560, ")
    assert len(lines) == 5


def test_a_terminal_gets_a_bar() -> None:
    written = io.StringIO()
    shown = progress(range(3), "reading faces", 3, console=Console(file=written, force_terminal=True, width=80))
    assert list(shown) == [0, 1, 2]
    assert "100%" in written.getvalue()


def test_whoever_interrupts_is_told_that_it_continues(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), continued_by_same_command():
        raise KeyboardInterrupt
    assert "The same command continues" in capsys.readouterr().err
