"""People: renamed, merged, erased with a receipt; a gallery of 100,000 stays quick; all of it by keyboard."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest

from shared.client import Client
from tests.browser.conftest import Browsing
from tests.support.servers import RunningPair

if TYPE_CHECKING:
    from playwright.sync_api import Page

MANY, A_REQUEST = 100_000, 500
LONGEST_TASK_MS = 200
_TASKS = """
window.longTasks = [];
new PerformanceObserver((list) => longTasks.push(...list.getEntries().map((one) => one.duration)))
  .observe({ type: "longtask", buffered: true });
"""


def test_a_person_is_renamed_merged_and_erased_with_a_receipt(browsing: Browsing, gallery: Callable[..., str]) -> None:
    name = gallery(obama="obama/portrait.jpg", barack="obama/speech.jpg", biden="biden/standing.jpg")
    page = browsing.signed_in(f"#/g/{name}")
    page.get_by_role("button", name="Rename biden").click()
    page.get_by_label("New name").fill("Joe Biden")
    page.get_by_role("dialog").get_by_role("button", name="Rename", exact=True).click()
    page.get_by_role("link", name="Joe Biden", exact=True).wait_for()
    page.get_by_role("button", name="Find duplicates").click()
    page.get_by_role("dialog").get_by_role("button", name="Compare", exact=True).click()
    page.get_by_role("dialog").get_by_text("barack").first.wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Merge barack into somebody").click()
    page.get_by_label("Name that stays").fill("obama")
    page.get_by_role("dialog").get_by_role("button", name="Merge", exact=True).click()
    page.get_by_text("1 face is obama's now").wait_for()
    page.get_by_role("link", name="obama", exact=True).click()
    page.get_by_role("heading", name="2 faces").wait_for()
    page.get_by_role("button", name="Erase face 1").click()
    page.get_by_role("button", name="Erase this face").click()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save receipt").click()
    assert json.loads(saved.value.path().read_text())["templates"] == 1
    page.get_by_role("dialog").get_by_role("button", name="Close").last.click()
    page.get_by_role("heading", name="1 face").wait_for()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save the report").click()
    assert saved.value.path().read_text().count('"obama"') > 0


def test_the_receipt_of_the_last_person_is_shown(browsing: Browsing, gallery: Callable[..., str]) -> None:
    page = browsing.signed_in(f"#/g/{gallery(obama='obama/portrait.jpg')}")
    page.get_by_role("button", name="Erase obama").click()
    page.get_by_role("dialog").get_by_role("button", name="Erase", exact=True).click()
    page.get_by_role("heading", name="Erased").wait_for()
    page.get_by_text("Nobody is enrolled here yet").wait_for()
    page.get_by_role("button", name="Save receipt").wait_for()


def test_a_gallery_is_made_for_a_purpose_changed_and_erased(browsing: Browsing, gallery: Callable[..., str]) -> None:
    gallery()
    page = browsing.signed_in()
    page.get_by_role("button", name="New gallery").click()
    page.get_by_label("Name of the gallery").fill("doors")
    page.get_by_text("Threshold, verify-only, retention").click()
    page.get_by_label("A threshold for a purpose").check()
    page.get_by_label("People in the gallery").fill("1000")
    page.get_by_label("Verify only").check()
    page.get_by_label("Erase faces after so many days").fill("30")
    page.get_by_role("button", name="Create gallery").click()
    page.get_by_text(re.compile(r"of strangers match one of 1,000 people")).wait_for()
    browsing.go(page, "#/")
    card = page.locator("article", has=page.get_by_role("link", name="doors", exact=True))
    for text in ("Verify only", "Kept 30 days"):
        card.get_by_text(text).wait_for()
    page.get_by_role("button", name="Settings of the gallery doors").click()
    page.get_by_role("dialog").get_by_label("Erase faces after so many days").fill("")
    page.get_by_role("button", name="Save", exact=True).click()
    card.get_by_text("Kept 30 days").wait_for(state="detached")
    page.get_by_role("button", name="Erase the gallery doors").click()
    erase = page.get_by_role("button", name="Erase everything in it")
    assert erase.is_disabled()
    page.get_by_label("Type doors to confirm").fill("doors")
    erase.click()
    page.get_by_role("heading", name="Erased").wait_for()


@pytest.fixture(scope="module")
def crowd(pair: RunningPair) -> Iterator[str]:
    """A gallery of 100,000 people, each with one random template."""
    random = np.random.default_rng(1)
    key = (pair.home / "edge" / "api_key").read_text().strip()
    with Client(str(pair.edge.base_url), api_key=key, timeout_s=120) as client:
        client.put_gallery("crowd")
        for start in range(0, MANY, A_REQUEST):
            names = [f"person {number:06}" for number in range(start, start + A_REQUEST)]
            rows = random.standard_normal((A_REQUEST, 128))
            client.enroll_subjects("crowd", names, rows / np.linalg.norm(rows, axis=1, keepdims=True))
        yield "crowd"
        client.delete_gallery("crowd")


def looked_through(page: Page) -> list[float]:
    """Pages through the list, searches and opens a dialog; the long tasks meanwhile, in ms."""
    Browsing.go(page, "#/")
    page.get_by_role("link", name="crowd", exact=True).wait_for()
    page.evaluate("longTasks.length = 0")
    Browsing.go(page, "#/g/crowd")
    page.get_by_text("1 to 100 of 100,000").wait_for()
    for first in (101, 201, 301):
        page.get_by_role("button", name="Next").click()
        page.get_by_text(f"{first} to {first + 99} of 100,000").wait_for()
    page.get_by_role("button", name="First").click()
    page.get_by_role("searchbox").press_sequentially("person 0999", delay=40)
    page.get_by_role("link", name="person 099901", exact=True).wait_for()
    page.get_by_role("button", name="Rename person 099901").click()
    page.get_by_label("New name").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("searchbox").fill("")
    page.get_by_text("1 to 100 of 100,000").wait_for()
    return [float(ms) for ms in page.evaluate("longTasks")]


def test_the_list_of_100000_people_never_blocks_the_page(
    browsing: Browsing, crowd: str, record_property: Callable[..., None]
) -> None:
    page = browsing.signed_in(width=1440)
    page.add_init_script(_TASKS)
    page.goto("about:blank")
    page.goto(browsing.link())
    page.get_by_role("link", name=crowd, exact=True).wait_for()
    # Of three rounds the best: other work of the machine lengthens tasks, too.
    rounds = [looked_through(page) for _ in range(3)]
    record_property("long_tasks_ms", rounds)
    assert min(max(each, default=0) for each in rounds) <= LONGEST_TASK_MS
    assert page.locator("tbody tr").count() == 100
