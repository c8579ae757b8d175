"""What leaves the building, as the page shows it, is what crossed the line; and what a thief would see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from shared.security.credentials import Scope
from shared.security.key_ring import KeyRing
from tests.browser.chromium import serious
from tests.browser.conftest import Browsing
from tests.browser.test_sign_in import with_key
from tests.support.edge import PICTURES, pixels
from tests.support.servers import RunningPair, running_pair

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SPEECH = PICTURES / "obama" / "speech.jpg"
PERSON = "Barack Obama"
# The text of the request without the numbers that mark its parts.
_TEXT = """element => [...element.childNodes].map((node) => node.nodeName === "MARK"
  ? [...node.childNodes].filter((part) => part.nodeName !== "B").map((part) => part.textContent).join("")
  : node.textContent).join("")"""


@pytest.fixture
def known(pair: RunningPair, gallery: Callable[..., str]) -> str:
    name = gallery()
    files = {"image": (PICTURES / "obama" / "portrait.jpg").read_bytes()}
    pair.edge.post(f"/v1/galleries/{name}/subjects/{PERSON}/faces", files=files).raise_for_status()
    return name


def verify(page: Page, gallery: str) -> None:
    Browsing.go(page, f"#/g/{gallery}/recognize?subject={PERSON}")
    page.locator("[data-testid=files]:enabled").set_input_files(SPEECH)
    page.get_by_text(f"This is {PERSON}.").wait_for()
    page.get_by_role("link", name="See what left the building").click()
    page.locator(".request-text").last.wait_for()


def test_the_request_that_is_shown_is_what_crossed_the_line(browsing: Browsing, pair: RunningPair, known: str) -> None:
    page = browsing.signed_in()
    before = len(pair.relay.to_cloud)
    verify(page, known)
    shown = str(page.locator(".request-text").last.evaluate(_TEXT)).replace("\r\n", "\n")
    crossed = bytes(pair.relay.to_cloud[before:]).decode().replace("\r\n", "\n")
    head, body = shown.split("\n\n", 1)
    assert f"/v1/galleries/{known}/subjects/" in head
    assert body in crossed
    key = (pair.home / "cloud" / "api_key").read_text().strip()
    assert head.replace("Bearer …", f"Bearer {key}") in crossed
    assert PERSON not in crossed
    assert PERSON not in shown
    page.get_by_text(f"This is {PERSON} for the cloud").wait_for()
    page.get_by_text("All 128 numbers").click()
    values = page.locator(".values").inner_text().split()
    assert len(values) == 128


def test_a_key_without_manage_sees_length_and_digest(browsing: Browsing, pair: RunningPair, known: str) -> None:
    key, _ = KeyRing(pair.home / "edge" / "api_keys.json").add("matcher", [Scope.MATCH], [known])
    page = browsing.page()
    page.goto(browsing.origin)
    with_key(page, key)
    page.get_by_role("heading", name="Galleries", level=1).wait_for()
    verify(page, known)
    page.get_by_text("shown by their digest").wait_for()
    assert page.get_by_text("All 128 numbers").count() == 0
    assert "SHA-256" in page.locator(".request-text").last.inner_text()


@pytest.fixture(scope="module")
def rebuilding(
    pair: RunningPair, browser: Browser, models_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browsing]:
    """An edge with a decoder that was trained for a moment and exported by the command of the lab."""
    folder = tmp_path_factory.mktemp("decoder")
    exported(folder)
    profiles = {"PATRONUS_EDGE__PROFILES": str(folder / "profiles")}
    with running_pair(folder / "home", models_folder, **profiles) as started:
        opened = Browsing(browser, started)
        yield opened
        assert opened.close() == []


def exported(folder: Path) -> None:
    import torch
    from typer.testing import CliRunner

    from lab.data.embedders import open_encoder
    from lab.data.torch_embedder import load_torch_embedder
    from lab.defence.decoders import InversionOptions, train_decoder
    from lab.defence.recipe import Recipe
    from lab.defence.training import Checkpoint
    from shared.command import build

    tiles = pixels("obama/portrait.jpg")
    crops = np.stack([tiles[at : at + 112, at : at + 112] for at in range(0, 64, 2)])
    rows = np.random.default_rng(0).standard_normal((len(crops), 128)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    embedder = load_torch_embedder(open_encoder("sface_2021dec").path, cache=folder)
    options = InversionOptions(epochs=2, batch=8, identity_steps=1, identity_batch=4)
    trained = train_decoder("upsampling-112", rows, crops, rows, embedder, options, Checkpoint(folder))[0]
    recipe = Recipe(
        name="own", summary="A test.", embedder="sface_2021dec", tau=0.4, sides="both", images="i", people="p"
    )
    (folder / "run" / "attackers").mkdir(parents=True)
    recipe.write(folder / "run")
    torch.save(trained.state_dict(), folder / "run" / "attackers" / "upsampling-112.pt")
    command = ["lab", "export-decoder", "--out", str(folder / "run"), "--to", str(folder / "profiles")]
    assert CliRunner().invoke(build(), command, catch_exceptions=False).exit_code == 0
    (folder / "profiles" / "own.decoder").rename(folder / "profiles" / "default-2.decoder")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_where_a_decoder_lies_the_face_is_rebuilt_three_times_and_nothing_is_sent(
    rebuilding: Browsing, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    pair = rebuilding.pair
    pair.edge.put("/v1/galleries/staff").raise_for_status()
    page = rebuilding.signed_in(color_scheme=scheme)
    page.get_by_role("link", name="What a thief sees").click()
    page.get_by_role("button", name="Choose a picture").wait_for()
    pair.edge.get("/v1/galleries/staff/curves").raise_for_status()  # so that the gallery is known already
    before = len(pair.relay.to_cloud)
    page.locator("[data-testid=files]:enabled").set_input_files(SPEECH)  # once the galleries are listed
    page.get_by_role("heading", name="Protected, without the key").wait_for()
    assert len(pair.relay.to_cloud) == before
    sizes = page.locator(".rebuilt img").evaluate_all("images => images.map((image) => image.naturalWidth)")
    assert sizes == [112] * 4
    page.get_by_text("Computed at this edge. Nothing of it was sent to the cloud.").wait_for()
    assert serious(Axe().run(page)) == []
