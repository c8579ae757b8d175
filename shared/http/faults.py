"""What is wrong with a request, and where, as the caller wrote it.

Pydantic reports each member of a union that it tried, and puts its name into the place, as in
``threshold/ThresholdFor/cosine``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

# Of a class, which callers do not know.
_CLASS: Final = re.compile(r" or instance of \w+")
# A body may hold millions of wrong values.
_MOST_READ: Final = 1000
# Errors that say that another member of a union was meant.
_NOT_THIS: Final = frozenset({"missing", "extra_forbidden"})


@dataclass(frozen=True, slots=True)
class _Fault:
    place: tuple[str, ...]
    # Each union on the way: where it is, and the member that was tried.
    tried: tuple[tuple[tuple[str, ...], str], ...]
    kind: str
    problem: str

    @property
    def tells_another_was_meant(self) -> bool:
        """Whether it is about a member of the object itself that one of a union describes."""
        return self.kind in _NOT_THIS and bool(self.tried) and self.place[:-1] == self.tried[-1][0]


def faults(errors: Sequence[Any], body: Any) -> list[tuple[str, str]]:
    """Places and problems; of a union, those of the member that fits best.

    Args:
        errors: as pydantic and FastAPI report them.
        body: of the request, parsed.

    Returns:
        For each a place, such as ``body/threshold/for_subjects``, and a sentence.
    """
    found = [_fault(each, body) for each in errors[:_MOST_READ]]
    unfit = Counter(each.tried[-1] for each in found if each.tells_another_was_meant)
    best: dict[tuple[str, ...], str] = {}
    for place, member in dict.fromkeys(union for each in found for union in each.tried):
        if place not in best or unfit[place, member] < unfit[place, best[place]]:
            best[place] = member
    return [
        ("/".join(each.place), each.problem)
        for each in found
        if all(best[place] == member for place, member in each.tried)
    ]


def _fault(error: Any, body: Any) -> _Fault:
    parts: tuple[str | int, ...] = error["loc"]
    kind = error["type"]
    place, tried, inside = [str(part) for part in parts[:1]], [], body
    in_body = parts[:1] == ("body",) and kind != "json_invalid"
    for at, part in enumerate(parts[1:], start=1):
        if not in_body or (kind == "missing" and at == len(parts) - 1):
            place.append(str(part))
        elif part in inside if isinstance(inside, dict) else isinstance(inside, list) and part in range(len(inside)):
            place.append(str(part))
            inside = inside[part]
        else:
            tried.append((tuple(place), str(part)))
    return _Fault(tuple(place), tuple(tried), kind, _CLASS.sub("", error["msg"]))
