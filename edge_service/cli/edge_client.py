"""Calls the edge's REST interface, for the command line."""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from pathlib import Path
from typing import Any, Final

import httpx

from shared.errors import BadRequest, PatronusError, SetupError
from shared.home import patronus_home
from shared.security.secret_files import read_secret
from shared.security.tls import client_context, why_refused

DEFAULT_EDGE = "http://127.0.0.1:8000"
# Long enough for a picture over a slow uplink, and for an edge that waits for its cloud.
_TIMEOUT_S: Final = 60.0
# No edge takes more in one request. Without a limit, a file named by mistake would be read into memory.
_MOST_BYTES: Final = 64 * 1024 * 1024
# The edge or the cloud is busy or away for a moment.
_BUSY: Final = frozenset({429, 503})
_WAITS_S: Final = (0.5, 1, 2, 4, 8)


class Refused(PatronusError):
    """The edge refused, or failed; ``detail`` is what it said."""

    def __init__(self, problem: dict[str, Any]) -> None:
        detail = str(problem.get("detail", ""))
        errors = problem.get("errors")
        if isinstance(errors, list):
            detail = "; ".join(f"{found['at']}: {found['problem']}" for found in errors)
        super().__init__(detail, reason=problem.get("reason"))
        self.problem = problem


class EdgeClient:
    """Calls one edge.

    Args:
        url: of the edge.
        key: an API key of it.
        ca: file of the authority that signed its certificate; None: those that this system trusts.

    Raises:
        SetupError: the address or the authority's file is wrong.
    """

    def __init__(self, url: str, key: str, ca: Path | None = None) -> None:
        try:
            self._http = httpx.Client(
                base_url=url,
                headers={"Authorization": f"Bearer {key}"},
                timeout=_TIMEOUT_S,
                verify=client_context(ca, None, None),
                trust_env=False,
            )
        except (httpx.InvalidURL, ValueError):
            raise SetupError("The edge's address is not a URL; write it like http://127.0.0.1:8000") from None
        weakref.finalize(self, self._http.close)  # closes the connection with the last use of this client

    def call(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """The edge's answer.

        Raises:
            Refused: it answered with a problem.
            SetupError: it cannot be reached, or something else answers there.
        """
        try:
            response = self._http.request(method, path, **request)
            answer = response.json()
        except httpx.HTTPError as error:
            why = why_refused(error)
            if why is not None:
                raise SetupError(f"{why} Name the edge's authority in PATRONUS_EDGE_CA.") from None
            raise SetupError(
                f"No edge answers at {self._http.base_url}; start one with `make run`, or name it with --edge."
            ) from None
        except ValueError:
            raise SetupError(f"What answers at {self._http.base_url} is not an edge.") from None
        if not isinstance(answer, dict):
            raise SetupError(f"What answers at {self._http.base_url} is not an edge.")
        if response.status_code == httpx.codes.UNAUTHORIZED:
            answer["detail"] = (
                f"The edge at {self._http.base_url} does not know this API key, or it was revoked. Name the edge with "
                "--edge (a cloud takes no key of an edge), or a file with its key with --key-file."
            )
        if response.is_error:
            raise Refused(answer)
        return answer

    def call_with_retries(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """As ``call``, repeated for up to 16 seconds while the edge or the cloud is busy."""
        for seconds in _WAITS_S:
            try:
                return self.call(method, path, **request)
            except Refused as error:
                if error.problem.get("status") not in _BUSY:
                    raise
                time.sleep(seconds)
        return self.call(method, path, **request)

    def send_picture(self, path: str, picture: Path, **params: Any) -> dict[str, Any]:
        """Sends one picture; parameters that are None are left out.

        Raises:
            BadRequest: the file cannot be read.
            Refused: the edge refused it.
            SetupError: no edge answers.
        """
        try:
            if picture.exists() and not picture.is_file():
                raise BadRequest(f"{picture}: is not a plain file; give a JPEG, PNG or WebP picture.")
            if picture.stat().st_size > _MOST_BYTES:
                raise BadRequest(f"{picture}: is too large to be a picture.")
            content = picture.read_bytes()
        except OSError as error:
            raise BadRequest(f"{picture}: cannot be read ({error.strerror}).") from None
        files = {"image": (picture.name, content, "application/octet-stream")}
        return self.call("POST", path, files=files, params={k: v for k, v in params.items() if v is not None})


def connect(url: str | None, key_file: Path | None) -> EdgeClient:
    """Connects to the named edge, else to the one that ``make run`` started on this machine.

    Raises:
        SetupError: there is no API key where it is looked for.
    """
    key = os.environ.get("PATRONUS_API_KEY")
    if key is None or key_file is not None:
        path = key_file or _edge_home() / "api_key"
        try:
            key = read_secret(path).decode("ascii").strip()
        except (FileNotFoundError, UnicodeDecodeError):
            raise SetupError(
                f"There is no API key in {path}; start an edge here, or name the key's file with --key-file or the key "
                "itself in PATRONUS_API_KEY."
            ) from None
    ca = os.environ.get("PATRONUS_EDGE_CA")
    running_here = None
    with contextlib.suppress(OSError):
        running_here = (_edge_home() / "address").read_text().strip()
    return EdgeClient(url or running_here or DEFAULT_EDGE, key, Path(ca) if ca else None)


def _edge_home() -> Path:
    """The edge's folder. Its settings are not loaded here: a client's installation need not have the service."""
    named = os.environ.get("PATRONUS_EDGE__HOME")
    return Path(named) if named else patronus_home() / "edge"
