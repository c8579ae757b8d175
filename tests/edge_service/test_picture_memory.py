"""All pictures share one budget of memory; a picture that does not fit waits briefly, or is refused undecoded."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from edge_service import picture_memory
from edge_service.picture_memory import PictureMemory, open_picture_memory
from edge_service.settings import PictureLimits
from shared.errors import Overloaded, TooLarge
from tests.support.cloud_client import assert_problem
from tests.support.edge import Pair, encoded, pixels
from tests.support.hostile_pictures import jpeg, webp

MB = 1_000_000


def test_pictures_never_hold_more_than_the_budget_together() -> None:
    memory, highest = PictureMemory(10 * MB, wait_seconds=30), []

    def work(size: int) -> None:
        with memory.reserve(size):
            highest.append(memory.used_bytes)
            time.sleep(0.001)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [MB, 9 * MB, 4 * MB, 7 * MB, 10 * MB] * 12))
    assert len(highest) == 60
    assert max(highest) <= 10 * MB
    assert memory.used_bytes == 0


def test_a_picture_that_waited_in_vain_is_refused_and_holds_nothing() -> None:
    memory = PictureMemory(10 * MB, wait_seconds=0.05)
    with memory.reserve(6 * MB):
        with pytest.raises(Overloaded) as refused, memory.reserve(5 * MB):
            pytest.fail("it was let in")
        assert refused.value.retry_after_s >= 1
        assert memory.used_bytes == 6 * MB
        with memory.reserve(4 * MB):
            assert memory.used_bytes == 10 * MB


def test_what_a_picture_held_is_free_when_decoding_it_fails() -> None:
    memory = PictureMemory(10 * MB, wait_seconds=0)
    with pytest.raises(ValueError, match="damaged"), memory.reserve(10 * MB):
        raise ValueError("damaged")
    assert memory.used_bytes == 0


def test_a_picture_over_the_whole_budget_does_not_wait() -> None:
    with pytest.raises(TooLarge) as refused, PictureMemory(10 * MB, wait_seconds=60).reserve(11 * MB):
        pytest.fail("it was let in")
    assert refused.value.reason == "too_much_memory"


def test_small_pictures_do_not_keep_a_large_one_out() -> None:
    memory, order = PictureMemory(10 * MB, wait_seconds=30), []
    large_waits = threading.Event()

    def take(name: str, size: int) -> None:
        if name == "small":
            large_waits.wait()
        with memory.reserve(size):
            order.append(name)

    with ThreadPoolExecutor(2) as pool:
        with memory.reserve(5 * MB):
            large = pool.submit(take, "large", 9 * MB)
            while not memory.waiting:
                time.sleep(0.001)
            small = pool.submit(take, "small", MB)
            large_waits.set()
            while memory.waiting < 2:
                time.sleep(0.001)
        large.result()
        small.result()
    assert order[0] == "large"


@pytest.mark.parametrize(
    ("allowed", "least", "most"),
    [(3 << 30, 1600, 2300), (1 << 30, 350, 500), (256 << 20, 100, 100), (None, 2000, 2000)],
)
def test_the_budget_follows_what_the_process_may_use(
    monkeypatch: pytest.MonkeyPatch, allowed: int | None, least: int, most: int
) -> None:
    monkeypatch.setattr(picture_memory, "memory_limit_bytes", lambda: allowed)
    assert least * MB <= open_picture_memory(PictureLimits()).total_bytes <= most * MB
    assert open_picture_memory(PictureLimits(all_memory_bytes=7 * MB)).total_bytes == 7 * MB


def test_a_refusal_says_whether_memory_is_missing_now_or_always(pair: Pair) -> None:
    limits = PictureLimits(all_memory_bytes=150 * MB, memory_wait_s=0.05)
    edge = pair.edge(pictures=limits)
    portrait = encoded(pixels("collins/portrait.png"), "JPEG")
    assert edge.send("/v1/detect", portrait).status_code == 200
    assert_problem(edge.send("/v1/detect", webp(5000, 4900)), 413, "too-large", "too_much_memory")
    with edge.app.state.services.reader.memory.reserve(150 * MB):
        busy = edge.send("/v1/detect", jpeg(800, 600))
    assert_problem(busy, 429, "overloaded")
    assert int(busy.headers["Retry-After"]) >= 1
    assert edge.send("/v1/detect", portrait).status_code == 200
