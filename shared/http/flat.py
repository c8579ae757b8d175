"""Routes as one flat list on the application, each with its checks before its body is read.

FastAPI 0.165 keeps the routers that were included as a tree, and walks it several times for each request; and each
dependency costs every request. Together they were a third of what a verification cost. So each route is put on the
application itself, as FastAPI used to do it, and checks that give a handler nothing are called directly. The OpenAPI
document tells of them as before.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute

from shared.http.auth import KeyCheck
from shared.http.json_bodies import StrictRequest
from shared.http.query import known_query_only


class CheckedRoute(APIRoute):
    """A route that first refuses whom its `dependencies` do not let in, and query parameters that it does not have."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        whole = self.dependant
        checks = [part.call for part in whole.dependencies if part.name is None and isinstance(part.call, KeyCheck)]
        # The handler is made without them; the OpenAPI document is made later, from the whole.
        self.dependant = copy.copy(whole)
        self.dependant.dependencies = [part for part in whole.dependencies if part.call not in checks]
        try:
            answer = super().get_route_handler()
        finally:
            self.dependant = whole

        reads_body = bool(whole.body_params)

        async def checked(request: Request) -> Response:
            for check in checks:
                check.caller_of(request)
            if request.scope["query_string"]:
                known_query_only(request)
            return await answer(StrictRequest(request.scope, request.receive) if reads_body else request)

        return checked


def add_routes(
    app: FastAPI, *routers: APIRouter, prefix: str = "", responses: dict[int | str, dict[str, Any]] | None = None
) -> None:
    """Puts the routes of routers on an application. Those that come first are found first.

    Args:
        app: the application.
        routers: with routes of FastAPI's own kind only, and without routers in them.
        prefix: before their paths.
        responses: that all of them may give.
    """
    for route in (route for router in routers for route in router.routes):
        assert isinstance(route, APIRoute)  # noqa: S101 - a router within a router, or a mount, would be left out
        app.router.add_api_route(
            prefix + route.path,
            route.endpoint,
            methods=sorted(route.methods or ()),
            name=route.name,
            tags=route.tags,
            dependencies=route.dependencies,
            status_code=route.status_code,
            response_model=route.response_model,
            response_class=route.response_class,
            responses={**(responses or {}), **route.responses},
            openapi_extra=route.openapi_extra,
            route_class_override=CheckedRoute,
        )
