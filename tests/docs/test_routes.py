"""The tables of docs/api.md list each route of both services, once, with the scopes that it needs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from shared.security.credentials import Scope
from tests.docs.pages import ROOT
from tests.support.edge import Pair

VALUES = {"gallery": "g", "subject": "s", "face": "0" * 32, "template": "0" * 32, "receipt": "1", "request_id": "r"}
SERVICES = ["edge", "cloud"]
Route = tuple[str, str]
Services = tuple[Pair, dict[str, FastAPI]]


def listed(page: str, service: str) -> dict[Route, frozenset[str]]:
    """The routes of a service's table and the scopes of each.

    A route is written ``VERB PATH``. One without a verb, or without a path, has that of the route before it in its row.
    """
    section = page.split(f"\n## {service.capitalize()}\n")[1].split("\n## ", maxsplit=1)[0]
    found: dict[Route, frozenset[str]] = {}
    for row in re.findall(r"^(`[A-Z]+ .*?) \| (.*?) \| ", section, re.MULTILINE):
        method = path = ""
        for route in re.findall("`(.+?)`", row[0]):
            verb, place = re.fullmatch(r"([A-Z]*) ?([^?]*)(?:\?.*)?", route).groups()  # type: ignore[union-attr]
            method, path = verb or method, place or path
            assert (method, _whole(path)) not in found, f"{route} is there twice"
            found[method, _whole(path)] = frozenset(row[1].split(", "))
    return found


def _whole(path: str) -> str:
    return path.replace("…", "/v1/galleries/{gallery}")


def documented(app: FastAPI) -> Counter[Route]:
    return Counter((method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods)


@pytest.fixture(scope="module")
def services(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with Pair(tmp_path_factory.mktemp("routes")) as pair:
        yield pair, {"edge": pair.edge().app, "cloud": pair.cloud}


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "api.md").read_text()


@pytest.mark.parametrize("service", SERVICES)
def test_the_page_lists_each_route_of_the_openapi_document(service: str, page: str, services: Services) -> None:
    assert len(listed(page, service)) > 25
    assert Counter(listed(page, service).keys()) == documented(services[1][service])


@pytest.mark.parametrize("service", SERVICES)
def test_each_route_takes_keys_of_the_scopes_that_the_page_names(service: str, page: str, services: Services) -> None:
    pair, apps = services
    app = apps[service]
    keys = {scope: app.state.key_ring.add("test", [scope], None)[0] for scope in Scope}

    async def refusing() -> dict[tuple[str, str, Any], int]:
        """Statuses of calls with a body that no route takes; scopes are checked before."""
        found = {}
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            for (method, path), (scope, key) in product(listed(page, service), keys.items()):
                answer = await client.request(
                    method,
                    path.format(**VALUES),
                    headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
                    content=b"" if method in {"GET", "DELETE"} else b"[]",
                )
                found[method, path, scope] = answer.status_code
        return found

    for (method, path, scope), status in pair.portal.call(refusing).items():
        scopes = listed(page, service)[method, path]
        may = scope.value in scopes or scopes <= {"any", "none"}
        assert (status == 403) is not may, (method, path, scope, status)
        assert status not in {401, 405}, (method, path)


def test_what_the_page_lacks_is_noticed(page: str) -> None:
    short = page.replace("`POST …/subjects/{subject}/merge` | manage", "merge | manage")
    missing = listed(page, "edge").keys() - listed(short, "edge").keys()
    assert missing == {("POST", "/v1/galleries/{gallery}/subjects/{subject}/merge")}
