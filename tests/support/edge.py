"""Real edges and a real cloud in one process, joined by transports that tests can watch and cut; and pictures."""

from __future__ import annotations

import asyncio
import contextvars
import io
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from anyio.from_thread import start_blocking_portal
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image

from cloud_service.app import create_app as create_cloud
from cloud_service.settings import Settings as CloudServiceSettings
from edge_service.app import create_app as create_edge
from edge_service.settings import CloudSettings, EdgeSettings
from shared.client import Client
from shared.security.credentials import Scope
from tests.support.cloud_client import copy_empty_record

PICTURES = Path(__file__).parents[1] / "pictures"
SAMPLES = sorted(str(path.relative_to(PICTURES)) for path in PICTURES.glob("*/*.*g"))


def sample(name: str) -> bytes:
    """The bytes of a sample picture, such as ``obama/portrait.jpg``."""
    return (PICTURES / name).read_bytes()


def pixels(name: str) -> NDArray[np.uint8]:
    """A sample picture as (h, w, 3) uint8 RGB."""
    with Image.open(PICTURES / name) as image:
        return np.asarray(image.convert("RGB"))


def encoded(picture: NDArray[np.uint8], form: str = "PNG", **options: Any) -> bytes:
    """Pixels as the bytes of a picture file."""
    target = io.BytesIO()
    Image.fromarray(picture).save(target, form, **options)
    return target.getvalue()


def pasted(face: NDArray[np.uint8], width: int, height: int, *places: tuple[int, int]) -> NDArray[np.uint8]:
    """A grey picture with a face at each place, x and y of its upper left corner."""
    canvas = np.full((height, width, 3), 128, np.uint8)
    for x, y in places:
        canvas[y : y + face.shape[0], x : x + face.shape[1]] = face
    return canvas


Fault = Callable[["CloudTransport", httpx.Request], Awaitable[httpx.Response]]


class CloudTransport(httpx.AsyncBaseTransport):
    """The way from an edge to the cloud: records the requests, and fails on demand.

    ``faults`` are used up, one a request; ``always`` applies to every request.
    """

    def __init__(self, cloud: FastAPI) -> None:
        self._cloud = httpx.ASGITransport(cloud, raise_app_exceptions=False)
        self.requests: list[httpx.Request] = []
        self.faults: deque[Fault] = deque()
        self.always: Fault | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.requests.append(request)
        fault = self.faults.popleft() if self.faults else self.always
        return await (fault(self, request) if fault else self.deliver(request))

    def reset(self) -> None:
        """Forgets requests and faults."""
        self.requests.clear()
        self.faults.clear()
        self.always = None

    async def deliver(self, request: httpx.Request) -> httpx.Response:
        # In a context of its own, as in a process of its own: what the cloud notes of a request is not the edge's.
        call = self._cloud.handle_async_request(request)
        return await asyncio.get_running_loop().create_task(call, context=contextvars.Context())


class ThroughPortal(httpx.BaseTransport):
    """The way of a synchronous client to an application that runs on a portal's event loop."""

    def __init__(self, pair: Pair, app: FastAPI) -> None:
        self._pair = pair
        self._app = httpx.ASGITransport(app, raise_app_exceptions=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        return self._pair.portal.call(self._answer, request)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        sent = httpx.Request(request.method, request.url, headers=request.headers, content=request.content)
        answer = await self._app.handle_async_request(sent)
        return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())


