"""The request being answered: its id, and whether its caller still waits for the answer.

The id goes from the caller through both services and into their logs.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

REQUEST_ID_HEADER = "X-Request-ID"
_ACCEPTED = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_current: ContextVar[str] = ContextVar("request_id", default="-")


class CallerGone(Exception):
    """The caller closed the connection before the answer.

    Not a ``PatronusError``: nobody receives an answer.
    """


class Caller:
    """The caller of one request. Used on the event loop; ``check`` works in any thread.

    Args:
        key_id: id of the API key that the request came with.
    """

    def __init__(self, key_id: str) -> None:
        self.key_id: Final = key_id
        self._gone = False
        self._listeners: list[Callable[[], None]] = []

    def check(self) -> None:
        """Ends long work between its steps when its caller is gone.

        Raises:
            CallerGone: nobody waits for the answer.
        """
        if self._gone:
            raise CallerGone

    def leave(self) -> None:
        """Marks the caller as gone, and calls the listeners."""
        self._gone = True
        for listener in tuple(self._listeners):
            listener()

    def when_gone(self, listener: Callable[[], None]) -> None:
        """Registers a function to call when the caller leaves."""
        self._listeners.append(listener)

    def forget(self, listener: Callable[[], None]) -> None:
        """Removes a function that was registered."""
        self._listeners.remove(listener)


_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)


def current_request_id() -> str:
    """The id of the request being answered; ``-`` outside of one."""
    return _current.get()


def current_caller() -> Caller:
    """The caller of the request being answered; outside of one, a caller that never leaves."""
    return _caller.get() or Caller("")


def set_caller(caller: Caller) -> None:
    """Sets the caller for this task, and for the threads that work for it."""
    _caller.set(caller)


def check_caller() -> None:
    """Ends long work between its steps when its caller is gone.

    Raises:
        CallerGone: nobody waits for the answer.
    """
    current_caller().check()


def begin_request(offered: bytes | None) -> str:
    """Sets and returns the request's id: the caller's when it is harmless, else a new one."""
    request_id = id_of_request(offered)
    _current.set(request_id)
    return request_id


def id_of_request(offered: bytes | None) -> str:
    """The caller's id when it is harmless, else a new one."""
    return offered.decode("ascii") if offered and _ACCEPTED.fullmatch(offered) else secrets.token_hex(16)
