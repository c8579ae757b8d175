"""A real Chromium that shows the console of a real edge before a real cloud."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge_service.console.sign_in_codes import SignInCodes, sign_in_link
from tests.browser.chromium import Watch, chromium_path, film, launch
from tests.support.edge import sample
from tests.support.servers import RunningPair, running_pair

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Playwright

_MISSING = "playwright is not installed: make test-browser installs it"
WHY = "needs Chromium and a pair of services of its own"
_galleries = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder are slow ones."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow(reason=WHY))


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory, models_folder: Path) -> Iterator[RunningPair]:
    """One for all tests of a worker: each test names galleries of its own."""
    pytest.importorskip("playwright.sync_api", reason=_MISSING)
    chromium_path()
    with running_pair(tmp_path_factory.mktemp("home"), models_folder) as running:
        yield running


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """Of one file: while it is open, this thread has a running event loop, which tests of other files do not expect."""
    api = pytest.importorskip("playwright.sync_api", reason=_MISSING)
    with api.sync_playwright() as opened:
        yield opened


@pytest.fixture(scope="module")
def browser(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium with a camera before which Barack Obama stands."""
    opened = launch(playwright, camera=film(tmp_path_factory.mktemp("film") / "speech.mjpeg", "obama/speech.jpg"))
    yield opened
    opened.close()


class Browsing:
    """Windows of a browser, each watched."""

    def __init__(self, browser: Browser, pair: RunningPair) -> None:
        self.pair = pair
        self.origin = str(pair.edge.base_url).rstrip("/")
        self._browser = browser
        self._opened: list[tuple[BrowserContext, Watch]] = []

    def context(self, **options: Any) -> BrowserContext:
        """A new profile of the browser; the camera may be used unless ``camera`` is false."""
        camera, origin = options.pop("camera", True), options.pop("origin", self.origin)
        size = {"width": options.pop("width", 1440), "height": options.pop("height", 900)}
        made = self._browser.new_context(**{"viewport": size, "locale": "en-US", "timezone_id": "UTC"} | options)
        made.set_default_timeout(90_000)
        made.grant_permissions(["camera"] if camera else [])
        self._opened.append((made, Watch(made, origin)))
        return made

    def page(self, **options: Any) -> Page:
        """An empty tab in a profile of its own."""
        return self.context(**options).new_page()

    def watch(self, page: Page) -> Watch:
        """What was seen of a tab's profile."""
        return next(watch for context, watch in self._opened if context is page.context)

    def link(self) -> str:
        """A one-time link, as `make run` and `patronus edge sign-in` print it."""
        return sign_in_link(self.origin, SignInCodes(self.pair.home / "edge" / "sign_in_codes.json"))

    def signed_in(self, where: str = "", **options: Any) -> Page:
        """A tab that is signed in with a key for everything, at an address such as ``#/g/door``."""
        page = self.page(**options)
        page.goto(self.link())
        page.get_by_role("heading", name="Galleries", level=1).wait_for()
        if where:
            self.go(page, where)
        return page

    @staticmethod
    def go(page: Page, where: str) -> None:
        """Goes to a view without loading the page anew, which would sign it out."""
        page.evaluate("where => { location.hash = where; }", where)

    def close(self) -> list[str]:
        """Closes all, and says what should not have happened."""
        for context, _ in self._opened:
            context.close()
        return [problem for _, watch in self._opened for problem in watch.problems]


@pytest.fixture
def browsing(browser: Browser, pair: RunningPair) -> Iterator[Browsing]:
    """Windows; the test fails at its end where one had an error, or asked anybody but the edge."""
    opened = Browsing(browser, pair)
    yield opened
    assert opened.close() == []


@pytest.fixture
def gallery(pair: RunningPair) -> Callable[..., str]:
    """Makes a gallery of a name of its own, with people: ``gallery(obama="obama/portrait.jpg")``."""

    def make(verify_only: bool = False, **people: str) -> str:
        name = f"gallery-{next(_galleries)}"
        pair.edge.put(f"/v1/galleries/{name}", json={"verify_only": verify_only}).raise_for_status()
        for person, pictures in people.items():
            files = [("image", ("picture", sample(picture))) for picture in pictures.split()]
            pair.edge.post(f"/v1/galleries/{name}/subjects/{person}/faces", files=files).raise_for_status()
        return name

    return make
