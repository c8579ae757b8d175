"""A running cloud as its callers see it, and honest inputs for it."""

from __future__ import annotations

import base64
import secrets
import sqlite3
import uuid
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
from anyio.from_thread import start_blocking_portal
from fastapi import FastAPI
from numpy.typing import NDArray

from cloud_service.app import create_app
from cloud_service.clock import RecordClock
from cloud_service.record.opening import open_database
from cloud_service.services import Services
from cloud_service.settings import RecordSettings, Settings
from shared.contract import Contract, EmbedderPin, ProfilePin
from shared.security.credentials import Scope

DIM = 8
TAU = 0.5


def contract_of(dim: int = DIM, profile: str = "a" * 64) -> Contract:
    return Contract(
        dim=dim,
        embedder=EmbedderPin(name="sface", sha256="e" * 64, preprocessing="five points, 112 px, BGR"),
        profile=ProfilePin(name="test", version=1, sha256=profile),
        seal=None,
    )


def unit(rows: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """The rows as float32 unit vectors."""
    wide = np.asarray(rows, dtype=np.float64)
    return (wide / np.linalg.norm(wide, axis=-1, keepdims=True)).astype(np.float32)


def random_units(seed: int, count: int, dim: int = DIM) -> NDArray[np.float32]:
    return unit(np.random.default_rng(seed).standard_normal((count, dim)))


def towards(axis: int, cosine: float, dim: int = DIM) -> NDArray[np.float32]:
    """A unit vector at this cosine from the axis."""
    row = np.zeros(dim)
    row[axis] = cosine
    row[(axis + 1) % dim] = np.sqrt(1 - cosine**2)
    return unit(row)


def enveloped(vector: NDArray[np.float32], contract: Contract | None = None, **changed: Any) -> dict[str, Any]:
    """An envelope as JSON; nothing checks the vector."""
    return {
        "version": 1,
        "contract": (contract or contract_of(len(vector))).digest(),
        "dim": len(vector),
        "dtype": "float32",
        "data": base64.b64encode(vector.astype("<f4").tobytes()).decode(),
        **changed,
    }


@cache
def _migrated_record() -> bytes:
    """A SQLite record with its tables and nothing in them; making it takes longer than most tests."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "record.db"
        open_database(f"sqlite:///{file}", RecordSettings(), connections=1).close()
        return file.read_bytes()


def copy_empty_record(home: Path) -> None:
    """Makes the home folder of a cloud, with an empty record in it."""
    home.mkdir(mode=0o700, parents=True)
    file = home / "record.db"
    file.touch(mode=0o600)
    file.write_bytes(_migrated_record())
    with closing(sqlite3.connect(file, isolation_level=None)) as record:  # each record has a salt of its own
        record.execute("UPDATE record_value SET value = ? WHERE name = 'audit_salt'", (secrets.token_hex(32),))


class Caller:
    """Calls an application in this process, from any thread, while its lifespan runs on a loop of its own."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.headers: dict[str, str] = {}
        self._opened = ExitStack()

    def __enter__(self) -> Caller:
        with ExitStack() as opened:
            self.portal = opened.enter_context(start_blocking_portal())
            opened.enter_context(self.portal.wrap_async_context_manager(self.app.router.lifespan_context(self.app)))
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            client = httpx.AsyncClient(transport=transport, base_url="http://cloud", timeout=30)
            self._client = opened.enter_context(self.portal.wrap_async_context_manager(client))
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *ended: Any) -> None:
        self._opened.__exit__(*ended)

    def request(self, method: str, path: str, headers: dict[str, str] | None = None, **options: Any) -> httpx.Response:
        merged = self.headers | (headers or {})
        return self.portal.call(partial(self._client.request, method, path, headers=merged, **options))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def put(self, path: str, **options: Any) -> httpx.Response:
        return self.request("PUT", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def patch(self, path: str, **options: Any) -> httpx.Response:
        return self.request("PATCH", path, **options)

    def delete(self, path: str, **options: Any) -> httpx.Response:
        return self.request("DELETE", path, **options)


class Cloud:
    """The real application with its lifespan, called with its first key unless another is given.

    A new home folder gets a copy of an empty record.
    """

    def __init__(self, settings: Settings, clock: RecordClock | None = None) -> None:
        self.settings = settings
        self.app = create_app(settings, clock)
        self.http = Caller(self.app)

    def __enter__(self) -> Cloud:
        if self.settings.record.url is None and not self.settings.home.exists():
            copy_empty_record(self.settings.home)
        self.http.__enter__()
        self.http.headers["Authorization"] = f"Bearer {self.settings.first_key_file.read_text().strip()}"
        return self

    def __exit__(self, *ended: Any) -> None:
        self.http.__exit__(*ended)

    @property
    def services(self) -> Services:
        services: Services = self.app.state.services
        return services

    def key(self, *scopes: Scope, galleries: list[str] | None = None) -> dict[str, str]:
        """Headers with a new key."""
        key, _record = self.services.key_ring.add("test", list(scopes), galleries)
        return {"Authorization": f"Bearer {key}"}

    def put_gallery(
        self,
        name: str = "door",
        contract: Contract | None = None,
        tau: float = TAU,
        score: dict[str, Any] | None = None,
        sealed_names: bool | None = None,
        **options: Any,
    ) -> httpx.Response:
        """Makes a gallery; its names are sealed, as its templates are, unless it is said otherwise."""
        pinned = contract or contract_of()
        spec: dict[str, Any] = {
            "contract": pinned.model_dump(mode="json"),
            "threshold": {"cosine": tau, "fmr": 0.001},
            "sealed_names": pinned.seal is not None if sealed_names is None else sealed_names,
        } | ({} if score is None else {"score": score})
        return self.http.put(f"/v1/galleries/{name}", json=spec, **options)

    def enroll(
        self,
        subject: str,
        vectors: Sequence[NDArray[np.float32]],
        gallery: str = "door",
        ids: Sequence[str] | None = None,
        **options: Any,
    ) -> httpx.Response:
        named = ids or [uuid.uuid4().hex for _ in vectors]
        sent = [{"id": uid, "template": enveloped(vector)} for uid, vector in zip(named, vectors, strict=True)]
        path = f"/v1/galleries/{gallery}/subjects/{subject}/templates"
        return self.http.post(path, json={"templates": sent}, **options)

    def verify(self, subject: str, probe: NDArray[np.float32], gallery: str = "door", **options: Any) -> httpx.Response:
        path = f"/v1/galleries/{gallery}/subjects/{subject}/verify"
        return self.http.post(path, json={"probe": enveloped(probe)}, **options)

    def identify(
        self, *probes: NDArray[np.float32], top_k: int = 5, gallery: str = "door", **options: Any
    ) -> httpx.Response:
        body = {"probes": [enveloped(probe) for probe in probes], "top_k": top_k}
        return self.http.post(f"/v1/galleries/{gallery}/identify", json=body, **options)

    def found(self, probe: NDArray[np.float32], **options: Any) -> list[str]:
        """The subjects that one probe matched, best first."""
        answer = self.identify(probe, **options)
        assert answer.status_code == 200, answer.text
        return [candidate["subject"] for candidate in answer.json()["results"][0]["candidates"]]

    def erase(self, path: str = "", gallery: str = "door", **options: Any) -> tuple[int, int]:
        """Erases the gallery, or what is at the path in it, at once; how many subjects and templates that were."""
        answer = self.http.delete(f"/v1/galleries/{gallery}{path}", **options)
        assert answer.status_code == 200, answer.text
        assert answer.json()["pending"] == []
        return answer.json()["subjects"], answer.json()["templates"]

    def erase_all(self) -> None:
        """Erases every gallery."""
        while items := self.http.get("/v1/galleries").json()["items"]:
            for item in items:
                assert self.http.delete(f"/v1/galleries/{item['gallery']}").status_code in {200, 202}

    def held(self, gallery: str = "door") -> tuple[int, int]:
        """How many subjects and templates the gallery holds."""
        info = self.http.get(f"/v1/galleries/{gallery}").json()
        return info["subjects"], info["templates"]


def assert_problem(answer: httpx.Response, status: int, kind: str, reason: str | None = None) -> dict[str, Any]:
    """The answer is a whole problem document; returns it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["type"] == f"urn:patronus:problem:{kind}"
    assert body["status"] == status
    assert len(body["detail"]) > 20
    assert body["request_id"] == answer.headers["X-Request-ID"]
    if reason is not None:
        assert body["reason"] == reason
    return body
