"""Calendar windows: their names, their ends, clocks that go back, and usage that stays put."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import BudgetExceeded, ConfigurationError, InvalidRequest
from router.ledger.windows import window
from router.types import Budget
from tests.ledger_kit import counters, reserve, settle

HOUR, DAY = 3600, 86400
KINDS = ("hour", "day", "week", "month")
ZONES = (
    "UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe",
    "America/Havana", "Pacific/Apia", "Asia/Kathmandu", "Africa/Cairo", "America/Santiago",
)  # fmt: skip


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def budget(kind: str, zone: str = "UTC") -> Budget:
    return Budget("b", 1000, kind, zone)


@pytest.mark.parametrize(
    ("kind", "zone", "now", "name", "ends"),
    [
        ("hour", "UTC", "2027-01-15T08:59:59", "2027-01-15T08:00Z", "2027-01-15T09:00"),
        ("hour", "Asia/Kolkata", "2027-01-15T08:10", "2027-01-15T02:30Z", "2027-01-15T09:00"),
        ("day", "UTC", "2027-01-15T23:59:59", "2027-01-15", "2027-01-16T00:00"),
        ("day", "America/New_York", "2027-01-15T23:59", "2027-01-15", "2027-01-16T00:00"),
        ("week", "UTC", "2027-01-03T12:00", "2026-W53", "2027-01-04T00:00"),
        ("week", "UTC", "2027-01-04T00:00", "2027-W01", "2027-01-11T00:00"),
        ("month", "UTC", "2028-02-29T12:00", "2028-02", "2028-03-01T00:00"),
        ("month", "UTC", "2027-01-31T12:00", "2027-01", "2027-02-01T00:00"),
        ("month", "UTC", "2027-12-31T23:59:59", "2027-12", "2028-01-01T00:00"),
    ],
)
def test_a_window_is_named_by_its_calendar_and_ends_when_the_next_begins(
    kind, zone, now, name, ends
):
    assert window(budget(kind, zone), at(now, zone)) == (name, at(ends, zone))


def test_the_total_window_never_ends():
    assert window(budget("total"), 0.0) == ("total", None)


@pytest.mark.parametrize(("day", "hours"), [("2027-03-28", 23), ("2027-10-31", 25)])
def test_f46_a_day_of_a_change_of_summer_time_has_23_or_25_hours(day, hours):
    start = at(f"{day}T00:00", "Europe/Berlin")
    name, ends = window(budget("day", "Europe/Berlin"), start)
    assert (name, ends) == (day, start + hours * HOUR)


def test_f46_the_hour_that_comes_twice_is_two_windows():
    first = at("2027-10-31T02:30", "Europe/Berlin")
    names = [window(budget("hour", "Europe/Berlin"), first + HOUR * step)[0] for step in (0, 1)]
    assert names == ["2027-10-31T00:00Z", "2027-10-31T01:00Z"]


@given(
    kind=st.sampled_from(KINDS),
    zone=st.sampled_from(ZONES),
    now=st.floats(at("2020-01-01"), at("2040-01-01")),
)
def test_f46_windows_follow_each_other_without_gap_or_overlap(kind, zone, now):
    name, ends = window(budget(kind, zone), now)
    assert ends is not None
    assert now < ends <= now + 32 * DAY
    assert window(budget(kind, zone), ends - 0.001)[0] == name
    following, later = window(budget(kind, zone), ends)
    assert following > name  # names sort by time
    assert later is not None
    assert later > ends


@pytest.mark.parametrize("now", [float("nan"), float("inf"), 1e18, -1e18])
def test_a_time_that_is_none_is_refused(now):
    with pytest.raises(InvalidRequest, match="not a time"):
        window(budget("day"), now)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "Europe", "\0"])
def test_an_unknown_zone_is_refused(zone):
    with pytest.raises(ConfigurationError, match="IANA"):
        window(budget("day", zone), 0.0)


def test_f46_each_day_starts_with_nothing_used(store):
    ledger = store.open([budget("day")])
    for day in range(3):
        now = at("2028-02-28T12:00") + day * DAY
        reserve(ledger, f"r{day}", 1000, now=now)
        settle(ledger, f"r{day}", 900, now=now)
        assert counters(ledger, now) == {("b", ""): (900, 0)}
    assert counters(ledger, now + DAY) == {("b", ""): (0, 0)}
    assert ledger.verify() == []


def test_f46_the_first_moment_of_a_window_belongs_to_it_and_not_to_the_one_before(store):
    midnight = at("2027-01-16T00:00")
    ledger = store.open([budget("day")])
    reserve(ledger, "before", 600, now=midnight - 0.001)
    reserve(ledger, "after", 300, now=midnight)
    assert counters(ledger, midnight) == {("b", ""): (0, 300)}


def test_f46_a_clock_set_back_opens_no_earlier_window(store):
    midnight = at("2027-01-16T00:00")
    ledger = store.open([budget("day")])
    reserve(ledger, "late", 600, now=midnight - 60)
    reserve(ledger, "new", 700, now=midnight + 60)
    back = midnight - HOUR
    other = store.open([budget("day")])  # has seen nothing itself
    for each in (ledger, other):
        [state] = each.states(back)
        assert (state.window_id, state.resets_at) == ("2027-01-16", midnight + DAY)
        with pytest.raises(BudgetExceeded):
            reserve(each, f"back-{id(each)}", 400, now=back)
    reserve(other, "fits", 300, now=back)
    assert counters(ledger, back) == {("b", ""): (0, 1000)}


def test_f46_a_clock_set_back_opens_no_earlier_window_for_somebody_new_either(store):
    noon = at("2027-01-16T12:00")
    each = Budget("each", 1000, "day", scope="user")
    ledger = store.open([each])
    reserve(ledger, "today", 1000, scopes={"user": "ann"}, now=noon)
    reserve(ledger, "new", 1000, scopes={"user": "bob"}, now=noon - DAY)
    for user in ("ann", "bob"):
        for now in (noon - DAY, noon):
            with pytest.raises(BudgetExceeded):
                reserve(ledger, f"{user}-{now}", 1, scopes={"user": user}, now=now)
    assert ledger.verify() == []


def test_f46_a_clock_a_day_ahead_and_back_never_spends_more_than_a_limit_a_window(store):
    now = at("2027-01-15T12:00")
    ledger = store.open([budget("day")])
    reserve(ledger, "today", 1000, now=now)
    reserve(ledger, "ahead", 1000, now=now + DAY)
    for step, time in enumerate([now, now + DAY, now + DAY / 2]):
        with pytest.raises(BudgetExceeded):
            reserve(ledger, f"r{step}", 1, now=time)
    reserve(ledger, "after", 1000, now=now + 2 * DAY)


def test_f47_a_thousand_open_holds_settle_in_the_window_they_were_held_in(store):
    now = at("2027-01-15T23:59")
    ledger = store.open([Budget("b", 1_000_000, "day")])
    for call in range(1000):
        reserve(ledger, f"r{call}", 1000, now=now)
    morning = now + 120
    reserve(ledger, "new", 500, now=morning)
    for call in range(1000):
        settle(ledger, f"r{call}", 400, now=morning)
    assert counters(ledger, morning) == {("b", ""): (0, 500)}
    assert ledger.verify() == []
    rows = ledger.log().attempts()
    assert sum(row.cost or 0 for row in rows if row.request_id != "new") == 400_000


def test_f12_changing_a_limit_keeps_what_was_used(store):
    first = store.open([Budget("b", 1000, "day")])
    reserve(first, "a", 800)
    settle(first, "a", 600)
    lowered = store.open([Budget("b", 500, "day")])
    assert lowered.room({}, 1_800_000_000.0).remaining() == 0
    with pytest.raises(BudgetExceeded) as refused:
        reserve(lowered, "b", 1)
    assert (refused.value.used, refused.value.limit) == (600, 500)
    raised = store.open([Budget("b", 2000, "day")])
    reserve(raised, "c", 1400)
    with pytest.raises(BudgetExceeded):
        reserve(raised, "d", 1)
    assert raised.verify() == []
    assert [state.budget.limit for state in first.states(1_800_000_000.0)] == [2000]


def test_two_policies_that_disagree_on_a_window_are_counted_apart(store):
    daily = store.open([Budget("b", 100, "day")])
    monthly = store.open([Budget("b", 100, "month")])
    for turn in range(2):
        reserve(daily, f"d{turn}", 50)
        reserve(monthly, f"m{turn}", 50)
    for each in (daily, monthly):
        with pytest.raises(BudgetExceeded):
            reserve(each, "more", 1)
    assert daily.verify() == []


def test_two_policies_that_disagree_on_a_zone_share_a_day_and_the_store_stays_sound(store):
    first, second = store.open([budget("day")]), store.open([budget("day", "Europe/Berlin")])
    now = at("2027-01-15T08:00")
    reserve(first, "a", 400, now=now)
    reserve(second, "b", 600, now=now)
    with pytest.raises(BudgetExceeded) as refused:
        reserve(second, "c", 1, now=now)
    assert (refused.value.held, refused.value.resets_at) == (1000, at("2027-01-15T23:00"))
    assert second.verify() == []
