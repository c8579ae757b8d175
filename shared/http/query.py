"""Query parameters that a route does not know are refused: one that is misspelt would else be silently left out."""

from __future__ import annotations

from fastapi import FastAPI, Request

from shared.errors import BadRequest
from shared.http.routing import operations_of


def known_query_only(request: Request) -> None:
    """Refuses a request whose query holds a parameter that its route does not have, by the OpenAPI document.

    Raises:
        BadRequest: it does; the sentence names what there is.
    """
    if not request.query_params or not request.url.path.startswith("/v1/"):
        return  # those who ask for health or metrics add what they like
    app: FastAPI = request.app
    operation = operations_of(app, request.scope).get(request.method.lower(), {})
    known = {one["name"] for one in operation.get("parameters", []) if one["in"] == "query"}
    if not known.issuperset(request.query_params):
        there = ", ".join(sorted(known)) or "none"
        raise BadRequest(f"The query holds a parameter that is not known here; there are: {there}.")
