"""How an erasure is answered."""

from __future__ import annotations

from typing import Any, Final

from fastapi import Response, status

from shared.wire.common import Erased

PENDING: Final[dict[int | str, dict[str, Any]]] = {
    status.HTTP_202_ACCEPTED: {
        "model": Erased,
        "description": "Erased, and matched no more; its bytes are not all overwritten yet: `pending` says where.",
    }
}
"""For a route's ``responses``."""


def answered(erased: Erased, response: Response) -> Erased:
    """The answer of an erasure: 202 while something of it is left."""
    if erased.pending:
        response.status_code = status.HTTP_202_ACCEPTED
    return erased
