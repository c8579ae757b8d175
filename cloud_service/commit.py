"""Errors of the index around a commit of the record, so that they say whether the change is stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import IndexUnavailable, Overloaded, RecordUnavailable


@contextmanager
def before_commit() -> Iterator[None]:
    """Guards steps before a commit, so that their errors say that nothing was stored.

    Raises:
        IndexUnavailable: the index went away; ``reason`` is ``not_stored``.
    """
    try:
        yield
    except IndexUnavailable as error:
        raise IndexUnavailable(
            "The index cannot be reached or is being made: nothing was stored. Send the same again in a moment.",
            reason="not_stored",
            retry_after_s=error.retry_after_s,
        ) from error


@contextmanager
def after_commit(what: str) -> Iterator[None]:
    """Guards steps after a commit, so that their errors say that the change is stored.

    Args:
        what: was committed, as the subject of a sentence.

    Raises:
        IndexUnavailable: the index or the record went away; ``reason`` is ``stored``.
    """
    try:
        yield
    except (IndexUnavailable, RecordUnavailable, Overloaded) as error:
        raise IndexUnavailable(
            f"{what}, but the index cannot be reached or is being made, so it is not in effect for searches yet. It "
            "will be by itself; send the same again in a moment to see whether it is.",
            reason="stored",
            retry_after_s=error.retry_after_s,
        ) from error
