"""Signing in and out: links, keys, what a narrower key sees, several tabs, a wrong clock, a proxy."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from shared.security.credentials import Scope
from shared.security.key_ring import KeyRing
from tests.browser.conftest import Browsing
from tests.support.edge import PICTURES
from tests.support.servers import RunningPair

if TYPE_CHECKING:
    from playwright.sync_api import Page

SPEECH = PICTURES / "obama" / "speech.jpg"


@pytest.fixture
def keys(pair: RunningPair) -> KeyRing:
    """The edge's file of keys, as `patronus edge keys` changes it."""
    return KeyRing(pair.home / "edge" / "api_keys.json")


def with_key(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in", exact=True).click()


def valid(pair: RunningPair) -> set[str]:
    """Ids of the keys of browsers."""
    found = pair.edge.get("/v1/keys").json()["keys"]
    return {key["id"] for key in found if key["label"] == "browser on this machine"}


def test_a_link_signs_in_once_and_is_gone_from_the_address(browsing: Browsing) -> None:
    link = browsing.link()
    first, second = browsing.page(), browsing.page()
    first.goto(link)
    first.get_by_role("heading", name="Galleries", level=1).wait_for()
    assert "sign-in" not in first.url
    second.goto(link)
    second.get_by_text("This link was used already").wait_for()
    second.get_by_label("API key").wait_for()


def test_a_key_that_is_not_valid_stays_in_the_field(browsing: Browsing) -> None:
    page = browsing.page()
    page.goto(browsing.origin)
    with_key(page, "patronus_0123_wrong")
    page.get_by_text("This key is not valid here.").wait_for()
    assert page.get_by_label("API key").input_value() == "patronus_0123_wrong"
    with_key(page, (browsing.pair.home / "edge" / "api_key").read_text().strip())
    page.get_by_role("heading", name="Galleries", level=1).wait_for()


def test_nothing_is_kept_in_the_browser(browsing: Browsing) -> None:
    page = browsing.signed_in()
    stores = "[localStorage.length, sessionStorage.length, document.cookie, (await indexedDB.databases()).length]"
    kept = page.evaluate(f"async () => {stores}")
    assert kept == [0, 0, "", 0]
    page.reload()
    page.get_by_label("API key").wait_for()


@pytest.mark.parametrize("how", ["sign out", "reload", "close"])
def test_whoever_leaves_is_signed_out_at_the_edge_too(browsing: Browsing, pair: RunningPair, how: str) -> None:
    before = valid(pair)
    page = browsing.signed_in()
    [mine] = valid(pair) - before
    if how == "sign out":
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("API key").wait_for()
    elif how == "reload":
        page.reload()
    else:
        page.close(run_before_unload=True)
    other = browsing.page()
    for _ in range(50):
        if mine not in valid(pair):
            break
        other.wait_for_timeout(100)
    assert mine not in valid(pair)


def test_a_browsers_key_that_stayed_is_seen_and_ended(browsing: Browsing, pair: RunningPair) -> None:
    before = valid(pair)
    browsing.signed_in()
    [left] = valid(pair) - before
    page = browsing.signed_in("#/system")
    [mine] = valid(pair) - before - {left}
    row = page.locator(".keys tr", has_text=left)
    row.get_by_text(re.compile(r"\d{4}, \d+:\d\d")).wait_for()  # when it ends
    assert page.get_by_role("button", name=f"End the browser's key {mine}").count() == 0
    row.get_by_role("button", name=f"End the browser's key {left}").click()
    page.get_by_text("The browser's key has ended.").wait_for()
    row.wait_for(state="detached")
    assert valid(pair) - before == {mine}


def test_whoever_signs_in_next_sees_nothing_of_the_one_before(browsing: Browsing, gallery: Callable[..., str]) -> None:
    name = gallery(obama="obama/portrait.jpg")
    page = browsing.signed_in(f"#/g/{name}/recognize")
    page.locator("[data-testid=files]:enabled").set_input_files(SPEECH)
    page.get_by_text("This is obama.").wait_for()
    page.get_by_role("button", name="Sign out").click()
    with_key(page, (browsing.pair.home / "edge" / "api_key").read_text().strip())
    browsing.go(page, "#/history")
    page.get_by_text("Nothing was asked yet").wait_for()
    browsing.go(page, "#/sent")
    page.get_by_text("No picture was used in this tab yet").wait_for()


def test_a_key_that_ends_while_somebody_types_costs_nothing_typed(
    browsing: Browsing, gallery: Callable[..., str], keys: KeyRing
) -> None:
    name = gallery()
    key, record = keys.add("short", [Scope.ENROLL, Scope.MATCH], [name])
    page = browsing.page()
    page.goto(browsing.origin)
    with_key(page, key)
    page.get_by_role("heading", name="Galleries", level=1).wait_for()
    browsing.go(page, f"#/g/{name}/enroll")
    page.locator("[data-testid=files]:enabled").set_input_files(SPEECH)
    page.get_by_label("Whose face is it?").fill("Barack Obama")
    page.get_by_role("button", name="Store 1 face as Barack Obama").wait_for()
    keys.revoke(record.id)
    page.get_by_role("button", name="Store 1 face as Barack Obama").click()
    page.get_by_role("heading", name="Sign in again").wait_for()
    with_key(page, keys.add("next", [Scope.ENROLL, Scope.MATCH], [name])[0])
    page.get_by_role("heading", name="Sign in again").wait_for(state="detached")
    assert page.get_by_label("Whose face is it?").input_value() == "Barack Obama"
    page.get_by_role("button", name="Store 1 face as Barack Obama").click()
    page.get_by_text("Barack Obama is enrolled with 1 face.").wait_for()


@pytest.mark.parametrize(
    ("scopes", "seen", "hidden"),
    [
        ([Scope.MATCH], ["Recognize", "Live camera"], ["People", "Enroll", "New gallery", "Settings", "Erase"]),
        ([Scope.ENROLL], ["Enroll", "People"], ["Recognize", "Live camera", "New gallery", "Settings"]),
        ([Scope.MANAGE], ["People"], ["Enroll", "Recognize", "Live camera", "New gallery"]),
    ],
)
def test_what_a_key_may_not_do_is_not_shown(
    browsing: Browsing,
    gallery: Callable[..., str],
    keys: KeyRing,
    scopes: list[Scope],
    seen: list[str],
    hidden: list[str],
) -> None:
    name = gallery(obama="obama/portrait.jpg")
    other = gallery()
    page = browsing.page()
    page.goto(browsing.origin)
    with_key(page, keys.add("narrow", scopes, [name])[0])
    page.get_by_role("link", name=name, exact=True).click()
    page.locator(".tabs").wait_for()
    page.wait_for_timeout(500)
    shown = page.locator("a, button").all_inner_texts()
    assert set(seen) <= set(shown)
    assert set(hidden) & set(shown) == set()
    browsing.go(page, "#/system")
    page.get_by_role("heading", name="Your key").wait_for()
    assert page.get_by_role("heading", name="API keys").count() == 0
    browsing.go(page, "#/")
    page.get_by_role("link", name=name, exact=True).wait_for()
    assert set(hidden) & set(page.locator("a, button").all_inner_texts()) == set()
    assert page.get_by_text(other, exact=True).count() == 0


def test_an_address_that_a_key_may_not_use_says_so(
    browsing: Browsing, gallery: Callable[..., str], keys: KeyRing
) -> None:
    name = gallery()
    page = browsing.page()
    page.goto(browsing.origin)
    with_key(page, keys.add("other", [Scope.MANAGE, Scope.MATCH], ["of-nobody"])[0])
    browsing.go(page, f"#/g/{name}/recognize")
    page.get_by_text("There is no gallery of this name").first.wait_for()


def test_two_tabs_do_not_disturb_each_other(browsing: Browsing, gallery: Callable[..., str], pair: RunningPair) -> None:
    name = gallery(obama="obama/portrait.jpg", biden="biden/standing.jpg")
    context = browsing.context()
    tabs = [context.new_page() for _ in range(2)]
    for tab in tabs:
        tab.goto(browsing.link())
        tab.get_by_role("heading", name="Galleries", level=1).wait_for()
        browsing.go(tab, f"#/g/{name}")
        tab.get_by_role("link", name="obama", exact=True).wait_for()
    one, other = tabs
    one.get_by_role("button", name="Erase obama").click()
    one.get_by_role("dialog").get_by_role("button", name="Erase", exact=True).click()
    one.get_by_role("heading", name="Erased").wait_for()
    other.get_by_role("button", name="Rename obama").click()
    other.get_by_label("New name").fill("Barack")
    other.get_by_role("dialog").get_by_role("button", name="Rename", exact=True).click()
    other.get_by_role("dialog").get_by_role("alert").get_by_text("obama").or_(
        other.get_by_role("dialog").get_by_text("no subject")
    ).first.wait_for()
    assert other.get_by_label("New name").input_value() == "Barack"
    one.close()
    other.get_by_role("button", name="Cancel").click()
    other.get_by_role("searchbox").fill("bi")
    other.get_by_role("link", name="obama", exact=True).wait_for(state="detached")
    other.get_by_role("link", name="biden", exact=True).wait_for()


@pytest.mark.parametrize("year", [1999, 2051])
def test_a_clock_that_is_wrong_changes_nothing(browsing: Browsing, gallery: Callable[..., str], year: int) -> None:
    name = gallery(obama="obama/portrait.jpg")
    page = browsing.page()
    page.clock.install(time=datetime(year, 1, 1, tzinfo=UTC))
    page.goto(browsing.link())
    page.get_by_role("heading", name="Galleries", level=1).wait_for()
    browsing.go(page, f"#/g/{name}/recognize")
    page.locator("[data-testid=files]:enabled").set_input_files(SPEECH)
    page.get_by_text("This is obama.").wait_for()
    page.get_by_role("link", name="See what left the building").click()
    page.get_by_text("The request, exactly").wait_for()
    browsing.go(page, "#/system")
    page.get_by_text("The cloud answers").wait_for()


class _Prefixed(BaseHTTPRequestHandler):
    """A proxy as nginx is with ``location /faces/edge/ { proxy_pass EDGE/; }``."""

    prefix, edge = "/faces/edge", ""

    def do_GET(self) -> None:
        assert self.path.startswith(f"{self.prefix}/"), "everything goes through this location"
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in {"host", "connection"}}
        with httpx.Client(trust_env=False, timeout=30) as client:
            url = self.edge + self.path.removeprefix(self.prefix)
            answer = client.request(self.command, url, headers=headers | {"Accept-Encoding": "identity"}, content=body)
        self.send_response(answer.status_code)
        for name, value in answer.headers.items():
            if name not in {"connection", "transfer-encoding", "content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    do_POST = do_PUT = do_GET  # noqa: N815 - as http.server calls them

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def proxied(pair: RunningPair) -> Iterator[str]:
    handler = type("Prefixed", (_Prefixed,), {"edge": str(pair.edge.base_url).rstrip("/")})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}{_Prefixed.prefix}"
    server.shutdown()
    server.server_close()


def test_behind_a_proxy_with_a_prefix_everything_is_found(
    browsing: Browsing, gallery: Callable[..., str], proxied: str
) -> None:
    name = gallery(obama="obama/portrait.jpg")
    page = browsing.page(origin=proxied)
    page.goto(re.sub(r"^http://[^/]*", proxied, browsing.link()))
    page.get_by_role("link", name=name, exact=True).wait_for()
    browsing.go(page, f"#/g/{name}/recognize")
    page.locator("[data-testid=files]:enabled").set_input_files(SPEECH)
    page.get_by_text("This is obama.").wait_for()
    browsing.go(page, "#/thief")
    image = page.get_by_role("img", name="Four portraits")
    image.wait_for()
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
