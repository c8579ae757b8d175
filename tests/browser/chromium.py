"""Chromium for the tests of the console: found on this machine, and watched while it shows the page."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from tests.support.edge import sample

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Playwright, Response

# Debian's package first: it is what `make test-browser` installs.
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# It asks nobody for updates, and runs where there is neither a screen nor a user namespace.
_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_STATIC = ("/console/",)
_SAY_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP: ${event.effectiveDirective} forbids ${event.blockedURI}`));
"""


def chromium_path() -> str:
    """Where Chromium is; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("there is no Chromium here: make test-browser installs it where it may")
    return found


def launch(playwright: Playwright, *, camera: Path | None = None) -> Browser:
    """Starts Chromium.

    Args:
        playwright: of the test's module.
        camera: film that its camera shows, over and over; None: it has no camera.
    """
    films = (
        () if camera is None else ("--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={camera}")
    )
    return playwright.chromium.launch(executable_path=chromium_path(), args=[*_ARGUMENTS, *films])


def film(path: Path, *names: str, width: int = 640, height: int = 480) -> Path:
    """Writes a film (MJPEG) of sample pictures, each for a second, in the middle of a gray frame."""
    with path.open("wb") as file:
        for name in names:
            frame = Image.new("RGB", (width, height), (128, 128, 128))
            with Image.open(io.BytesIO(sample(name))) as picture:
                shown = picture.convert("RGB")
            shown.thumbnail((width, height))
            frame.paste(shown, ((width - shown.width) // 2, (height - shown.height) // 2))
            target = io.BytesIO()
            frame.save(target, "JPEG", quality=92)
            file.write(target.getvalue() * 30)
    return path


class Watch:
    """What must not happen in a browser: errors, violations of the policy, and requests to anything but the edge.

    Attributes:
        problems: what happened, in words.
        bytes_of: size of each answer's body by its path, as it crossed the line.
    """

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.problems: list[str] = []
        self._origin = origin
        context.add_init_script(_SAY_VIOLATIONS)
        context.on("console", self._console)
        context.on("weberror", lambda error: self.problems.append(f"uncaught: {error.error}"))
        context.on("request", lambda request: self._address(request.url))
        context.on("response", self._response)

    def forget(self, *words: str) -> None:
        """Takes out expected problems, each of which must have happened."""
        for word in words:
            expected = [problem for problem in self.problems if word in problem]
            assert expected, f"no problem with {word!r} happened"
            self.problems = [problem for problem in self.problems if word not in problem]

    def _console(self, message: Any) -> None:
        # The browser reports each answer of 400 and more; those that the page does not expect are in _response.
        refused = message.text.startswith("Failed to load resource")
        if message.type in {"error", "warning"} and not refused:
            self.problems.append(f"{message.type}: {message.text}")

    def _address(self, url: str) -> None:
        # A picture in memory has the origin's scheme, host and port, without a proxy's prefix.
        blob = "blob:" + "/".join(self._origin.split("/")[:3])
        if not url.startswith((self._origin, blob, "data:", "about:")):
            self.problems.append(f"request to {url}")

    def _response(self, response: Response) -> None:
        path = urlsplit(response.url).path
        static = path == "/" or any(part in path for part in _STATIC)
        if response.status >= 400 and ((static and "sign-in" not in path) or response.status == 500):
            self.problems.append(f"{response.status} {path}")


def serious(results: Any, but_for: Sequence[str] = ()) -> list[str]:
    """Axe's serious and critical findings, in words."""
    return [
        f"{found['id']}: {found['help']}: {[node['target'] for node in found['nodes']][:5]}"
        for found in results.response["violations"]
        if found["impact"] in {"serious", "critical"} and found["id"] not in but_for
    ]
