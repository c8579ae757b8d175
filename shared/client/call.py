"""A call of the edge's REST interface as data: what to send, and how its answer is read.

Sends nothing. An operation is a function that returns a ``Call``; both clients send it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, Literal, TypeVar
from urllib.parse import quote

from pydantic_core import PydanticSerializationError, to_json

from shared.client.pictures import Picture
from shared.errors import BadRequest, Unprocessable
from shared.names import GALLERY_PATTERN, TEMPLATE_ID_PATTERN, subject_name
from shared.strict_types import whole_number, wrong_type
from shared.wire.edge_console import RECORD_HEADER, REQUEST_ID_PATTERN

T_co = TypeVar("T_co", covariant=True)

# When a call that failed may be sent again. `always`: repeating changes nothing. `not_done`: only where it is certain
# that the service did nothing, since a second time would do something else, or would not find what was there.
Repeat = Literal["always", "not_done"]

# What stands for such numbers in JSON, or is a part of a text.
_NOT_FINITE: Final = (b"NaN", b"Infinity")
_RULES: Final[dict[str, tuple[str, str]]] = {
    "gallery": (GALLERY_PATTERN, "1 to 64 letters, digits or ._-, and a letter or digit first"),
    "request_id": (REQUEST_ID_PATTERN, "1 to 64 ASCII letters, digits or ._-"),
    "face": (TEMPLATE_ID_PATTERN, "32 hexadecimal digits in lower case, as `patronus subject show` prints them"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T_co]):
    """One call of an operation.

    Attributes:
        method: of HTTP.
        path: as the OpenAPI document writes it, such as ``/v1/galleries/{gallery}``.
        answer: a model that the answer is read as, or ``str`` for its text.
        names: values for the braces of the path.
        query: parameters; those that are None are left out.
        headers: further ones; those that are None are left out.
        body: members of a JSON body; those that are None are left out. None: no body.
        pictures: parts ``image`` of a multipart body.
        floats: a body of little-endian float32.
        repeat: when the call may be sent again after a failure.
        also: statuses beside 2xx whose body is an answer.
    """

    method: Literal["GET", "PUT", "POST", "PATCH", "DELETE"]
    path: str
    answer: type[T_co]
    names: Mapping[str, str | int] = field(default_factory=dict)
    query: Mapping[str, str | int | None] = field(default_factory=dict)
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    pictures: Sequence[Picture] = ()
    floats: bytes | None = field(default=None, repr=False)
    repeat: Repeat = "always"
    also: frozenset[int] = frozenset()

    def target(self) -> str:
        """The path with its names, percent-encoded.

        Raises:
            BadRequest: no gallery, subject or face can have this name.
        """
        for what, name in self.names.items():
            check_name(what, name)
        return self.path.format(**{what: quote(str(name), safe="@") for what, name in self.names.items()})

    def params(self) -> dict[str, str | int]:
        """The query.

        Raises:
            BadRequest: a text of it is not Unicode, as of a command line in another encoding.
        """
        found = {name: value for name, value in self.query.items() if value is not None}
        for name, value in found.items():
            if isinstance(value, str) and not value.isascii() and value != value.encode(errors="replace").decode():
                raise BadRequest(f"{name} is no text in UTF-8: {value!r}.", reason="not_utf8")
        return found

    def json(self) -> bytes | None:
        """The JSON body.

        Raises:
            Unprocessable: it holds a number that is not finite.
            TypeError: it holds what JSON cannot.
        """
        if self.body is None:
            return None
        members = {name: value for name, value in self.body.items() if value is not None}
        with suppress(PydanticSerializationError):  # half a surrogate pair, which the edge refuses
            written = to_json(members, fallback=_plain)  # ten times as fast, and lets pass what is not finite
            if not any(word in written for word in _NOT_FINITE):
                return written
        try:
            return json.dumps(members, allow_nan=False, separators=(",", ":"), default=_plain).encode()
        except ValueError:
            raise Unprocessable("A number is not finite; send finite numbers only.", reason="not_finite") from None

    def after(self, last: str | int | None) -> Call[T_co] | None:
        """The same call for the next page of a listing; None where there is none."""
        if last is None:
            return None
        if self.body is not None:
            return replace(self, body={**self.body, "after": last})
        return replace(self, query={**self.query, "after": last})


def recorded(request_id: str | None) -> dict[str, str | None]:
    """The headers of a call that the edge is to record, under an id of the caller's choice; None: not recorded.

    Raises:
        BadRequest: no request can have this id.
    """
    if request_id is None:
        return {RECORD_HEADER: None}
    check_name("request_id", request_id)
    return {RECORD_HEADER: "1", "X-Request-ID": request_id}


def _plain(value: Any) -> Any:
    """A number of NumPy as one of Python."""
    if not hasattr(value, "tolist"):
        raise wrong_type("a value to send", "a text, a number, true, false, or a list of them", value)
    return value.tolist()


def check_name(what: str, name: str | int) -> None:
    """Refuses a name that would lead to another resource, or that nothing can have.

    Args:
        what: ``gallery``, ``subject``, ``face``, ``request_id`` or ``receipt``.
        name: of it; the number of a receipt.

    Raises:
        BadRequest: says the rule.
        TypeError: it is no text: ``None`` must not become the name "None"; or a receipt's is no number.
    """
    if what == "receipt":
        whole_number("the receipt", name)
        return
    if not isinstance(name, str):
        raise wrong_type(f"the {what}", "a string", name)
    if what == "subject":
        try:
            subject_name(name)
        except ValueError as error:
            raise BadRequest(f"{name!r} cannot be used: {error}.", reason="bad_name") from None
        return
    pattern, rule = _RULES[what]
    if re.fullmatch(pattern, name) is None:
        raise BadRequest(f"{name!r} is not a name that a {what} can have: {rule}.", reason="bad_name")
