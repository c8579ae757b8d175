"""A first use: five actions to an identified face, also by keyboard; the first view is small and quick."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import Browsing
from tests.support.edge import PICTURES
from tests.support.servers import RunningPair, running_pair

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

FIRST_VIEW_BYTES, FIRST_VIEW_SECONDS = 200_000, 1.0
SPEECH = PICTURES / "obama" / "speech.jpg"


@pytest.fixture
def fresh(pair: RunningPair, browser: Browser, tmp_path: Path, models_folder: Path) -> Iterator[Browsing]:
    """A browser before an edge that was just started for the first time."""
    with running_pair(tmp_path / "home", models_folder) as started:
        opened = Browsing(browser, started)
        yield opened
        assert opened.close() == []


@pytest.fixture
def obama(tmp_path: Path) -> Path:
    return Path(shutil.copy(PICTURES / "obama" / "portrait.jpg", tmp_path / "IMG_0001.jpg"))


def test_five_actions_lead_to_an_identified_face(
    fresh: Browsing, obama: Path, record_property: Callable[..., None]
) -> None:
    page = fresh.page()
    began, transcript = time.perf_counter(), []

    def done(what: str) -> None:
        transcript.append(f"{len(transcript) + 1}. {what}: {time.perf_counter() - began:.1f} s")

    page.goto(fresh.link())
    page.get_by_role("button", name="Create gallery").wait_for()
    done("opens the link that make run printed, and is signed in")
    page.get_by_role("button", name="Create gallery").click()
    page.get_by_role("heading", name="Enroll", level=1).wait_for()
    done("presses Create gallery")
    page.locator("[data-testid=files]:enabled").set_input_files(obama)
    page.locator(".enroll-card .box").wait_for()
    assert page.get_by_label("Whose face is it?").input_value() == ""  # a file's name is nobody's
    done("drops a picture; it is examined")
    page.get_by_label("Whose face is it?").fill("Barack Obama")
    page.get_by_text("Good to store").wait_for()
    page.get_by_role("button", name="Store 1 face as Barack Obama").wait_for()
    page.keyboard.press("Enter")
    page.get_by_text("Barack Obama is enrolled with 1 face.").wait_for()
    done("types the name and presses Enter")
    page.get_by_test_id("try").set_input_files(SPEECH)
    page.get_by_text("This is Barack Obama.").wait_for()
    page.get_by_text("In this gallery of 1 people").or_(
        page.get_by_text("A stranger would score this high")
    ).first.wait_for()
    done("chooses a picture to recognize: This is Barack Obama, and how often a stranger would score as high")
    record_property("transcript", "\n".join(transcript))
    assert len(transcript) == 5


def tab_to(page: Page, wanted: Locator) -> None:
    """Presses Tab until an element has the focus."""
    wanted.wait_for()
    for _ in range(60):
        if wanted.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    pytest.fail(f"Tab does not reach {wanted}")


def focused(page: Page, name: str) -> None:
    """Waits until a heading has the focus, which a view gives it as soon as it is shown."""
    page.get_by_role("heading", name=name).first.wait_for()
    page.wait_for_function(
        "name => /^H[12]$/.test(document.activeElement.tagName) && document.activeElement.textContent.includes(name)",
        arg=name,
    )


def choose(page: Page, button: Locator, picture: Path) -> None:
    """Opens the browser's own dialog for files by keyboard."""
    tab_to(page, button)
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(picture)


