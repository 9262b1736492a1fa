"""Traffic: what the log's hours say of a window, and how the window's own requests correct it."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.decide.traffic import (
    BIN_SECONDS,
    Forecast,
    WindowTraffic,
    hour_of_week,
    weekly_profile,
)
from router.ledger.windows import window, window_start
from router.types import Budget

UTC, BERLIN = ZoneInfo("UTC"), ZoneInfo("Europe/Berlin")
MONDAY = 1_800_230_400.0  # 2027-01-18 00:00 UTC
DAY, HOUR = 86_400.0, 3600.0
FLAT = np.full(168, 60.0)  # requests an hour


def bins(start: float, days: int, per_bin: object) -> dict[int, int]:
    """Requests of each quarter of an hour; `per_bin`: a number, or a function of the hour."""
    first = int(start // BIN_SECONDS)
    found = {}
    for number in range(first, first + days * 96):
        hour = hour_of_week(number * BIN_SECONDS, UTC)
        found[number] = per_bin(hour) if callable(per_bin) else per_bin
    return found


def office(hour: int) -> int:
    """Forty a quarter of an hour from 9 to 17 on workdays, two otherwise."""
    return 40 if hour < 120 and 9 <= hour % 24 < 17 else 2


def test_the_hours_of_the_week_are_learnt_from_repetition() -> None:
    rate = weekly_profile(bins(MONDAY, 28, office), UTC).rate
    for hour in range(168):
        assert rate[hour] == pytest.approx(4 * office(hour), rel=0.02)


def test_hours_are_those_of_the_budgets_zone() -> None:
    rate = weekly_profile(bins(MONDAY, 14, office), BERLIN).rate
    assert rate[10] > 5 * rate[9]  # nine o'clock in UTC is ten in Berlin


def test_one_day_teaches_a_day_and_an_hour_nothing_but_the_level() -> None:
    day = weekly_profile(bins(MONDAY, 1, office), UTC).rate
    assert day[10] > 10 * day[3]
    assert day[24 * 6 + 10] == pytest.approx(day[10])  # Sunday like Monday: nothing says otherwise
    hour = weekly_profile(dict.fromkeys(list(bins(MONDAY, 1, 0))[:4], 5), UTC).rate
    assert hour == pytest.approx(np.full(168, 20.0))


def test_a_burst_that_came_once_is_not_expected_at_its_hour_again() -> None:
    counts = bins(MONDAY, 7, 5)
    burst = int((MONDAY + 2 * DAY + 14 * HOUR) // BIN_SECONDS)
    counts[burst] = 2000
    profile = weekly_profile(counts, UTC)
    assert profile.rate.max() < 2 * profile.rate.mean()
    assert profile.errors / profile.requests > 100  # but bursts are to be reckoned with


def test_without_traffic_nothing_is_forecast() -> None:
    profile = weekly_profile({}, UTC)
    assert not profile.rate.any()
    flat = Forecast.of(MONDAY, MONDAY + DAY, profile.rate, UTC).scaled(240)
    assert flat.until(MONDAY + DAY / 4) == pytest.approx(60)


@given(
    st.lists(st.floats(0, 100), min_size=168, max_size=168),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_a_forecast_rises_from_nothing_to_its_total(
    rates: list[float], one: float, other: float
) -> None:
    end = MONDAY + 3.5 * DAY
    forecast = Forecast.of(MONDAY, end, np.array(rates), UTC)
    early, late = (MONDAY + share * (end - MONDAY) for share in sorted((one, other)))
    assert 0 <= forecast.until(early) <= forecast.until(late) <= forecast.total
    assert forecast.until(MONDAY) == 0
    assert forecast.until(MONDAY - HOUR) == 0
    assert forecast.until(end + HOUR) == forecast.total


def test_a_day_that_loses_an_hour_to_summer_time_has_23() -> None:
    start, end = 1_806_188_400.0, 1_806_271_200.0  # 2027-03-28 in Berlin
    assert Forecast.of(start, end, FLAT, BERLIN).total == pytest.approx(23 * 60)


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"]


@given(
    st.sampled_from(["hour", "day", "week", "month"]),
    st.sampled_from(ZONES),
    st.floats(1.6e9, 2.2e9),
)
def test_a_window_begins_where_the_one_before_it_ends(kind: str, zone: str, now: float) -> None:
    budget = Budget("b", 1, kind, zone)  # type: ignore[arg-type]
    identity, ends = window(budget, now)
    assert ends is not None
    start = window_start(budget, ends)
    assert start <= now < ends
    assert window(budget, start)[0] == identity
    assert window(budget, start - 0.01)[1] == start


# ── correction ─────────────────────────────────────────────────────────────────────────────────
def after(hours: float, per_bin: float, *, learnt: bool = True, burst: int = 0) -> float:
    """Requests still forecast after some hours of a day of 60 an hour, in which as many came."""
    forecast = Forecast.of(MONDAY, MONDAY + DAY, FLAT, UTC)
    profile = weekly_profile(bins(MONDAY - 14 * DAY, 14, 15), UTC) if learnt else None
    traffic = WindowTraffic(forecast, MONDAY, profile)
    first = int(MONDAY // BIN_SECONDS)
    counts = {
        first + at: round(per_bin * (at + 1)) - round(per_bin * at) for at in range(int(hours * 4))
    }
    if burst:
        counts[first + 2] += burst
    mean, spread = traffic.remaining(counts, MONDAY + hours * HOUR)
    assert spread >= mean**0.5 * 0.999
    return mean


@pytest.mark.parametrize("learnt", [True, False])
def test_a_forecast_that_is_right_is_kept(learnt: bool) -> None:
    assert after(6, 15, learnt=learnt) == pytest.approx(18 * 60, rel=0.01)


@pytest.mark.parametrize("factor", [1 / 3, 3])
def test_a_forecast_wrong_by_3x_is_corrected_within_a_sixth_of_the_window(factor: float) -> None:
    assert after(4, 15 * factor) == pytest.approx(20 * 60 * factor, rel=0.2)


def test_one_burst_is_no_reason_to_expect_more() -> None:
    with_burst = after(2, 15, burst=500)  # more than a third of the day within a quarter of an hour
    assert with_burst < 1.6 * 22 * 60
    assert after(2, 15 + 500 / 8) > 3.5 * 22 * 60  # as many, but spread over the hours, are


def test_a_level_that_was_only_said_sinks_more_slowly_than_it_rises() -> None:
    said, learnt = after(4, 5, learnt=False), after(4, 5)
    assert learnt < said < 20 * 60
    assert after(4, 45, learnt=False) > 2.5 * 20 * 60


def test_a_guess_gives_way_to_the_first_requests() -> None:
    forecast = Forecast.of(MONDAY, MONDAY + DAY, np.zeros(168), UTC).scaled(1000)
    traffic = WindowTraffic(forecast, MONDAY, guessed=True)
    number = int(MONDAY // BIN_SECONDS)
    mean, _ = traffic.remaining({number: 1}, MONDAY + 1)
    assert mean > 1000
    mean, _ = traffic.remaining({number: 1, number + 40: 1}, MONDAY + 12 * HOUR)
    assert mean < 10


def test_what_came_before_counting_began_is_not_missed() -> None:
    forecast = Forecast.of(MONDAY, MONDAY + DAY, FLAT, UTC)
    traffic = WindowTraffic(forecast, MONDAY + 12 * HOUR)  # the log begins at noon
    number = int((MONDAY + 12 * HOUR) // BIN_SECONDS)
    counts = {number + at: 15 for at in range(16)}
    mean, _ = traffic.remaining(counts, MONDAY + 16 * HOUR)
    assert mean == pytest.approx(8 * 60, rel=0.02)


def test_counts_that_change_afterwards_count_anew() -> None:
    traffic = WindowTraffic(Forecast.of(MONDAY, MONDAY + DAY, FLAT, UTC), MONDAY)
    first, now = int(MONDAY // BIN_SECONDS), MONDAY + 6 * HOUR
    alone = {first + at: 15 for at in range(24)}
    before, _ = traffic.remaining(alone, now)
    doubled = dict.fromkeys(alone, 30)  # another process sends as many
    traffic.recount()
    assert traffic.remaining(doubled, now)[0] == pytest.approx(2 * before, rel=0.1)
