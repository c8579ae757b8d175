"""A small client of the edge's REST interface, for the command line."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

import httpx

from shared.errors import BadRequest, PatronusError, SetupError
from shared.home import patronus_home
from shared.http.request_context import REQUEST_ID_HEADER
from shared.security.secret_files import read_secret
from shared.security.tls import client_context, why_refused

DEFAULT_EDGE = "http://127.0.0.1:8000"
# A picture over a slow uplink, and the edge's own patience with the cloud.
_SECONDS = 60.0
# No edge takes more in one request; without a limit a mistaken path would be read into memory whole.
_MOST_BYTES = 64 * 1024 * 1024


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
        ca: the authority that its certificate is of, where it has one; None: those that this system trusts.

    Raises:
        SetupError: the address or the authority's file is not one.
    """

    def __init__(self, url: str, key: str, ca: Path | None = None) -> None:
        try:
            self._http = httpx.Client(
                base_url=url,
                headers={"Authorization": f"Bearer {key}"},
                timeout=_SECONDS,
                verify=client_context(ca, None, None),
                trust_env=False,
            )
        except (httpx.InvalidURL, ValueError):
            raise SetupError("The edge's address is not one; it looks like http://127.0.0.1:8000") from None
        weakref.finalize(self, self._http.close)  # with the last use of this client, its connection

    def call(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """The edge's answer.

        Raises:
            Refused: it answered with a problem.
            SetupError: it cannot be reached, or what answers there is not an edge.
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
        if response.is_error:
            raise Refused({REQUEST_ID_HEADER: response.headers.get(REQUEST_ID_HEADER), **answer})
        return answer

    def send_picture(self, path: str, picture: Path, **params: Any) -> dict[str, Any]:
        """Sends one picture.

        Raises:
            BadRequest: the file cannot be read.
            Refused: the edge refused it.
            SetupError: no edge answers.
        """
        try:
            if picture.exists() and not picture.is_file():
                raise BadRequest(f"{picture}: is not a plain file.")
            if picture.stat().st_size > _MOST_BYTES:
                raise BadRequest(f"{picture}: is too large to be a picture.")
            content = picture.read_bytes()
        except OSError as error:
            raise BadRequest(f"{picture}: cannot be read ({error.strerror}).") from None
        files = {"image": (picture.name, content, "application/octet-stream")}
        return self.call("POST", path, files=files, params={k: v for k, v in params.items() if v is not None})


def connect(url: str | None, key_file: Path | None) -> EdgeClient:
    """A client of the edge that is named, else of the one that ``make run`` started on this machine.

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
    return EdgeClient(url or _running_here() or DEFAULT_EDGE, key, Path(ca) if ca else None)


def _running_here() -> str | None:
    """The address that ``make run`` left while it runs."""
    try:
        return (_edge_home() / "address").read_text().strip() or None
    except OSError:
        return None


def _edge_home() -> Path:
    """As the edge's own settings have it; these are not loaded here, for a client may know nothing of a service."""
    named = os.environ.get("PATRONUS_EDGE__HOME")
    return Path(named) if named else patronus_home() / "edge"