def test_a_first_use_needs_no_mouse(fresh: Browsing, obama: Path) -> None:
    key = (fresh.pair.home / "edge" / "api_key").read_text().strip()
    page = fresh.page()
    page.on("filechooser", lambda _: None)  # so that the browser's own dialog is intercepted from here on
    page.goto(fresh.origin)
    tab_to(page, page.get_by_label("API key"))
    page.keyboard.insert_text(key)
    page.keyboard.press("Enter")
    focused(page, "Galleries")
    tab_to(page, page.get_by_role("button", name="Create gallery"))
    page.keyboard.press("Enter")
    focused(page, "Enroll")
    choose(page, page.get_by_role("button", name="Choose pictures"), obama)
    tab_to(page, page.get_by_label("Whose face is it?"))
    page.keyboard.insert_text("Barack Obama")
    page.get_by_text("Good to store").wait_for()
    page.get_by_role("button", name="Store 1 face as Barack Obama").wait_for()
    page.keyboard.press("Enter")
    focused(page, "Barack Obama is enrolled with 1 face.")
    choose(page, page.get_by_role("button", name="Recognize a picture"), SPEECH)
    page.get_by_text("This is Barack Obama.").wait_for()
    for name, heading in (("What leaves", "What leaves the building"), ("System", "System")):
        tab_to(page, page.get_by_role("link", name=name))
        page.keyboard.press("Enter")
        focused(page, heading)
    tab_to(page, page.get_by_role("link", name="Galleries"))
    page.keyboard.press("Enter")
    focused(page, "Galleries")
    tab_to(page, page.get_by_role("link", name="people", exact=True))
    page.keyboard.press("Enter")
    focused(page, "People")
    tab_to(page, page.get_by_role("button", name="Erase Barack Obama"))
    page.keyboard.press("Enter")
    tab_to(page, page.get_by_role("dialog").get_by_role("button", name="Erase", exact=True))
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Erased").wait_for()
    tab_to(page, page.get_by_role("button", name="Save receipt"))


def test_the_slider_and_the_faces_of_a_picture_work_by_keyboard(
    browsing: Browsing, gallery: Callable[..., str]
) -> None:
    name = gallery(obama="obama/portrait.jpg")
    page = browsing.signed_in(f"#/g/{name}/threshold")
    slider = page.get_by_role("slider", name="Threshold")
    tab_to(page, slider)
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.get_by_role("button", name="Use 0.40").wait_for()
    tab_to(page, page.get_by_role("button", name="Use 0.40"))
    page.keyboard.press("Enter")
    page.get_by_text("The gallery's threshold is now 0.40").wait_for()


def test_a_rate_says_what_it_was_measured_on(browsing: Browsing, gallery: Callable[..., str]) -> None:
    name = gallery()
    stated = "0.046% of pairs of two different people reach it, measured on the adults of Labeled Faces in the Wild."
    page = browsing.signed_in("#/system")
    page.get_by_text(stated).wait_for()
    browsing.go(page, f"#/g/{name}/threshold")
    page.get_by_text("Measured on the hardest of the populations: photos taken under all conditions.").wait_for()
    page.get_by_text(stated).wait_for()
    browsing.go(page, "#/")
    page.get_by_role("button", name=f"Settings of the gallery {name}").click()
    page.get_by_role("dialog").get_by_text(stated).wait_for()


def test_the_first_view_is_small_and_quick(fresh: Browsing, record_property: Callable[..., None]) -> None:
    for heading, address in (("Sign in", lambda: fresh.origin), ("Galleries", fresh.link)):
        assert_small_and_quick(fresh, heading, address, record_property)


def assert_small_and_quick(
    fresh: Browsing, heading: str, address: Callable[[], str], record_property: Callable[..., None]
) -> None:
    found = []
    for _ in range(3):
        page = fresh.page()
        page.goto(address())
        page.get_by_role("heading", name=heading, level=1).wait_for()
        page.wait_for_function("performance.getEntriesByType('paint').length > 0")
        found.append(
            page.evaluate(
                """() => {
              const all = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
              const paints = performance.getEntriesByType("paint").map((one) => one.startTime);
              return { bytes: all.reduce((sum, one) => sum + one.transferSize, 0), seconds: Math.max(...paints) / 1000,
                files: all.length };
            }"""
            )
        )
        page.close()
    record_property("first_view", found)
    # The best of three: other work of the machine counts, too.
    assert min(one["seconds"] for one in found) < FIRST_VIEW_SECONDS
    assert all(0 < one["bytes"] < FIRST_VIEW_BYTES for one in found)
