"""A cloud whose index is in Milvus, as tests look at it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from cloud_service.settings import IndexSettings, MilvusSettings, Settings
from cloud_service.store import Store
from tests.support.cloud_client import Cloud


def settings_with_milvus(home: Path, url: str, **milvus: Any) -> Settings:
    return Settings(
        home=home,
        index=IndexSettings(url=url),
        milvus=MilvusSettings(**{"token": "a:secret", "timeout_s": 10.0, "max_lag_s": 1.5, **milvus}),
    )


def store_of(cloud: Cloud) -> Store:
    store: Store = cloud.services.store
    return store


def index_is_ready(cloud: Cloud) -> bool:
    checks = cloud.http.get("/readyz").json()["checks"]
    assert checks["record"]
    return bool(checks["index"])


def within(seconds: float, holds: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.1)


def assert_pending(answer: httpx.Response) -> None:
    """Erased, and pending: Milvus still has to rewrite its files."""
    assert answer.status_code == 202, answer.text
    assert answer.json()["pending"] == ["index"]
