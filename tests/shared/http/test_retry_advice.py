"""Every error after which a caller may try again says when."""

from __future__ import annotations

from collections.abc import Iterator

from shared.errors import PatronusError, RateLimited, Retryable
from shared.http.problems import problem_response


def errors(kind: type[PatronusError] = PatronusError) -> Iterator[type[PatronusError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from errors(below)


def test_every_answer_after_which_one_may_try_again_says_when() -> None:
    again = [kind for kind in errors(Retryable) if kind is not Retryable]
    assert {kind.status for kind in again} == {429, 503, 507}
    assert not {kind for kind in errors() if kind.status in {429, 503, 507}} - {Retryable, *again}
    assert {"overloaded", "record-unavailable", "keys-unavailable"} <= {kind.kind for kind in again}
    for kind in again:
        assert int(problem_response(_made(kind)).headers["Retry-After"]) >= 1, kind


def _made(kind: type[PatronusError]) -> PatronusError:
    if kind is RateLimited:
        return RateLimited("Slow down.", counted="all", quota=1, window_s=1, free_in_s=0.1)
    try:
        return kind("Come again.")
    except TypeError:  # one that has a sentence of its own
        return kind()  # type: ignore[call-arg]
