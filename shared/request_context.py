"""The request that is being answered: its id travels from the caller through both services and into their logs."""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar

REQUEST_ID_HEADER = "X-Request-ID"
_ACCEPTED = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
_current: ContextVar[str] = ContextVar("request_id", default="-")


def current_request_id() -> str:
    """The id of the request being answered; ``-`` outside of one."""
    return _current.get()


def begin_request(offered: str | None) -> str:
    """Takes over the caller's id when it is harmless, else makes one; returns it."""
    request_id = id_of_request(offered)
    _current.set(request_id)
    return request_id


def id_of_request(offered: str | None) -> str:
    """The caller's id when it is harmless, else a new one."""
    return offered if offered and _ACCEPTED.match(offered) else secrets.token_hex(16)
