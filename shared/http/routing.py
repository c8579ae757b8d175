"""Which route a request came to, and what the OpenAPI document says of it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.types import Scope


def route_of(scope: Scope) -> str:
    """The route's pattern, not the path: a path holds the names of subjects."""
    return getattr(scope.get("route"), "path", None) or "(no route)"


def operations_of(app: FastAPI, scope: Scope) -> dict[str, dict[str, Any]]:
    """The operations that the path of a request has, by method in lower case; none where there is no such path."""
    found: dict[str, dict[str, Any]] = app.openapi()["paths"].get(route_of(scope), {})
    return found
