"""The readers-writer lock: readers together, a writer alone, and no writer kept waiting by newcomers."""

from __future__ import annotations

import threading

import pytest

from cloud_service.gallery.rw_lock import ReadersWriterLock

SOON = 5.0
A_MOMENT = 0.05


def _started(work: object) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)  # type: ignore[arg-type]
    thread.start()
    return thread


def test_readers_hold_it_together() -> None:
    lock, together = ReadersWriterLock(), threading.Barrier(3, timeout=SOON)

    def read() -> None:
        with lock.reading():
            together.wait()

    threads = [_started(read) for _ in range(2)]
    read()  # would break the barrier if they took turns
    for thread in threads:
        thread.join(SOON)


def test_a_writer_holds_it_alone_and_goes_before_readers_that_come_later() -> None:
    lock, order = ReadersWriterLock(), []
    reading, leave = threading.Event(), threading.Event()

    def first_reader() -> None:
        with lock.reading():
            reading.set()
            leave.wait(SOON)
            order.append("first reader")

    def writer() -> None:
        with lock.writing():
            order.append("writer")

    def late_reader() -> None:
        with lock.reading():
            order.append("late reader")

    threads = [_started(first_reader)]
    assert reading.wait(SOON)
    threads.append(_started(writer))
    for _ in range(100):
        if lock._writers_waiting:
            break
        threading.Event().wait(A_MOMENT)
    threads.append(_started(late_reader))
    threads[-1].join(A_MOMENT)
    assert order == []
    leave.set()
    for thread in threads:
        thread.join(SOON)
    assert order == ["first reader", "writer", "late reader"]


def test_writers_take_turns() -> None:
    lock, inside = ReadersWriterLock(), 0

    def write() -> None:
        nonlocal inside
        for _ in range(200):
            with lock.writing():
                inside += 1
                assert inside == 1
                inside -= 1

    threads = [_started(write) for _ in range(4)]
    for thread in threads:
        thread.join(SOON)
        assert not thread.is_alive()


@pytest.mark.parametrize("kind", ["reading", "writing"])
def test_an_error_inside_lets_go_of_it(kind: str) -> None:
    lock = ReadersWriterLock()
    with pytest.raises(RuntimeError), getattr(lock, kind)():
        raise RuntimeError
    entered = threading.Event()

    def write() -> None:
        with lock.writing():
            entered.set()

    _started(write)
    assert entered.wait(SOON)
