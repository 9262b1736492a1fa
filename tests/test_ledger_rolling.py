"""Rolling windows: never more than the limit in any interval, and hardly ever less."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import BudgetExceeded, InvalidRequest
from router.ledger import open_ledger
from router.ledger.windows import ROLLING_BUCKETS, bucket_leaves, span
from router.types import Budget
from tests.ledger_kit import NOW, counters, release, reserve, settle

HOUR, MINUTE = 3600.0, 60.0


def hourly(limit: int = 100, **changes) -> Budget:
    return Budget("b", limit, **{"window": "rolling", "seconds": 3600, **changes})


def refused(ledger, name: str, amount: int, now: float) -> BudgetExceeded:
    with pytest.raises(BudgetExceeded) as caught:
        reserve(ledger, name, amount, now=now)
    return caught.value


@settings(max_examples=80, deadline=None)
@given(
    seconds=st.sampled_from([60, 600, 3600, 86_400]),
    start=st.floats(0, 100_000),
    steps=st.lists(
        st.tuples(
            st.floats(0, 1.2) | st.sampled_from([0.0, 1 / 60, 0.5, 59 / 60, 1.0, 61 / 60]),
            st.integers(1, 60),
            st.sampled_from(["hold", "settle", "less", "release"]),
        ),
        max_size=25,
    ),
)
def test_no_interval_of_its_length_ever_holds_more_than_the_limit(seconds, start, steps):
    """Against the list of all that was admitted; what is refused would not fit one bucket more."""
    limit, bucket = 100, seconds / ROLLING_BUCKETS
    ledger = open_ledger("sqlite://", [hourly(limit, seconds=seconds)])
    now, admitted = NOW + start, []
    for at, (pause, amount, then) in enumerate(steps):
        now += pause * seconds
        spent = [(when, cost) for when, cost in admitted if when > now - seconds]
        try:
            reserve(ledger, f"r{at}", amount, now=now, ttl=1e9)
        except BudgetExceeded:
            maybe = sum(cost for when, cost in admitted if when > now - seconds - bucket - 1e-6)
            assert maybe + amount > limit
            continue
        assert sum(cost for _, cost in spent) + amount <= limit
        cost = amount
        if then in ("settle", "less"):
            cost = amount if then == "settle" else amount // 2
            settle(ledger, f"r{at}", cost, now=now)
        elif then == "release":
            cost = 0
            release(ledger, f"r{at}", now=now)
        admitted.append((now, cost))
    assert ledger.verify() == []
    ledger.close()


@given(seconds=st.integers(1, 10 * 366 * 86_400), now=st.floats(1e9, 1e10))
def test_what_is_older_than_the_window_by_a_bucket_is_out_and_nothing_younger(seconds, now):
    budget = hourly(seconds=seconds)
    here = span(budget, now)
    assert here.resets_at is not None
    # The nanoseconds are those of floats.
    tiny = 1e-6 * max(1.0, seconds / 1e6)
    assert now - tiny <= here.resets_at <= now + seconds / ROLLING_BUCKETS + tiny
    assert here.since < here.window_id
    leaves = bucket_leaves(budget, here.window_id)
    assert now + seconds - tiny <= leaves <= now + seconds * (1 + 1 / ROLLING_BUCKETS) + tiny
    if leaves - 2 * tiny > now:
        assert span(budget, leaves - 2 * tiny).since <= here.window_id
    assert span(budget, leaves + 2 * tiny).since > here.window_id


def test_usage_leaves_after_the_window_and_at_most_a_bucket_more(store):
    ledger = store.open([hourly()])
    reserve(ledger, "a", 60, now=NOW)
    settle(ledger, "a", 60, now=NOW)
    reserve(ledger, "b", 40, now=NOW + 30 * MINUTE)
    full = refused(ledger, "c", 1, NOW + 59 * MINUTE)
    assert (full.used, full.held) == (60, 40)
    assert full.resets_at == NOW + HOUR + MINUTE  # when the first 60 leave
    refused(ledger, "d", 1, full.resets_at - 0.001)
    reserve(ledger, "e", 60, now=full.resets_at)
    assert refused(ledger, "f", 1, full.resets_at).resets_at == NOW + 91 * MINUTE
    assert ledger.verify() == []


def test_the_reset_is_when_usage_next_falls_and_not_later(store):
    ledger = store.open([hourly()])
    [idle] = ledger.states(NOW)
    assert (idle.settled, idle.resets_at) == (0, NOW + MINUTE)
    reserve(ledger, "old", 0, now=NOW)  # nothing of it can leave
    reserve(ledger, "a", 30, now=NOW + 10 * MINUTE)
    [state] = ledger.states(NOW + 20 * MINUTE)
    assert state.resets_at == NOW + 71 * MINUTE
    assert ledger.states(state.resets_at - 0.001)[0].held == 30
    assert ledger.states(state.resets_at)[0].held == 0


def test_a_hold_leaves_with_its_bucket_though_it_is_settled_later(store):
    ledger = store.open([hourly()])
    reserve(ledger, "a", 80, now=NOW)
    settle(ledger, "a", 70, now=NOW + 50 * MINUTE)
    assert counters(ledger, NOW + 50 * MINUTE) == {("b", ""): (70, 0)}
    assert counters(ledger, NOW + 61 * MINUTE) == {("b", ""): (0, 0)}
    assert ledger.verify() == []


def test_a_clock_set_back_frees_nothing(store):
    first = store.open([hourly()])
    reserve(first, "a", 60, now=NOW)
    reserve(first, "b", 40, now=NOW + 30 * MINUTE)
    other = store.open([hourly()])
    for at, back in enumerate([NOW + 29 * MINUTE, NOW, NOW - 2 * HOUR]):
        full = refused(other, f"r{at}", 1, back)
        assert (full.held, full.resets_at) == (100, NOW + 61 * MINUTE)
    settle(other, "b", 0, now=NOW)
    reserve(other, "c", 40, now=NOW - HOUR)  # it goes to the latest bucket, and leaves with it
    refused(other, "d", 61, NOW + 90 * MINUTE)
    reserve(other, "e", 100, now=NOW + 91 * MINUTE)
    assert other.verify() == []


def test_another_length_is_another_count(store):
    """Buckets of another length cannot be told from what they were: each length counts anew."""
    hour = store.open([hourly()])
    reserve(hour, "a", 100)
    day = store.open([hourly(seconds=86_400)])
    reserve(day, "b", 70)
    refused(hour, "c", 1, NOW)
    assert refused(day, "d", 31, NOW).held == 70
    assert day.verify() == []


def test_each_value_rolls_on_its_own_and_every_meter_rolls(store):
    ledger = store.open(
        [
            Budget("calls", 2, "rolling", scope="user", seconds=60, meter="requests"),
            Budget("tokens", 100, "rolling", scope="user", seconds=60, meter="tokens"),
        ],
    )
    for at in range(2):
        reserve(ledger, f"a{at}", 0, tokens=30, scopes={"user": "ann"}, now=NOW + at)
        reserve(ledger, f"b{at}", 0, tokens=50, scopes={"user": "bob"}, now=NOW + 10 + at)
    for user, full in [("ann", "calls"), ("bob", "calls")]:
        with pytest.raises(BudgetExceeded) as caught:
            reserve(ledger, user, 0, tokens=1, scopes={"user": user}, now=NOW + 30)
        assert caught.value.budget == full
    settle(ledger, "a0", 0, now=NOW + 40)
    reserve(ledger, "a2", 0, tokens=70, scopes={"user": "ann"}, now=NOW + 61)
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "b2", 0, tokens=1, scopes={"user": "bob"}, now=NOW + 61)
    assert ledger.verify() == []


def test_a_rolling_share_is_of_the_attempts_that_are_still_in_the_window(store):
    share = Budget("s", 500_000, "rolling", scope="tier", value="frontier", seconds=60,
                   meter="share")  # fmt: skip
    ledger = store.open([share])
    for at in range(3):
        reserve(ledger, f"n{at}", 5, scopes={"tier": ("nano",)})
    for at in range(3):
        reserve(ledger, f"t{at}", 5, scopes={"tier": ("frontier",)}, now=NOW + 30)
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "t4", 5, scopes={"tier": ("frontier",)}, now=NOW + 30)
    [state] = ledger.states(NOW + 61)
    assert (state.held, state.seen) == (3, 3)  # the nanos have left
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "t5", 5, scopes={"tier": ("frontier",)}, now=NOW + 61)
    assert ledger.verify() == []


@pytest.mark.parametrize("now", [float("nan"), float("inf"), -1.0, 1e18])
def test_a_time_that_is_none_is_refused(now):
    with pytest.raises(InvalidRequest, match="not a time"):
        span(hourly(), now)
