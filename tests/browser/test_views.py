"""Every view: readable at every size, light and dark, without a serious finding of axe."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.chromium import serious
from tests.browser.conftest import Browsing
from tests.support.edge import PICTURES
from tests.support.servers import RunningPair, running_pair

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Where screenshots are written: make test-browser SCREENSHOTS=FOLDER
SCREENSHOTS = os.environ.get("SCREENSHOTS")
SPEECH = PICTURES / "obama" / "speech.jpg"
PORTRAIT = PICTURES / "obama" / "portrait.jpg"
# Wider than the screen is what nobody scrolls to.
_WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def galleries(page: Page, gallery: str) -> None:
    Browsing.go(page, "#/")
    page.get_by_role("link", name=gallery, exact=True).wait_for()


def people(page: Page, gallery: str) -> None:
    Browsing.go(page, f"#/g/{gallery}")
    page.get_by_role("link", name="obama", exact=True).wait_for()


def person(page: Page, gallery: str) -> None:
    Browsing.go(page, f"#/g/{gallery}/p/obama")
    page.get_by_text("No picture is kept, so there is none to show").wait_for()


def enroll(page: Page, gallery: str) -> None:
    Browsing.go(page, f"#/g/{gallery}/enroll")
    page.locator("[data-testid=files]:enabled").set_input_files([PORTRAIT, PICTURES / "collins" / "portrait.png"])
    page.get_by_label("Whose face is it?").fill("eileen")
    page.get_by_text("Also matches").wait_for()
    page.get_by_text("Good to store").nth(1).wait_for()


def identify(page: Page, gallery: str) -> None:
    Browsing.go(page, f"#/g/{gallery}/recognize")
    page.locator("[data-testid=files]:enabled").set_input_files(SPEECH)
    page.get_by_text("This is obama.").wait_for()


def verify(page: Page, gallery: str) -> None:
    Browsing.go(page, f"#/g/{gallery}/recognize?subject=biden")
    page.locator("[data-testid=files]:enabled").set_input_files(SPEECH)
    page.get_by_text("This does not match biden.").wait_for()


def live(page: Page, gallery: str) -> None:
    Browsing.go(page, f"#/g/{gallery}/live")
    page.locator(".live-names").get_by_text("obama").wait_for()


def threshold(page: Page, gallery: str) -> None:
    Browsing.go(page, f"#/g/{gallery}/threshold")
    page.get_by_role("heading", name="By age").wait_for()


def sent(page: Page, gallery: str) -> None:
    identify(page, gallery)
    page.get_by_role("link", name="See what left the building").click()
    page.get_by_text("128 protected numbers").first.wait_for()


def thief(page: Page, gallery: str) -> None:
    Browsing.go(page, "#/thief")
    page.get_by_text("No decoder lies beside this edge's profile").wait_for()


def history(page: Page, gallery: str) -> None:
    identify(page, gallery)
    verify(page, gallery)
    Browsing.go(page, "#/history")
    page.get_by_text("No match: similarity").wait_for()


def system(page: Page, gallery: str) -> None:
    Browsing.go(page, "#/system")
    page.get_by_text("The cloud answers").wait_for()
    page.get_by_role("heading", name="API keys").wait_for()
    if SCREENSHOTS:
        page.wait_for_timeout(12_000)  # the charts have their first points then


VIEWS = (galleries, people, person, enroll, identify, verify, live, threshold, sent, thief, history, system)


@pytest.fixture(scope="module")
def known(pair: RunningPair) -> Iterator[str]:
    """A gallery with two people."""
    name = "staff"
    pair.edge.put(f"/v1/galleries/{name}").raise_for_status()
    for who, picture in (("obama", "portrait.jpg"), ("biden", "standing.jpg")):
        data = (PICTURES / who / picture).read_bytes()
        pair.edge.post(f"/v1/galleries/{name}/subjects/{who}/faces", files={"image": data}).raise_for_status()
    yield name
    pair.edge.delete(f"/v1/galleries/{name}").raise_for_status()


def looked_at(page: Page, name: str) -> None:
    """Fails where the page is wider than the screen or axe finds something serious; writes screenshots.

    Looks at it on a wide and a narrow screen, in light and in dark.
    """
    from axe_playwright_python.sync_playwright import Axe

    for width, height in ((1440, 900), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.wait_for_timeout(300)  # for what fades, and for charts that take the new width
            shown = f"{name}-{scheme}-{width}"
            assert page.evaluate(_WIDER) <= 0, f"{shown} is wider than the screen"
            assert serious(Axe().run(page)) == [], shown
            if SCREENSHOTS:
                page.screenshot(path=Path(SCREENSHOTS) / f"{shown}.png", full_page=True)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__)
def test_a_view_is_readable_at_every_size_in_light_and_dark(
    browsing: Browsing, known: str, view: Callable[[Page, str], None]
) -> None:
    page = browsing.signed_in()
    view(page, known)
    looked_at(page, view.__name__)


def test_the_sign_in_is_readable(browsing: Browsing) -> None:
    page = browsing.page()
    page.goto(browsing.origin)
    page.get_by_label("API key").wait_for()
    looked_at(page, "sign_in")


def test_a_violation_of_the_policy_and_a_request_to_another_host_would_be_noticed(browsing: Browsing) -> None:
    page = browsing.page()
    page.goto(browsing.origin)
    page.get_by_label("API key").wait_for()
    page.evaluate(
        """async () => {
          const script = document.createElement("script");
          script.textContent = "window.ran = true";
          document.body.append(script);
          await fetch("http://localhost:9/elsewhere").catch(() => {});
          setTimeout(() => { throw new Error("nobody catches this"); });
          await fetch("console/none.js");
        }"""
    )
    page.wait_for_timeout(300)
    assert page.evaluate("window.ran") is None
    browsing.watch(page).forget(
        "CSP: script-src-elem", "CSP: connect-src", "nobody catches this", "404 /console/none.js"
    )
    browsing.watch(page).problems.clear()  # the same again, in the browser's own words


def test_a_retention_of_seconds_is_told_in_minutes_and_can_be_left_as_it_is(
    browsing: Browsing, pair: RunningPair
) -> None:
    pair.edge.put("/v1/galleries/visitors").raise_for_status()
    pair.edge.put("/v1/galleries/visitors/retention", json={"max_age_seconds": 90}).raise_for_status()
    page = browsing.signed_in()
    page.get_by_text("Kept 1.5 minutes").wait_for()
    page.get_by_role("button", name="Settings of the gallery visitors").click()
    page.get_by_label("People with several faces are compared by").select_option("best")
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_text("The settings of visitors are changed.").wait_for()
    assert pair.edge.get("/v1/galleries/visitors").json()["max_age_seconds"] == 90
    pair.edge.delete("/v1/galleries/visitors").raise_for_status()


def test_activity_names_the_time_that_it_shows(browsing: Browsing) -> None:
    page = browsing.signed_in("#/system")
    page.get_by_role("heading", name="The last minute").wait_for()


def test_rebuilt_faces_of_one_profile_are_not_shown_under_another(
    browser: Browser, tmp_path: Path, models_folder: Path
) -> None:
    with running_pair(tmp_path / "home", models_folder, PATRONUS_EDGE__PROFILE="default") as started:
        other = Browsing(browser, started)
        page = other.signed_in("#/thief")
        page.get_by_text("Profile default: faces of 300 people").wait_for()
        row = page.get_by_role("row", name="From protected templates")
        row.get_by_role("cell", name="1%", exact=True).wait_for()
        assert page.locator(".published").count() == 0
        assert page.get_by_text("default-2").count() == 0
        assert other.close() == []


def test_the_page_is_in_german_too(browsing: Browsing, known: str) -> None:
    page = browsing.page(locale="de-AT")
    page.goto(browsing.link())
    page.get_by_role("heading", name="Galerien", level=1).wait_for()
    assert page.evaluate("document.documentElement.lang") == "de"
    Browsing.go(page, f"#/g/{known}/recognize")
    page.locator("[data-testid=files]:enabled").set_input_files(SPEECH)
    page.get_by_text("Das ist obama.").wait_for()
    page.get_by_label("Sprache").select_option("en")
    page.get_by_role("button", name="Sign out").wait_for()
