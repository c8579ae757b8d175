"""Makes methods of the two clients out of operations, so that each operation is written once."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from shared.client.call import Call
from shared.errors import AnswerNotUnderstood

P = ParamSpec("P")
T = TypeVar("T")
Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)
Method = TypeVar("Method", bound=Callable[..., Any])


class PageOf(Protocol[Item_co]):
    """A page of a listing."""

    @property
    def items(self) -> Sequence[Item_co]:
        """What is on the page."""

    @property
    def next(self) -> str | int | None:
        """What the next page begins after; None on the last page."""


class Sends(Protocol):
    """A client that is called."""

    def send(self, call: Call[T]) -> T:
        """Sends a call and returns its answer."""


class SendsAwaited(Protocol):
    """A client that is awaited."""

    async def send(self, call: Call[T]) -> T:
        """Sends a call and returns its answer."""


def called(operation: Callable[P, Call[T]]) -> Callable[Concatenate[Sends, P], T]:
    """A method of ``Client``."""

    @wraps(operation)
    def method(client: Sends, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return client.send(operation(*args, **kwargs))

    return _as_method(method, operation)


def called_for_items(operation: Callable[P, Call[PageOf[Item]]]) -> Callable[Concatenate[Sends, P], Iterator[Item]]:
    """A method of ``Client`` that yields the items of all pages."""

    @wraps(operation)
    def method(client: Sends, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[Item]:
        call: Call[PageOf[Item]] | None = operation(*args, **kwargs)
        while call is not None:
            page = client.send(call)
            yield from page.items
            call = _next(call, page)

    return _as_method(method, operation)


def awaited(
    operation: Callable[P, Call[T]],
) -> Callable[Concatenate[SendsAwaited, P], Coroutine[Any, Any, T]]:
    """A method of ``AsyncClient``."""

    @wraps(operation)
    async def method(client: SendsAwaited, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await client.send(operation(*args, **kwargs))

    return _as_method(method, operation)


def awaited_for_items(
    operation: Callable[P, Call[PageOf[Item]]],
) -> Callable[Concatenate[SendsAwaited, P], AsyncIterator[Item]]:
    """A method of ``AsyncClient`` that yields the items of all pages."""

    @wraps(operation)
    async def method(client: SendsAwaited, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Item]:
        call: Call[PageOf[Item]] | None = operation(*args, **kwargs)
        while call is not None:
            page = await client.send(call)
            for item in page.items:
                yield item
            call = _next(call, page)

    return _as_method(method, operation)


def _next(call: Call[PageOf[Item]], page: PageOf[Item]) -> Call[PageOf[Item]] | None:
    """The call for the page after this one.

    Raises:
        AnswerNotUnderstood: it would be the same page again, and so on without end.
    """
    following = call.after(page.next)
    if following == call:
        raise AnswerNotUnderstood("A page of the list is followed by itself; what answers is not a Patronus edge.")
    return following


def _as_method(method: Method, operation: Callable[..., Any]) -> Method:
    """Shows the operation's parameters, after ``self``, to ``help`` and to editors."""
    own = inspect.signature(operation)
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    shown: Any = method
    shown.__signature__ = own.replace(
        parameters=[itself, *own.parameters.values()], return_annotation=inspect.Signature.empty
    )
    return method
