"""The guarded clock: never back, and no leap over a budget's window unless it is confirmed."""

from __future__ import annotations

import time
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from router.clock import GuardedClock, shortest_window
from router.errors import ClockJumped, ConfigurationError, LedgerError
from router.ledger.windows import window
from router.types import Budget
from tests.conftest import HELLO, MakeRouter
from tests.pipeline_kit import BUDGET, NANO_BILL, PIN_NANO, rows
from tests.provider import Provider
from tests.stores import FreshStore

HOUR, DAY = 3600.0, 86400.0


class Clocks:
    """A wall clock and a monotonic one, turned by hand."""

    def __init__(self, now: float) -> None:
        self.wall = now
        self.steady = 1000.0

    def guard(self, allowed: float = HOUR) -> GuardedClock:
        return GuardedClock(allowed, wall=lambda: self.wall, monotonic=lambda: self.steady)

    def pass_(self, seconds: float) -> None:
        self.wall, self.steady = self.wall + seconds, self.steady + seconds


def test_time_that_passes_is_told():
    clocks = Clocks(1e9)
    guard = clocks.guard()
    for _ in range(100):
        clocks.pass_(DAY)
        assert guard() == clocks.wall


def test_f46_a_clock_set_back_an_hour_is_waited_for_and_logged_once(caplog):
    clocks = Clocks(1e9)
    guard = clocks.guard()
    clocks.pass_(100)
    latest = guard()
    clocks.wall -= HOUR
    readings = []
    for _ in range(10):
        clocks.pass_(600)
        readings.append(guard())
    assert readings == sorted(readings)
    assert readings[0] == latest
    assert readings[-1] == clocks.wall
    assert len([record for record in caplog.records if "set back" in record.message]) == 1


def test_a_correction_of_a_few_seconds_is_not_worth_a_word(caplog):
    clocks = Clocks(1e9)
    guard = clocks.guard()
    guard()
    clocks.wall -= 4
    assert guard() == 1e9
    assert caplog.records == []


def test_f46_a_leap_of_a_day_is_refused_until_it_is_confirmed():
    clocks = Clocks(1e9)
    guard = clocks.guard(23 * HOUR)
    clocks.pass_(50)
    clocks.wall += DAY
    for _ in range(2):
        with pytest.raises(ClockJumped, match="confirm_clock") as refused:
            guard()
        error = refused.value
        assert (error.ahead, error.allowed) == (DAY, 23 * HOUR)
        assert (error.now, error.trusted) == (1e9 + 50 + DAY, 1e9 + 50)
        assert isinstance(error, LedgerError)
    guard.confirm()
    assert guard() == 1e9 + 50 + DAY


def test_f46_a_leap_that_is_set_right_is_forgotten():
    clocks = Clocks(1e9)
    guard = clocks.guard()
    clocks.wall += DAY
    with pytest.raises(ClockJumped):
        guard()
    clocks.wall -= DAY
    assert guard() == 1e9


@pytest.mark.parametrize(
    ("start", "zone"),
    [
        ("2027-03-28T01:00", "Europe/Berlin"),  # summer time begins
        ("2027-10-31T01:00", "Europe/Berlin"),  # and ends
        ("2028-02-28T20:00", "UTC"),  # a leap day
        ("2027-01-31T20:00", "UTC"),  # 31 days, then 28
    ],
)
def test_f46_no_calendar_makes_the_clock_leap_or_a_window_come_twice(start, zone):
    begin = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone)).timestamp()
    clocks = Clocks(begin)
    guard = clocks.guard(shortest_window([Budget("b", 1, "hour")]))
    for kind in ("hour", "day", "week", "month"):
        budget, seen = Budget("b", 1, kind, zone), []
        for _ in range(2 * 24 * 60):
            clocks.pass_(60)
            name = window(budget, guard())[0]
            if not seen or seen[-1] != name:
                seen.append(name)
        assert seen == sorted(set(seen))


def test_what_is_allowed_is_the_shortest_window_of_the_budgets():
    assert shortest_window([]) == HOUR
    assert shortest_window([Budget("b", 1)]) == HOUR
    assert shortest_window([Budget("m", 1, "month"), Budget("d", 1, "day")]) == 23 * HOUR
    assert shortest_window([Budget("r", 1, "rolling", seconds=60)]) == 60


def test_the_machines_own_clock_is_told_as_it_is():
    assert abs(GuardedClock(HOUR)() - time.time()) < 1


def test_f46_a_router_whose_clock_leaps_sends_nothing_until_that_is_confirmed(
    make_router: MakeRouter, provider: Provider
) -> None:
    clocks = Clocks(time.time())
    router = make_router(budgets=BUDGET, rules=[PIN_NANO])
    guard = clocks.guard()
    router._clock = guard
    router.completion(messages=HELLO)
    clocks.wall += 2 * HOUR
    with pytest.raises(ClockJumped):
        router.completion(messages=HELLO)
    assert len(provider.wire) == 1
    router.confirm_clock()
    router.completion(messages=HELLO)
    assert len(provider.wire) == 2


def test_a_call_that_was_sent_is_settled_even_if_the_clock_leaps_meanwhile(
    make_router: MakeRouter, provider: Provider
) -> None:
    clocks = Clocks(time.time())
    router = make_router(budgets=BUDGET, rules=[PIN_NANO])
    router._clock = clocks.guard()
    stream = router.completion(messages=HELLO, stream=True)
    next(stream)
    clocks.wall += DAY
    list(stream)
    (row,) = rows(router)
    assert (row.status, row.cost) == ("answered", NANO_BILL)


@pytest.mark.parametrize("store", ["postgres", "redis", "valkey"], indirect=True)
def test_f46_a_machine_whose_clock_is_far_ahead_of_the_server_s_opens_no_window_there(
    store: FreshStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be everybody's latest window until that time comes."""
    now, daily = time.time, Budget("daily", 1000, "day")
    store.open([daily]).close()
    monkeypatch.setattr("time.time", lambda: now() + 2 * HOUR)
    with pytest.raises(ConfigurationError, match=r"clock is 7\d\d\d s ahead"):
        store.open([daily])
    for ahead in (0.9 * HOUR, -30 * DAY):  # one that is behind opens no earlier window
        monkeypatch.setattr("time.time", lambda ahead=ahead: now() + ahead)
        store.open([daily]).close()
