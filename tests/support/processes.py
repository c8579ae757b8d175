"""Services in processes of their own, as tests start them."""

from __future__ import annotations

import subprocess
import time
from typing import Any

import httpx
import pytest

_SECONDS = 60


def wait_until_ready(process: subprocess.Popen[Any], client: httpx.Client, path: str = "/readyz") -> None:
    """Returns when the service behind the client can do its work (``/healthz``: when it answers).

    Fails when it ends, or takes too long.
    """
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "it did not start"
        try:
            if client.get(path).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail("it did not become ready")
