"""The cloud or the edge goes away in the middle: the page says so, and nothing typed or chosen is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.browser.conftest import Browsing
from tests.support.edge import PICTURES
from tests.support.servers import RunningPair

PORTRAIT = PICTURES / "obama" / "portrait.jpg"
AWAY = "The cloud does not answer the edge."


@pytest.fixture
def cloud(pair: RunningPair) -> Iterator[Callable[[bool], None]]:
    """Stops the cloud (False) and starts it again (True); at the end it runs."""
    runs = True

    def switch(wanted: bool) -> None:
        nonlocal runs
        if wanted and not runs:
            pair.start_cloud()
        elif runs and not wanted:
            pair.processes.stop_one("cloud")
        runs = wanted

    yield switch
    switch(True)


def test_pictures_and_names_stay_while_the_cloud_is_away(
    browsing: Browsing, gallery: Callable[..., str], cloud: Callable[[bool], None], pair: RunningPair
) -> None:
    name = gallery()
    page = browsing.signed_in(f"#/g/{name}/enroll")
    page.locator("[data-testid=files]:enabled").set_input_files(PORTRAIT)
    page.get_by_label("Whose face is it?").fill("Barack Obama")
    page.get_by_role("button", name="Store 1 face as Barack Obama").wait_for()
    cloud(False)
    page.get_by_role("button", name="Store 1 face as Barack Obama").click()
    page.get_by_text(AWAY).wait_for()
    assert page.get_by_label("Whose face is it?").input_value() == "Barack Obama"
    # What needs the edge alone goes on: a further picture is examined.
    page.locator("[data-testid=files]:enabled").set_input_files(PICTURES / "obama" / "speech.jpg")
    page.locator(".enroll-card .box").nth(1).wait_for()
    cloud(True)
    page.get_by_text(AWAY).wait_for(state="detached")
    page.get_by_role("button", name="Store 2 faces as Barack Obama").click()
    page.get_by_text("2 faces of Barack Obama are stored.").wait_for()
    assert pair.edge.get(f"/v1/galleries/{name}").json()["templates"] == 2


def test_a_page_that_is_opened_while_the_cloud_is_away_says_so_and_comes_back(
    browsing: Browsing, gallery: Callable[..., str], cloud: Callable[[bool], None]
) -> None:
    name = gallery(obama="obama/portrait.jpg")
    cloud(False)
    page = browsing.signed_in()
    page.get_by_text(AWAY).wait_for()
    browsing.go(page, "#/system")
    page.get_by_text("does not work").wait_for()
    cloud(True)
    page.get_by_text(AWAY).wait_for(state="detached")
    browsing.go(page, "#/")
    page.get_by_role("link", name=name, exact=True).wait_for()


def test_a_form_keeps_what_was_typed_while_the_cloud_is_away(
    browsing: Browsing, cloud: Callable[[bool], None], gallery: Callable[..., str]
) -> None:
    gallery()
    page = browsing.signed_in()
    page.get_by_role("button", name="New gallery").click()
    page.get_by_label("Name of the gallery").fill("visitors")
    page.get_by_text("Threshold, verify-only, retention").click()
    page.get_by_label("Erase faces after so many days").fill("30")
    cloud(False)
    page.get_by_role("button", name="Create gallery").click()
    page.get_by_role("dialog").get_by_role("alert").wait_for()
    assert page.get_by_label("Name of the gallery").input_value() == "visitors"
    assert page.get_by_label("Erase faces after so many days").input_value() == "30"
    cloud(True)
    page.get_by_role("button", name="Create gallery").click()
    page.get_by_role("heading", name="Enroll", level=1).wait_for()


def test_the_live_camera_waits_for_the_cloud_and_goes_on(
    browsing: Browsing, gallery: Callable[..., str], cloud: Callable[[bool], None]
) -> None:
    name = gallery(obama="obama/portrait.jpg")
    page = browsing.signed_in(f"#/g/{name}/live")
    names = page.locator(".live-names").get_by_text("obama")
    names.wait_for()
    cloud(False)
    page.get_by_text(AWAY).wait_for()
    names.wait_for(state="detached")
    cloud(True)
    page.get_by_text(AWAY).wait_for(state="detached")
    again = page.get_by_role("button", name="Start", exact=True)
    names.or_(again).first.wait_for()
    if again.is_visible():
        again.click()
    names.wait_for()


def test_an_edge_that_is_away_is_noticed_and_found_again(browsing: Browsing, gallery: Callable[..., str]) -> None:
    name = gallery(obama="obama/portrait.jpg")
    page = browsing.signed_in(f"#/g/{name}")
    page.get_by_role("link", name="obama", exact=True).wait_for()
    page.context.set_offline(True)
    page.get_by_role("searchbox").fill("oba")
    page.get_by_text("What you typed stays here; this page asks again").wait_for()
    assert page.get_by_role("searchbox").input_value() == "oba"
    page.context.set_offline(False)
    page.get_by_text("What you typed stays here; this page asks again").wait_for(state="detached")
    page.get_by_role("button", name="Try again").click()
    page.get_by_role("link", name="obama", exact=True).wait_for()
