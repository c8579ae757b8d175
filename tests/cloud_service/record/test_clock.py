"""The record's time: what expired stays expired, and a clock that jumps erases nobody before it is believed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cloud_service.clock import RecordClock
from shared.errors import RecordDamaged
from tests.cloud_service.record.set_clock import Hands

HOUR = timedelta(hours=1)
START = datetime(2025, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def hands() -> Hands:
    return Hands(START)


@pytest.fixture
def clock(hands: Hands) -> RecordClock:
    clock = hands.clock()
    clock.begin(START)
    return clock


def _looks(clock: RecordClock, hands: Hands, minutes: int) -> None:
    """As the service looks, once a minute."""
    for _ in range(minutes):
        hands.pass_by(timedelta(minutes=1))
        clock.observe(START)


def test_time_passes_for_both(clock: RecordClock, hands: Hands) -> None:
    _looks(clock, hands, 90)
    assert clock.now() == clock.settled() == START + 1.5 * HOUR
    hands.pass_by(timedelta(seconds=20))
    assert clock.now() == clock.settled() == START + 1.5 * HOUR + timedelta(seconds=20)


def test_a_clock_that_is_set_right_by_a_little_is_followed_forward_and_not_back(
    clock: RecordClock, hands: Hands
) -> None:
    hands.wall += timedelta(minutes=4)
    clock.observe(START)
    assert clock.now() == clock.settled() == START + timedelta(minutes=4)
    hands.wall -= timedelta(minutes=4)
    clock.observe(START)
    assert clock.now() == clock.settled() == START + timedelta(minutes=4)


@pytest.mark.parametrize("back", [HOUR, timedelta(days=20_000)])
def test_a_clock_that_is_set_back_does_not_stop_ageing(clock: RecordClock, hands: Hands, back: timedelta) -> None:
    hands.wall -= back
    _looks(clock, hands, 90)
    assert clock.now() == clock.settled() == START + 1.5 * HOUR


def test_a_jump_ahead_counts_for_matching_at_once_and_for_erasing_when_it_has_lasted(
    clock: RecordClock, hands: Hands
) -> None:
    hands.wall += timedelta(days=3650)
    _looks(clock, hands, 60)
    assert clock.now() == START + timedelta(days=3650) + HOUR
    assert clock.settled() == START + HOUR, "it runs on meanwhile"
    _looks(clock, hands, 1)
    assert clock.settled() == clock.now() == hands.wall


def test_a_jump_that_is_taken_back_leaves_nothing(clock: RecordClock, hands: Hands) -> None:
    hands.wall += timedelta(days=3650)
    _looks(clock, hands, 50)
    hands.wall -= timedelta(days=3650)
    _looks(clock, hands, 50)
    assert clock.now() == clock.settled() == hands.wall == START + 100 * timedelta(minutes=1)


def test_a_clock_that_keeps_jumping_is_never_believed(clock: RecordClock, hands: Hands) -> None:
    for _ in range(10):
        hands.wall += timedelta(days=30)
        _looks(clock, hands, 50)
    assert clock.settled() == START + 500 * timedelta(minutes=1)


def test_a_start_after_a_short_while_goes_on_at_once_and_after_a_long_one_when_the_clock_has_run_on(
    hands: Hands,
) -> None:
    clock = hands.clock()
    clock.begin(START - timedelta(minutes=4))
    assert clock.settled() == START
    clock = hands.clock()
    clock.begin(START - 3 * timedelta(days=1))
    assert (clock.now(), clock.settled()) == (START, START - 3 * timedelta(days=1))
    _looks(clock, hands, 60)
    assert clock.settled() == clock.now() == hands.wall


def test_what_another_process_saw_counts_here_too(clock: RecordClock) -> None:
    clock.observe(START + HOUR)
    assert (clock.now(), clock.settled()) == (START + HOUR, START)


AHEAD = [timedelta(minutes=6), timedelta(days=1), timedelta(days=365)]


@pytest.mark.parametrize("ahead", AHEAD)
@pytest.mark.parametrize("when", ["at a start", "while running"])
def test_a_recorded_time_ahead_of_the_clock_counts_for_matching_and_for_erasing_when_the_clock_gets_there(
    hands: Hands, capsys: pytest.CaptureFixture[str], ahead: timedelta, when: str
) -> None:
    clock = hands.clock()
    if when == "at a start":
        clock.begin(START + ahead)
    else:
        clock.begin(START)
        clock.observe(START + ahead)
    said = capsys.readouterr().out
    assert "recorded_time_is_ahead_of_the_clock" in said
    assert "time_seen" in said
    _looks(clock, hands, 90)
    assert "recorded_time_is_ahead_of_the_clock" not in capsys.readouterr().out, "once is enough"
    assert clock.settled() == hands.wall
    assert clock.now() == clock.latest() == hands.wall + ahead


@pytest.mark.parametrize("seen", [START + timedelta(days=367), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)])
def test_a_recorded_time_more_than_a_year_ahead_is_damage(hands: Hands, clock: RecordClock, seen: datetime) -> None:
    with pytest.raises(
        RecordDamaged, match=r"row time_seen of the table record_value .* the clock is wrong, or the row is"
    ):
        clock.observe(seen)
    assert clock.now() == clock.settled() == START
    with pytest.raises(RecordDamaged, match="time_seen"):
        hands.clock().begin(seen)


def test_a_clock_set_back_at_a_start_erases_nothing_early(hands: Hands) -> None:
    hands.wall -= timedelta(days=8)
    clock = hands.clock()
    clock.begin(START)
    assert (clock.now(), clock.settled()) == (START, hands.wall)
