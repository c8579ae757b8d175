"""Each operation of the edge has one method of each client, which takes all of its parameters."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edge_service.app import create_app
from edge_service.settings import EdgeSettings
from shared.client import AsyncClient, Client
from shared.client.call import Call

ITERATORS = ("all_galleries", "all_subjects", "all_duplicates")
NO_OPERATION = {"close", "send", *ITERATORS}
# A value for each parameter, so that none is left out of the call; `protect` takes a picture or embeddings.
VALUES: dict[str, Any] = {
    "gallery": "g",
    "subject": "s",
    "face": "0" * 32,
    "receipt": 1,
    "embeddings": None,
    "expires_at": datetime.now(UTC),
}


class Recorded(Exception):
    """A call that was to be sent."""

    def __init__(self, call: Call[Any]) -> None:
        super().__init__()
        self.call = call


class Recording(Client):
    def send(self, call: Call[Any]) -> Any:
        raise Recorded(call)


class AsyncRecording(AsyncClient):
    async def send(self, call: Call[Any]) -> Any:
        raise Recorded(call)


def operations(client: type) -> list[str]:
    return [name for name in dir(client) if not name.startswith("_") and name not in NO_OPERATION]


def arguments(name: str) -> tuple[list[Any], dict[str, Any]]:
    plain, named = [], {}
    for parameter in list(inspect.signature(getattr(Client, name)).parameters.values())[1:]:
        value = VALUES.get(parameter.name, "x")
        if name in {"enroll_embeddings", "enroll_subjects"} and parameter.name in {"embeddings", "faces", "subjects"}:
            value = [[1.0]] if parameter.name == "embeddings" else ["x"]
        if parameter.kind is parameter.KEYWORD_ONLY:
            named[parameter.name] = None if parameter.name == "threshold" else value
        else:
            plain.append(value)
    return plain, named


@pytest.fixture(scope="module")
def calls() -> dict[str, Call[Any]]:
    """The call of each method."""
    found = {}
    with Recording(api_key="k") as client:
        for name in operations(Client):
            plain, named = arguments(name)
            with pytest.raises(Recorded) as recorded:
                getattr(client, name)(*plain, **named)
            found[name] = recorded.value.call
    return found


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """The operations of the edge's OpenAPI document, by method and path."""
    found = create_app(EdgeSettings(home=tmp_path_factory.mktemp("edge"))).openapi()
    schemas = found["components"]["schemas"]
    return {
        (method.upper(), path): operation | {"schemas": schemas}
        for path, methods in found["paths"].items()
        for method, operation in methods.items()
    }


def test_each_operation_has_exactly_one_method(
    calls: dict[str, Call[Any]], document: dict[tuple[str, str], dict[str, Any]]
) -> None:
    assert len(document) > 20
    assert Counter((call.method, call.path) for call in calls.values()) == Counter(document.keys())


def test_each_method_takes_all_parameters_and_returns_the_answer(
    calls: dict[str, Call[Any]], document: dict[tuple[str, str], dict[str, Any]]
) -> None:
    different = {name: differences(call, document[call.method, call.path]) for name, call in calls.items()}
    assert {name: found for name, found in different.items() if found} == {}


def differences(call: Call[Any], operation: dict[str, Any]) -> set[tuple[str, str]]:
    """What an operation has and its call has not, or the other way about."""
    wanted = {(one["in"], one["name"]) for one in operation.get("parameters", [])}
    taken = {("path", one) for one in call.names} | {("query", one) for one in call.query}
    taken |= {("header", one) for one in call.headers if one != "X-Request-ID"}  # every operation takes that one
    content = operation.get("requestBody", {}).get("content", {})
    if "multipart/form-data" in content:
        wanted |= {("form", "image")}
    elif "application/json" in content:
        wanted |= {("body", one) for one in members(content["application/json"]["schema"], operation["schemas"])}
    taken |= {("form", "image")} if call.pictures else {("body", one) for one in call.body or ()}
    wanted |= {("answer", one) for one in answers(operation)}
    taken |= {("answer", "text" if call.answer is str else re.sub(r"\W", "_", call.answer.__name__))}
    return wanted ^ taken


def members(schema: dict[str, Any], schemas: dict[str, Any]) -> set[str]:
    """The members of a body, which may be null, or one of several references."""
    found = [schemas[one["$ref"].rpartition("/")[2]] for one in schema.get("anyOf", [schema]) if "$ref" in one]
    return {member for one in found or [schema] for member in one["properties"]}


def answers(operation: dict[str, Any]) -> set[str]:
    """The names of the models that an operation answers; ``text`` for what is no JSON."""
    found = [answer.get("content", {}) for status, answer in operation["responses"].items() if status.startswith("2")]
    models = [one["application/json"]["schema"].get("$ref", "") for one in found if "application/json" in one]
    return {one.rpartition("/")[2] for one in models} or {"text"}


def test_both_clients_have_the_same_methods(calls: dict[str, Call[Any]]) -> None:
    assert operations(AsyncClient) == operations(Client)
    for name in {*calls, *ITERATORS}:
        assert inspect.signature(getattr(AsyncClient, name)) == inspect.signature(getattr(Client, name))
        assert getattr(AsyncClient, name).__doc__ == getattr(Client, name).__doc__


def test_both_clients_send_the_same(calls: dict[str, Call[Any]]) -> None:
    async def recorded() -> dict[str, Call[Any]]:
        found = {}
        async with AsyncRecording(api_key="k") as client:
            for name in operations(AsyncClient):
                plain, named = arguments(name)
                with pytest.raises(Recorded) as call:
                    await getattr(client, name)(*plain, **named)
                found[name] = call.value.call
        return found

    assert asyncio.run(recorded()) == calls


def test_each_method_says_what_it_does() -> None:
    for name in [*operations(Client), "close", "send", *ITERATORS]:
        first = (getattr(Client, name).__doc__ or "").splitlines()[0]
        assert len(first) > 10, name


def test_what_is_missing_is_noticed(calls: dict[str, Call[Any]], tmp_path: Path) -> None:
    app = create_app(EdgeSettings(home=tmp_path))
    app.add_api_route("/v1/new", lambda: None)
    document = app.openapi()
    there = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert there - {(call.method, call.path) for call in calls.values()} == {("GET", "/v1/new")}
    operation = document["paths"]["/v1/galleries"]["get"]
    assert differences(calls["list_galleries"], operation) == set()
    operation["parameters"].append({"in": "query", "name": "color"})
    operation["responses"]["200"]["content"]["application/json"]["schema"] = {"$ref": "#/components/schemas/Other"}
    assert differences(calls["list_galleries"], operation) == {
        ("query", "color"),
        ("answer", "Other"),
        ("answer", "Page_EdgeGallery_"),
    }
    renames = document["paths"]["/v1/galleries/{gallery}/subjects/{subject}/rename"]["post"]
    schemas = document["components"]["schemas"]
    schemas["Rename"]["properties"]["color"] = {"type": "string"}
    assert differences(calls["rename_subject"], renames | {"schemas": schemas}) == {("body", "color")}
