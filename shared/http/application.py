"""Makes the application of a service, with the four layers before its handlers.

``LoadShedding``, then ``RequestContext``, ``Authentication`` and ``BodyLimits``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.home import patronus_version
from shared.http.load_shedding import LoadShedder, LoadShedding
from shared.http.middleware import Authentication, BodyLimits, RequestContext
from shared.http.problems import DESCRIBED, REQUEST_ID_DESCRIBED, install_problems
from shared.http.rate_limits import Kind, RateLimits, kind_of
from shared.http.request_context import REQUEST_ID_HEADER
from shared.metrics import Metrics
from shared.service_settings import RateSettings
from shared.wire.cloud import CONTRACT_HEADER
from shared.wire.common import Problem
from shared.wire.edge_console import RECORD_HEADER

# Of all bodies together that are being received or worked on: a few large pictures for each of a few workers.
_BODY_BYTES = 256 * 1024 * 1024
# What scripts of other origins may send and read, where any may call.
_CORS_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_CORS_REQUEST_HEADERS = ("Authorization", "Content-Type", REQUEST_ID_HEADER, RECORD_HEADER)
_CORS_ANSWER_HEADERS = (
    REQUEST_ID_HEADER,
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
    "Server-Timing",
    "X-Patronus-Dim",
    "X-Patronus-Faces-Found",
    "X-Patronus-Unperturbed",
)


class _Application(FastAPI):
    """An application behind load shedding.

    Its OpenAPI document describes problems and the headers of all answers.
    """

    def __init__(self, shedder: LoadShedder, cors_origins: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self.outermost: ASGIApp = LoadShedding(super().__call__, shedder)
        if cors_origins:
            # Around all else: browsers hide an answer without these headers from the page, a 429 too.
            self.outermost = CORSMiddleware(
                self.outermost,
                allow_origins=cors_origins,
                allow_methods=_CORS_METHODS,
                allow_headers=_CORS_REQUEST_HEADERS,
                expose_headers=_CORS_ANSWER_HEADERS,
                allow_credentials=False,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request.

        Starlette would put its own layer for errors before any that is added to it.
        """
        await self.outermost(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """The document, made once."""
        if self.openapi_schema is not None:
            return self.openapi_schema
        document = super().openapi()
        parts = document.setdefault("components", {})
        parts.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
        parts["responses"] = DESCRIBED
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                for status in _never_answered(method.upper(), path, operation):
                    operation["responses"].pop(status, None)
                for answer in operation["responses"].values():
                    if "$ref" not in answer:
                        answer.setdefault("headers", {})[REQUEST_ID_HEADER] = REQUEST_ID_DESCRIBED
        return document


def _never_answered(method: str, path: str, operation: dict[str, Any]) -> set[str]:
    """Statuses of problems that an operation has no cause to answer, by what it takes."""
    body = operation.get("requestBody", {}).get("content", {})
    parameters = {one["name"] for one in operation.get("parameters", ())}
    writes = "/galleries/" in path and kind_of(method, path) is Kind.WRITING
    possible = {
        "404": not parameters.isdisjoint({"gallery", "request_id"}),
        "408": bool(body),
        "409": "gallery" in parameters and (method != "GET" or CONTRACT_HEADER in parameters),
        "413": bool(body),
        "415": "multipart/form-data" in body,
        "422": bool(body or parameters),
        "507": writes,
    }
    return {status for status, can_be in possible.items() if not can_be}


def make_application(
    *,
    title: str,
    description: str,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
    metrics: Metrics,
    limit_for: Callable[[Scope], int],
    body_seconds: float,
    rates: RateSettings,
    slots: int,
    watch_disconnects: bool = False,
    cors_origins: Sequence[str] = (),
    root_path: str = "",
) -> FastAPI:
    """An application without routes.

    Swagger's and ReDoc's pages are off: they load scripts from elsewhere. ``/openapi.json`` is there.

    Args:
        title: of the OpenAPI document.
        description: of the OpenAPI document.
        lifespan: opens and closes what the service holds.
        metrics: of the service.
        limit_for: the most bytes that a request's path takes as a body, by its scope.
        body_seconds: the longest that a body may take to arrive.
        rates: how often a key may call.
        slots: requests of one kind that are answered at once; more are refused.
        watch_disconnects: whether handlers notice, by ``check_caller``, that the caller closed the connection.
        cors_origins: of web pages whose scripts may call the service.
        root_path: that a proxy strips off requests; the document and problems name it.
    """
    limits, shedder = RateLimits(rates), LoadShedder(slots, metrics)
    app = _Application(
        shedder,
        cors_origins,
        title=title,
        description=description,
        version=patronus_version(),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,  # names of the methods of generated clients
        # Not FastAPI's own `root_path`: it would also route requests whose path still has it, past the layers below.
        servers=[{"url": root_path}] if root_path else None,
        redirect_slashes=False,  # a redirect would be built from the caller's own Host header
    )
    install_problems(app, metrics, f"{root_path}/openapi.json")
    app.state.rate_limits = limits
    app.add_middleware(
        BodyLimits,
        limit_for=limit_for,
        seconds=body_seconds,
        budget=_BODY_BYTES,
        watch_disconnects=watch_disconnects,
    )
    app.add_middleware(Authentication, limits=limits, shedder=shedder, metrics=metrics)
    app.add_middleware(RequestContext, metrics=metrics)
    return app
