"""Pictures of every way and kind: files, folders, the camera; hostile ones, crowds, hostile names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.browser.chromium import launch
from tests.browser.conftest import Browsing
from tests.support.edge import PICTURES, sample
from tests.support.hostile_pictures import png
from tests.support.servers import RunningPair

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright

PORTRAIT, SPEECH = PICTURES / "obama" / "portrait.jpg", PICTURES / "obama" / "speech.jpg"
ASTRONAUT = PICTURES / "collins" / "portrait.png"
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "\u202e\u0645\u0631\u062d\u0628\u0627 \u0627\u0644\u0639\u0627\u0644\u0645",
    "a" * 128,
    "..%2f..%2fetc?#&amp;",
]


def store(page: Page, name: str, *pictures: Path) -> None:
    page.locator("[data-testid=files]:enabled").set_input_files(list(pictures))
    page.get_by_label("Whose face is it?").fill(name)
    page.get_by_role("button", name=f"Store {len(pictures)} face").click()
    page.get_by_text("No picture was kept.").wait_for()


def test_files_are_examined_first_and_stored_when_somebody_says_so(
    browsing: Browsing, gallery: Callable[..., str], pair: RunningPair
) -> None:
    name = gallery()
    page = browsing.signed_in(f"#/g/{name}/enroll")
    page.locator("[data-testid=files]:enabled").set_input_files([PORTRAIT, SPEECH])
    page.locator(".enroll-card .box").nth(1).wait_for()
    assert page.get_by_label("Whose face is it?").input_value() == ""  # the files' names are nobody's
    page.get_by_label("Whose face is it?").fill("Barack")
    page.get_by_text("Good to store").nth(1).wait_for()
    assert page.locator(".enroll-card .box").count() == 2
    assert page.locator(".enroll-card .box circle").count() == 10
    assert pair.edge.get(f"/v1/galleries/{name}").json()["templates"] == 0
    page.get_by_role("button", name="Store 2 faces as Barack").click()
    page.get_by_text("2 faces of Barack are stored.").wait_for()
    assert pair.edge.get(f"/v1/galleries/{name}").json()["templates"] == 2
    page.get_by_test_id("try").set_input_files(PICTURES / "obama" / "standing.jpg")
    page.get_by_text("This is Barack.").wait_for()


def test_after_storing_the_next_pictures_are_of_the_next_person(
    browsing: Browsing, gallery: Callable[..., str], pair: RunningPair
) -> None:
    name = gallery()
    page = browsing.signed_in(f"#/g/{name}/enroll")
    store(page, "Barack", PORTRAIT)
    page.locator("[data-testid=files]:enabled").set_input_files(ASTRONAUT)
    page.locator(".enroll-card .box").wait_for()
    assert page.locator(".enroll-card").count() == 1
    assert page.get_by_label("Whose face is it?").input_value() == ""
    store(page, "Eileen", ASTRONAUT)
    found = pair.edge.get(f"/v1/galleries/{name}/subjects").json()["items"]
    assert {one["subject"]: one["templates"] for one in found} == {"Barack": 1, "Eileen": 1}


def test_a_picture_that_is_stored_already_is_not_offered_again(browsing: Browsing, gallery: Callable[..., str]) -> None:
    page = browsing.signed_in(f"#/g/{gallery(obama='obama/portrait.jpg')}/enroll")
    page.locator("[data-testid=files]:enabled").set_input_files(PORTRAIT)
    page.get_by_label("Whose face is it?").fill("obama")
    page.get_by_text("1 picture: 0 ready to store, 0 cannot be used, 1 already stored").wait_for()
    assert page.get_by_role("button", name="Nothing new to store").is_disabled()
    assert page.get_by_label("Store this face").count() == 0
    page.locator("[data-testid=files]:enabled").set_input_files(SPEECH)
    page.get_by_role("button", name="Store 1 face as obama").wait_for()


def test_a_box_to_tick_is_spoken_of_only_where_it_is(browsing: Browsing, gallery: Callable[..., str]) -> None:
    page = browsing.signed_in(f"#/g/{gallery(obama='obama/portrait.jpg')}/enroll")
    page.locator("[data-testid=files]:enabled").set_input_files(SPEECH)
    page.get_by_label("Whose face is it?").fill("Barack")
    page.get_by_text("Tick the box below").wait_for()
    page.get_by_label("Store this face").check()
    page.get_by_role("button", name="Store 1 face as Barack").click()
    page.get_by_text("No picture was kept.").wait_for()
    page.get_by_text("Perhaps one person under two names.").wait_for()
    assert page.get_by_text("Tick the box below").count() == 0


def test_a_face_that_nobody_has_can_be_enrolled(browsing: Browsing, gallery: Callable[..., str]) -> None:
    page = browsing.signed_in(f"#/g/{gallery(obama='obama/portrait.jpg')}/recognize")
    page.locator("[data-testid=files]:enabled").set_input_files(ASTRONAUT)
    page.get_by_role("button", name="Enroll this face").click()
    page.get_by_label("Whose face is it?").fill("Eileen")
    page.get_by_role("button", name="Store 1 face as Eileen").click()
    page.get_by_test_id("try").set_input_files(ASTRONAUT)
    page.get_by_text("This is Eileen.").wait_for()
    assert page.get_by_role("button", name="Enroll this face").count() == 0


def test_each_folder_of_a_folder_is_a_person(
    browsing: Browsing, gallery: Callable[..., str], pair: RunningPair, tmp_path: Path
) -> None:
    for person, picture in (("Barack", PORTRAIT), ("Eileen", ASTRONAUT)):
        (tmp_path / "team" / person).mkdir(parents=True)
        (tmp_path / "team" / person / picture.name).write_bytes(picture.read_bytes())
    (tmp_path / "team" / "Barack" / "notes.txt").write_text("no picture")
    name = gallery()
    page = browsing.signed_in(f"#/g/{name}/enroll")
    page.locator("[data-testid=folder]:enabled").set_input_files(tmp_path / "team")
    page.get_by_text("1 file is no picture and was left out.").wait_for()
    page.get_by_role("button", name="Store 2 faces").click()
    page.get_by_text("2 people are enrolled.").wait_for()
    found = pair.edge.get(f"/v1/galleries/{name}/subjects").json()["items"]
    assert {one["subject"]: one["templates"] for one in found} == {"Barack": 1, "Eileen": 1}


def test_the_camera_takes_a_picture_that_is_enrolled(
    browsing: Browsing, gallery: Callable[..., str], pair: RunningPair
) -> None:
    name = gallery()
    page = browsing.signed_in(f"#/g/{name}/enroll")
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take the photo").click()
    page.get_by_text("1 photo taken").wait_for()
    page.get_by_role("button", name="Close the camera").click()
    page.get_by_label("Whose face is it?").fill("Barack")
    page.get_by_role("button", name="Store 1 face as Barack").click()
    page.get_by_text("Barack is enrolled with 1 face.").wait_for()
    assert pair.edge.get(f"/v1/galleries/{name}").json()["templates"] == 1


def test_a_camera_that_is_refused_is_explained_and_a_file_does_as_well(
    browsing: Browsing, gallery: Callable[..., str]
) -> None:
    name = gallery(obama="obama/portrait.jpg")
    page = browsing.signed_in(f"#/g/{name}/live", camera=False)
    page.get_by_text("The browser does not let this page use the camera.").wait_for()
    page.get_by_role("link", name="Recognize a picture file instead").click()
    page.locator("[data-testid=files]:enabled").set_input_files(SPEECH)
    page.get_by_text("This is obama.").wait_for()
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_text("The browser does not let this page use the camera.").wait_for()
    page.get_by_role("button", name="Close the camera").click()
    page.get_by_role("button", name="Choose a picture").wait_for()


@pytest.fixture
def without_camera(playwright: Playwright, pair: RunningPair) -> Iterator[Browsing]:
    browser: Browser = launch(playwright)
    opened = Browsing(browser, pair)
    yield opened
    assert opened.close() == []
    browser.close()


def test_a_camera_that_is_absent_is_explained(without_camera: Browsing, gallery: Callable[..., str]) -> None:
    name = gallery(obama="obama/portrait.jpg")
    page = without_camera.signed_in(f"#/g/{name}/live")
    page.get_by_text("No camera was found.").wait_for()


def test_the_live_camera_records_a_frame_only_when_asked(browsing: Browsing, gallery: Callable[..., str]) -> None:
    name = gallery(obama="obama/portrait.jpg")
    page = browsing.signed_in(f"#/g/{name}/live")
    frames: list[bool] = []
    page.on(
        "request",
        lambda request: "/identify" in request.url and frames.append("x-patronus-record" in request.headers),
    )
    page.locator(".live-names").get_by_text("obama").wait_for()
    while len(frames) < 3:
        page.wait_for_timeout(100)
    assert not any(frames)
    page.get_by_role("button", name="See what one frame sends to the cloud").click()
    page.get_by_role("heading", name="This went to the cloud").wait_for()
    assert frames.count(True) == 1
    page.get_by_text("128 protected numbers").first.wait_for()
    count = len(frames)
    page.wait_for_timeout(1500)
    assert len(frames) == count  # the camera is off: nothing more is sent


def test_huge_hostile_and_unreadable_files_are_refused_each_with_its_reason(
    browsing: Browsing, gallery: Callable[..., str], pair: RunningPair, tmp_path: Path
) -> None:
    files = {
        "text.jpg": b"no picture at all",
        "cut.jpg": sample("obama/portrait.jpg")[:20_000],
        "bomb.png": png(30_000, 30_000, 0, 1),
        "huge.jpg": sample("obama/portrait.jpg") + bytes(17 << 20),
        "empty.png": b"",
        "page.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    gallery_name = gallery()
    page = browsing.signed_in(f"#/g/{gallery_name}/enroll")
    page.locator("[data-testid=files]:enabled").set_input_files([*(tmp_path / name for name in files), PORTRAIT])
    page.get_by_label("Whose face is it?").fill("somebody")
    page.get_by_text("1 ready to store, 6 cannot be used").wait_for(timeout=60_000)
    page.get_by_text("The picture is larger than").wait_for()
    assert page.locator(".badge", has_text="Cannot be used").count() == len(files)
    page.get_by_role("button", name="Store 1 face as somebody").click()
    page.get_by_text("somebody is enrolled with 1 face.").wait_for()
    assert pair.edge.get(f"/v1/galleries/{gallery_name}").json()["templates"] == 1


@pytest.mark.parametrize("person", ["../../etc", "a\\b", ".."])
def test_what_is_no_name_is_said_before_anything_is_sent(
    browsing: Browsing, gallery: Callable[..., str], person: str
) -> None:
    page = browsing.signed_in(f"#/g/{gallery()}/enroll")
    page.locator("[data-testid=files]:enabled").set_input_files(PORTRAIT)
    page.get_by_label("Whose face is it?").fill(person)
    page.get_by_text("A name has no slash").wait_for()
    assert page.get_by_role("button", name="Store 0 faces").is_disabled()
    page.get_by_label("Whose face is it?").fill("Barack")
    page.get_by_role("button", name="Store 1 face as Barack").wait_for()


@pytest.mark.parametrize("person", HOSTILE)
def test_a_hostile_name_is_text_everywhere(browsing: Browsing, gallery: Callable[..., str], person: str) -> None:
    name = gallery()
    page = browsing.signed_in(f"#/g/{name}/enroll")
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    store(page, person, PORTRAIT)
    page.locator("bdi", has_text=person).first.wait_for()
    browsing.go(page, f"#/g/{name}")
    page.get_by_role("link", name=person, exact=True).click()
    page.get_by_role("heading", level=1).locator("bdi").get_by_text(person, exact=True).wait_for()
    page.get_by_role("link", name="Verify").click()
    page.locator("[data-testid=files]:enabled").set_input_files(SPEECH)
    page.locator(".verdict bdi").get_by_text(person, exact=True).wait_for()
    page.get_by_role("button", name="Who is it?").click()
    page.locator(".boxes bdi").get_by_text(person, exact=True).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    page.get_by_role("link", name="See what left the building").click()
    page.get_by_role("heading", name="This went to the cloud").wait_for()
    browsing.go(page, "#/history")
    page.get_by_role("link", name=person, exact=True).first.wait_for()
    assert page.locator("img[src='x']").count() == 0
    assert dialogs == []


def test_fifty_faces_in_a_picture_are_all_found_and_each_can_be_looked_at(
    browsing: Browsing, gallery: Callable[..., str], tmp_path: Path
) -> None:
    with Image.open(PORTRAIT) as picture:
        face = picture.convert("RGB").crop((260, 30, 560, 350)).resize((150, 160))
    with Image.open(ASTRONAUT) as picture:
        other = picture.convert("RGB").crop((150, 0, 310, 170)).resize((150, 160))
    crowd = Image.new("RGB", (1600, 900), (128, 128, 128))
    for at in range(50):
        crowd.paste(other if at == 17 else face, (at % 10 * 160 + 5, at // 10 * 180 + 10))
    crowd.save(tmp_path / "crowd.png")
    name = gallery(obama="obama/portrait.jpg", eileen="collins/portrait.png")
    page = browsing.signed_in(f"#/g/{name}/recognize")
    page.locator("[data-testid=files]:enabled").set_input_files(tmp_path / "crowd.png")
    page.get_by_text("50 faces found.").wait_for(timeout=90_000)
    assert page.locator(".face-list li").count() == 50
    assert page.locator(".boxes .box").count() == 50
    page.locator(".face-list button", has_text="eileen").click()
    page.get_by_role("heading", name="eileen", level=2).wait_for()
    page.locator(".boxes .selected").first.wait_for()
    page.get_by_label("Search for").select_option("1")
    page.get_by_text("This is obama.").or_(page.get_by_text("This is eileen.")).wait_for(timeout=60_000)
