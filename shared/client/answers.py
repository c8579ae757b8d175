"""Reads what a service answered: a model, or an error of the tree in ``shared.errors``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from shared.errors import AnswerNotUnderstood, ClientError, Overloaded, PatronusError, RateLimited, Retryable
from shared.wire.common import MAX_ANSWER_BYTES

if TYPE_CHECKING:
    import httpx

    from shared.client.call import Call

T = TypeVar("T")

_PROBLEM: Final = "application/problem+json"
_TYPE_PREFIX: Final = "urn:patronus:problem:"
_WHOLE_SECONDS: Final = re.compile("[0-9]{1,9}")
# draft-ietf-httpapi-ratelimit-headers, as the services send it: "matching";q=20000;w=3600
_POLICY: Final = re.compile('"([a-z]+)";q=([0-9]{1,9});w=([0-9]{1,9})')
# What a sentence has none of; from what is no edge, it could change a terminal that shows it.
# Controls of both kinds: of terminals, and of the direction and lines of a text (Unicode's Bidi_Control, Zl, Zp).
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]+")
# Members that are named in one sentence.
_MOST_NAMED: Final = 5
# Characters of a sentence, and of a name in one; no edge writes more. An edge names ten faults of a request.
_MOST_OF_A_SENTENCE: Final = 4_000
_MOST_OF_A_NAME: Final = 200
_MOST_NAMED_FAULTS: Final = 10


class Body:
    """The body of an answer, as it arrives; not more of it than an edge sends.

    The client asks for an answer that is not compressed: a small compressed one can fill the memory.

    Args:
        response: whose body it is, not read yet.

    Raises:
        AnswerNotUnderstood: it is compressed all the same.
    """

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self.content = bytearray()
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise AnswerNotUnderstood(
                f"What answers at {_place(response)} compresses its answer, which no edge does unasked; switch that "
                "off in the proxy before it."
            )

    def add(self, block: bytes) -> None:
        """Takes the next bytes.

        Raises:
            AnswerNotUnderstood: there are more than an edge sends.
        """
        self.content += block
        if len(self.content) > MAX_ANSWER_BYTES:
            raise AnswerNotUnderstood(
                f"What answers at {_place(self._response)} is not an edge: its answer is over "
                f"{MAX_ANSWER_BYTES // 1024**2} MiB long."
            )


def read(response: httpx.Response, body: bytearray, call: Call[T]) -> T:
    """The answer to a call. Members that this client does not know are ignored.

    Args:
        response: status and headers.
        body: all of it.
        call: that was sent.

    Raises:
        PatronusError: the service answered a problem; the class is that of its type.
        AnswerNotUnderstood: what answered is no such service, or one of another version.
    """
    problem = response.headers.get("content-type", "").partition(";")[0].strip() == _PROBLEM
    if problem or not (response.is_success or response.status_code in call.also):
        raise _error(response, body, call)
    if not issubclass(call.answer, BaseModel):
        return cast("T", body.decode(errors="replace"))
    try:
        return cast("T", call.answer.model_validate_json(body, strict=True, extra="ignore"))
    except ValidationError as error:
        raise AnswerNotUnderstood(_why(error, _place(response))) from None


def _why(error: ValidationError, place: str) -> str:
    found = error.errors(include_input=False, include_url=False, include_context=False)
    if any(one["type"] == "json_invalid" or not one["loc"] for one in found):
        return f"What answers at {place} is not an edge."
    names = sorted({_short(".".join(str(part) for part in one["loc"]), _MOST_OF_A_NAME) for one in found})
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    lacks = all(one["type"] == "missing" for one in found)
    return (
        f"The edge at {place} answered {'without' if lacks else 'other values than this client knows in'} "
        f"{', '.join(names[:_MOST_NAMED])}{more}; it is of {'an older' if lacks else 'another'} version than this "
        "client. Install the client of its version."
    )


def _error(response: httpx.Response, body: bytearray, call: Call[T]) -> PatronusError:
    status = response.status_code
    try:
        found = from_json(body)
        kind, detail = found["type"], found["detail"]
        if not (isinstance(kind, str) and isinstance(detail, str)):
            raise TypeError("no text")
    except (ValueError, KeyError, TypeError):
        error: PatronusError = AnswerNotUnderstood(
            f"What answers at {_place(response)} is not an edge, or a proxy before it failed (status {status})."
        )
        error.status = status
        return error
    places = found.get("errors")
    if isinstance(places, list):
        named = places[:_MOST_NAMED_FAULTS]
        detail = "; ".join(f"{one['at']}: {one['problem']}" for one in named if _is_place(one)) or detail
    detail = _short(detail, _MOST_OF_A_SENTENCE)
    reason = found["reason"][:_MOST_OF_A_NAME] if isinstance(found.get("reason"), str) else None
    kind = kind.removeprefix(_TYPE_PREFIX)
    if (kind, reason) in _NO_SUCH_OPERATION:
        error = AnswerNotUnderstood(
            f"What answers at {_place(response)} does not have {call.method} {call.path}: it is an edge of an older "
            "version than this client, or no edge."
        )
    else:
        error = _new(kind, status, detail, reason, response)
    error.status = status
    error.extra = {name: value for name, value in found.items() if name not in _OF_EVERY_PROBLEM}
    error.problem = found
    if isinstance(error, Retryable):
        error.retry_after_s = retry_after(response) or error.retry_after_s
    return error


def _short(text: str, most: int) -> str:
    """A text of the answer as it may stand in a sentence."""
    text = _CONTROLS.sub(" ", text)
    return text if len(text) <= most else f"{text[:most]}…"


def _is_place(found: object) -> bool:
    return isinstance(found, dict) and {"at", "problem"} <= found.keys()


def _new(kind: str, status: int, detail: str, reason: str | None, response: httpx.Response) -> PatronusError:
    """An error of the class of its kind, else of the general class of its status."""
    general = _BY_STATUS.get(status, Retryable if retry_after(response) else PatronusError)
    made = _BY_KIND.get(kind, general)
    if made is RateLimited:
        policy = _POLICY.match(response.headers.get("ratelimit-policy", ""))
        if policy is None:
            return Overloaded(detail, reason=reason)
        counted, quota, window_s = policy.groups()
        free_in_s = retry_after(response) or 1
        return RateLimited(detail, counted=counted, quota=int(quota), window_s=int(window_s), free_in_s=free_in_s)
    return made(detail, reason=reason)


def retry_after(response: httpx.Response) -> int | None:
    """Seconds of ``Retry-After``; None where there are none."""
    found = response.headers.get("retry-after", "")
    return int(found) if _WHOLE_SECONDS.fullmatch(found) else None


def _place(response: httpx.Response) -> str:
    return str(response.request.url.copy_with(path="/", query=None)).rstrip("/")


def _tree(kind: type[PatronusError]) -> Iterator[type[PatronusError]]:
    """The classes from one on that a service answers, each before those below it."""
    if kind is not ClientError:
        yield kind
        for below in kind.__subclasses__():
            if below.__module__ == PatronusError.__module__:  # others are a service's own, of the same kinds
                yield from _tree(below)


_BY_KIND: Final[dict[str, type[PatronusError]]] = {
    made.kind: made for made in _tree(PatronusError) if "kind" in vars(made) and made is not PatronusError
}
# The first, and so most general, class of a status.
_BY_STATUS: Final[dict[int, type[PatronusError]]] = {
    made.status: made for made in reversed([*_tree(PatronusError)]) if "status" in vars(made)
}
# Types and reasons of problems about the path and method themselves; others name what is not there.
_NO_SUCH_OPERATION: Final = frozenset({("not-found", None), ("method-not-allowed", None)})
_OF_EVERY_PROBLEM: Final = frozenset({"type", "title", "status", "detail", "request_id", "reason"})
