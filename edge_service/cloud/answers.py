"""Reads what the cloud answered: a model, or a refusal as an error of this edge."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final, TypeVar

import httpx
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from shared.errors import (
    Conflict,
    ContractMismatch,
    InsufficientStorage,
    NotFound,
    Overloaded,
    PatronusError,
    RateLimited,
    RecordDamaged,
    TooLarge,
    Unprocessable,
    UpstreamFailed,
    UpstreamUnavailable,
)
from shared.logs import get_logger

_log = get_logger(__name__)
Answer = TypeVar("Answer", bound=BaseModel)

# Refusals of the cloud that a caller of the edge, or the operator, can fix, and a retry cannot; by the problem's type.
_PASSED_ON: Final[dict[str, type[PatronusError]]] = {
    known.kind: known
    for known in (
        NotFound,
        Conflict,
        ContractMismatch,
        Unprocessable,
        TooLarge,
        RecordDamaged,
        InsufficientStorage,
    )
}
# What the edge calls templates, in the cloud's refusals: by the cloud's reason, a reason and a sentence.
_IN_WORDS_OF_THE_EDGE: Final = {
    "unknown_template": ("unknown_face", "The subject has no face with this id."),
    "subject_full": ("subject_full", "The subject has as many faces as it may have; erase some first."),
    "gallery_full": ("gallery_full", "The gallery is full; erase faces, or use another gallery."),
}
# Lists of ids, and of names as the cloud has them, in its refusal of an enrollment: what it refuses.
REFUSED_TEMPLATES: Final = "templates"
REFUSED_SUBJECTS: Final = "subjects"
# The cloud's Retry-After is passed on, up to this.
_MOST_RETRY_AFTER_S: Final = 3600
_SECONDS: Final = re.compile("[0-9]{1,9}")
_NOT_UNDERSTOOD: Final = "The cloud answered in a way that this edge does not understand; compare their versions."
# The edge's own request, which the caller cannot correct: the cloud is of another version.
_OTHER_FORM: Final = "invalid_request"
# Of the path and method themselves: of what is not there, the cloud gives a reason.
_NO_SUCH_OPERATION: Final = frozenset({(NotFound.kind, None), ("method-not-allowed", None)})
_LACKS: Final = "The cloud lacks an operation that this edge needs: it is of an older version than the edge; update it."
AWAY: Final = "The cloud does not answer; nothing was lost. Try again, and tell the operator if it persists."


class TryAgain(Exception):
    """A failure that a retry may fix; ``why`` is for the operator."""

    def __init__(self, error: PatronusError, why: str | None = None) -> None:
        super().__init__(error.kind)
        self.error = error
        self.why = why


def translated(response: httpx.Response) -> Exception:
    """An answer that is not a success, as an error of this edge."""
    status = response.status_code
    try:
        problem = from_json(response.content)  # also refuses deep nesting and invalid characters
        kind = str(problem["type"]).rsplit(":", 1)[-1]
        detail = str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        problem, kind, detail = {}, "", ""
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return UpstreamFailed("The cloud does not accept this edge's API key; its operator must give it a valid one.")
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        if kind == RateLimited.kind:
            _log.warning("cloud_key_over_its_rate")
        after = response.headers.get("Retry-After", "")
        seconds = min(int(after), _MOST_RETRY_AFTER_S) if _SECONDS.fullmatch(after) else 1
        return Overloaded("The cloud is working at its limit; try again in a moment.", retry_after_s=max(1, seconds))
    reason = problem["reason"] if isinstance(problem.get("reason"), str) else None
    if (kind, reason) in _NO_SUCH_OPERATION:
        _log.error("cloud_answer_not_understood", status=status, problem="no such operation")
        return UpstreamFailed(_LACKS)
    known = None if reason == _OTHER_FORM else _PASSED_ON.get(kind)
    if known is not None:
        reason, detail = _IN_WORDS_OF_THE_EDGE.get(str(reason), (reason, detail))
        named = {name: problem.get(name) for name in (REFUSED_TEMPLATES, REFUSED_SUBJECTS)}
        return known(detail, reason=reason, **{name: some for name, some in named.items() if isinstance(some, list)})
    if status in {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}:
        return TryAgain(UpstreamUnavailable(AWAY))
    _log.error("cloud_answer_not_understood", status=status, problem=kind)
    return UpstreamFailed(_NOT_UNDERSTOOD)


def too_large() -> UpstreamFailed:
    """The error for an answer that is larger than any."""
    _log.error("cloud_answer_not_understood", problem="too large")
    return UpstreamFailed(_NOT_UNDERSTOOD)


def read(response: httpx.Response, model: type[Answer]) -> Answer:
    """The model of an answer.

    Raises:
        UpstreamFailed: it is not such a model's.
    """
    try:
        return model.model_validate_json(response.content, strict=True)
    except ValidationError:
        _log.error("cloud_answer_not_understood", status=response.status_code, problem="invalid answer")
        raise UpstreamFailed(_NOT_UNDERSTOOD) from None