class Edge:
    """One edge as its callers see it, called with its first key unless another is given."""

    def __init__(self, pair: Pair, settings: EdgeSettings) -> None:
        self.settings = settings
        self.transport = CloudTransport(pair.cloud)
        self.app = create_edge(settings, transport=self.transport)
        self.pair = pair
        pair.open(self.app.router.lifespan_context(self.app))
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self._client = pair.open(httpx.AsyncClient(transport=transport, base_url="http://edge", timeout=60))
        self.headers = {"Authorization": f"Bearer {settings.first_key_file.read_text().strip()}"}

    def call(self, method: str, path: str, headers: dict[str, str] | None = None, **options: Any) -> httpx.Response:
        send = partial(self._client.request, method, path, headers=self.headers | (headers or {}), **options)
        return self.pair.portal.call(send)

    def client(self, **options: Any) -> Client:
        """The public client, with the first key unless another is given."""
        key = self.settings.first_key_file.read_text().strip()
        transport = ThroughPortal(self.pair, self.app)
        return Client("http://edge", **{"api_key": key, "retries": 0, "transport": transport} | options)

    def together(self, method: str, path: str, count: int, **options: Any) -> list[httpx.Response]:
        """Several like requests at the same moment."""

        async def all_of_them() -> list[httpx.Response]:
            calls = [self._client.request(method, path, headers=self.headers, **options) for _ in range(count)]
            return await asyncio.gather(*calls)

        return self.pair.portal.call(all_of_them)

    def key(self, *scopes: Scope, galleries: list[str] | None = None) -> dict[str, str]:
        """Headers with a new key."""
        key, _record = self.app.state.services.key_ring.add("test", list(scopes), galleries)
        return {"Authorization": f"Bearer {key}"}

    def send(self, path: str, *pictures: bytes, headers: dict[str, str] | None = None, **query: Any) -> httpx.Response:
        """Pictures as ``image`` parts."""
        files = [("image", ("picture", data, "application/octet-stream")) for data in pictures]
        return self.call("POST", path, headers, files=files, params=query)

    def make(self, gallery: str) -> dict[str, Any]:
        answer = self.call("PUT", f"/v1/galleries/{gallery}")
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def make_known(self, gallery: str) -> None:
        """Lets the edge learn the gallery's contract, so that it need not ask for it next."""
        self.verify(gallery, "nobody", b"")

    def enroll(self, gallery: str, subject: str, *pictures: bytes, **query: Any) -> httpx.Response:
        return self.send(f"/v1/galleries/{gallery}/subjects/{subject}/faces", *pictures, **query)

    def verify(self, gallery: str, subject: str, picture: bytes, **query: Any) -> httpx.Response:
        return self.send(f"/v1/galleries/{gallery}/subjects/{subject}/verify", picture, **query)

    def identify(self, gallery: str, picture: bytes, **query: Any) -> httpx.Response:
        return self.send(f"/v1/galleries/{gallery}/identify", picture, **query)

    def erase(self, path: str) -> tuple[int, int]:
        """Erases what is at a path, at once; how many subjects and templates that were."""
        answer = self.call("DELETE", path)
        assert (answer.status_code, answer.json()["pending"]) == (200, []), answer.text
        return answer.json()["subjects"], answer.json()["templates"]

    def held(self, gallery: str) -> tuple[int, int]:
        """How many subjects and templates the gallery holds."""
        info = self.call("GET", f"/v1/galleries/{gallery}").json()
        return info["subjects"], info["templates"]


class Pair:
    """A cloud with an empty record, and as many edges as a test wants."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cloud_settings = CloudServiceSettings(home=folder / "cloud")
        self.cloud = create_cloud(self.cloud_settings)
        self._opened = ExitStack()

    def __enter__(self) -> Pair:
        if not self.cloud_settings.home.exists():
            copy_empty_record(self.cloud_settings.home)
        self.portal = self._opened.enter_context(start_blocking_portal())
        try:
            self.open(self.cloud.router.lifespan_context(self.cloud))
        except BaseException:
            self._opened.close()
            raise
        return self

    def __exit__(self, *ended: Any) -> None:
        self._opened.__exit__(*ended)

    def open(self, opened: AbstractAsyncContextManager[Any]) -> Any:
        return self._opened.enter_context(self.portal.wrap_async_context_manager(opened))

    def edge(self, name: str = "edge", cloud: dict[str, Any] | None = None, **settings: Any) -> Edge:
        """An edge; each name has keys of its own."""
        reach = {"url": "http://cloud", "api_key_file": self.cloud_settings.first_key_file, **(cloud or {})}
        return Edge(self, EdgeSettings(home=self.folder / name, cloud=CloudSettings(**reach), **settings))
