"""Query parameters that a route does not know, or that come twice, are refused.

One that is misspelt would else be silently left out; and of two values one would be.
"""

from __future__ import annotations

from fastapi import FastAPI, Request

from shared.errors import BadRequest
from shared.http.routing import operations_of


def known_query_only(request: Request) -> None:
    """Refuses a request whose query holds a parameter that its route does not have, by the OpenAPI document.

    Raises:
        BadRequest: it does, and the sentence names what there is; or a parameter comes twice.
    """
    if not request.query_params or not request.scope["path"].startswith("/v1/"):
        return  # those who ask for health or metrics add what they like
    if len(request.query_params) != len(request.query_params.multi_items()):
        raise BadRequest("The query holds a parameter twice; send each once.", reason="repeated_parameter")
    app: FastAPI = request.app
    operation = operations_of(app, request.scope).get(request.method.lower(), {})
    known = {one["name"] for one in operation.get("parameters", []) if one["in"] == "query"}
    if not known.issuperset(request.query_params):
        there = ", ".join(sorted(known)) or "none"
        raise BadRequest(f"The query holds a parameter that is not known here; there are: {there}.")
