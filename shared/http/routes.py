"""Routes of both services: strict about query and JSON, with HEAD wherever there is GET."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import cached_property
from typing import Any, Final

from fastapi import APIRouter, Request, Response, status
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from shared.errors import BadRequest
from shared.http.auth import KeyCheck
from shared.http.json_bodies import StrictRequest
from shared.http.problems import RESPONSES
from shared.wire.common import Erased


def api_router(prefix: str, tag: str, responses: dict[int | str, dict[str, Any]] | None = None) -> APIRouter:
    """A router whose operations are strict, and may answer every problem but those of a service behind.

    Args:
        prefix: of the paths.
        tag: of the operations in the OpenAPI document.
        responses: further ones that all of them may give.
    """
    return APIRouter(prefix=prefix, tags=[tag], responses=RESPONSES | (responses or {}), route_class=StrictRoute)


class StrictRoute(APIRoute):
    """A route that refuses ambiguous queries and JSON, and answers HEAD as GET.

    Unknown and repeated query parameters are refused. The key's gallery and scope are checked before the body is read.
    The first line of a handler's docstring is the operation's summary, the rest its description.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        summary, _, self.description = inspect.cleandoc(endpoint.__doc__ or "").partition("\n\n")
        self.summary = summary.rstrip(".")

    @cached_property
    def query_names(self) -> frozenset[str]:
        """The query parameters that it takes, as the OpenAPI document names them; that takes long to make."""
        return frozenset(_query_names(self.dependant))

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        answer = super().get_route_handler()
        checks = [one.dependency for one in self.dependencies if isinstance(one.dependency, KeyCheck)]

        async def strict(request: Request) -> Response:
            for check in checks:  # FastAPI would read and parse the body first
                await check(request)
            if request.scope["query_string"]:
                refuse_unknown_query(request, self.query_names)
            return await answer(StrictRequest(request.scope, request.receive))

        return strict

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As any route; a route with GET matches HEAD too."""
        match, child_scope = super().matches(scope)
        if match is Match.PARTIAL and self._is_head(scope):
            match = Match.FULL
        return match, child_scope

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As any route; the server leaves the body of an answer to HEAD out."""
        await super().handle({**scope, "method": "GET"} if self._is_head(scope) else scope, receive, send)

    def _is_head(self, scope: Scope) -> bool:
        return scope["type"] == "http" and scope["method"] == "HEAD" and "GET" in (self.methods or ())


def _query_names(dependant: Dependant) -> set[str]:
    return {one.alias for one in dependant.query_params}.union(*map(_query_names, dependant.dependencies))


def refuse_unknown_query(request: Request, known: frozenset[str]) -> None:
    """Refuses a query parameter that is unknown to the route, or that comes twice.

    Otherwise a misspelled parameter, and one of two values, would be ignored silently.

    Args:
        request: to a route.
        known: the names that the route takes.

    Raises:
        BadRequest: names the parameters that there are.
    """
    query = request.query_params
    if not query or not request.scope["path"].startswith("/v1/"):
        return  # monitoring adds parameters of its own to the paths of health and metrics
    if len(query) != len(query.multi_items()):
        raise BadRequest("The query holds a parameter twice; send each once.", reason="repeated_parameter")
    if not known.issuperset(query):
        there = ", ".join(sorted(known)) or "none"
        raise BadRequest(f"The query holds a parameter that is not known here; there are: {there}.")


# For the `responses` of a route that erases.
PENDING: Final[dict[int | str, dict[str, Any]]] = {
    status.HTTP_202_ACCEPTED: {
        "model": Erased,
        "description": "Erased; nothing of it can be matched. Bytes named in `pending` are not overwritten yet.",
    }
}


def erasure_answer(erased: Erased, response: Response) -> Erased:
    """The answer of an erasure: 202 while something of it is left."""
    if erased.pending:
        response.status_code = status.HTTP_202_ACCEPTED
    return erased
