"""The bucket of a limit, what headers say, the breaker: pure parts, with time as an argument."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from router.capacity.allowance import Allowance
from router.capacity.breaker import Breaker
from router.capacity.bucket import Bucket, Taken
from router.capacity.headers import LONGEST, Said, Word, read_headers
from router.policy.capacity import BreakerOptions

SECOND = 10**9
STEPS = st.lists(
    st.tuples(st.integers(0, 30 * SECOND), st.integers(1, 40)), min_size=1, max_size=60
)


# ── the bucket ─────────────────────────────────────────────────────────────────────────────────
def test_a_minute_s_worth_may_come_at_once_and_then_one_every_interval() -> None:
    bucket = Bucket(60, burst=60)
    for _ in range(60):
        assert bucket.wait(1, 0) == 0
        bucket.take(1, 0)
    assert bucket.wait(1, 0) == SECOND  # one a second is refilled
    assert bucket.wait(1, SECOND) == 0
    assert bucket.wait(3, SECOND) == 2 * SECOND


def test_a_burst_of_one_second_spreads_a_minute_s_limit() -> None:
    bucket = Bucket(60, burst=1)
    bucket.take(1, 0)
    assert bucket.wait(1, SECOND // 2) == SECOND // 2


def assert_keeps_to(bucket: Bucket, passed: list[tuple[int, int]]) -> None:
    """In no interval did more pass than the burst and the rate allow: (time, units) of each."""
    for first in range(len(passed)):
        total = 0
        for time, units in passed[first:]:
            total += units
            minutes = Fraction(time - passed[first][0], 60 * SECOND)
            assert total <= bucket.burst + bucket.per_minute * minutes


@given(st.integers(1, 10_000), st.integers(1, 200), STEPS)
def test_never_more_than_burst_and_rate_pass_in_any_interval(
    rate: int, burst: int, steps: list[tuple[int, int]]
) -> None:
    bucket, now, passed = Bucket(rate, burst), 0, []
    for pause, units in steps:
        now += pause
        units = min(units, bucket.burst)
        if bucket.wait(units, now) == 0:
            bucket.take(units, now)
            passed.append((now, units))
    assert_keeps_to(bucket, passed)


@given(st.integers(1, 10_000), st.integers(1, 200), STEPS)
def test_what_it_says_to_wait_is_exactly_long_enough(
    rate: int, burst: int, steps: list[tuple[int, int]]
) -> None:
    bucket, now = Bucket(rate, burst), 0
    for pause, units in steps:
        now += pause
        wait = bucket.wait(units, now)
        if wait:
            assert bucket.wait(units, now + wait - 1) > 0
            assert bucket.wait(units, now + wait) == 0
        bucket.take(units, now + wait)
        now += wait


@given(st.integers(1, 10_000), st.integers(1, 200), STEPS)
def test_waiting_for_one_s_turn_reaches_the_whole_rate(
    rate: int, burst: int, steps: list[tuple[int, int]]
) -> None:
    """No capacity is lost: whoever always has a request gets burst + rate * time, but for one."""
    bucket, now, passed = Bucket(rate, burst), 0, 0
    for _ in steps:
        now += bucket.wait(1, now)
        bucket.take(1, now)
        passed += 1
    assert passed + 1 > min(len(steps), bucket.burst + rate * Fraction(now, 60 * SECOND))


def test_more_than_the_bucket_holds_passes_when_it_is_full_and_delays_what_follows() -> None:
    bucket = Bucket(60, burst=10)
    assert bucket.wait(100, 0) == 0
    bucket.take(100, 0)
    assert bucket.wait(1, 0) == 91 * SECOND


def test_what_was_counted_too_much_is_given_back() -> None:
    bucket = Bucket(60, burst=10)
    bucket.correct(-8, bucket.take(10, 0), 0)
    assert bucket.wait(8, 0) == 0
    assert bucket.wait(9, 0) == SECOND


def test_what_was_refilled_in_the_meantime_is_not_given_back_as_well() -> None:
    bucket = Bucket(60, burst=10)
    taken = bucket.take(10, 0)
    bucket.take(10, 10 * SECOND)  # it was full again
    bucket.correct(-8, taken, 10 * SECOND)
    assert bucket.wait(1, 10 * SECOND) == SECOND


def test_all_is_given_back_while_a_bucket_has_more_to_make_up_for_than_that() -> None:
    bucket = Bucket(60, burst=60)
    bucket.take(40, 0)
    taken = bucket.take(20, 0)
    bucket.correct(-15, taken, 30 * SECOND)  # 30 of 60 are left
    assert bucket.wait(45, 30 * SECOND) == 0
    assert bucket.wait(46, 30 * SECOND) == SECOND


SECONDS = st.integers(0, 12).map(lambda seconds: seconds * SECOND)
CALLS = st.lists(
    st.tuples(SECONDS, st.integers(1, 20), st.sampled_from([0.0, 0.5, 1.0]), SECONDS),
    min_size=3, max_size=20,
)  # fmt: skip


@settings(max_examples=200)
@given(st.integers(1, 120), st.integers(5, 20), CALLS)
@example(60, 10, [(0, 10, 0.0, 11 * SECOND), (10 * SECOND, 10, 1.0, 0), (SECOND, 10, 1.0, 0)])
@example(60, 14, [(0, 14, 0.5, 5 * SECOND), (2 * SECOND, 1, 0.5, 9 * SECOND),
                  (8 * SECOND, 11, 1.0, 0), (4 * SECOND, 8, 1.0, 0)])  # fmt: skip
def test_of_what_truly_passed_no_more_than_burst_and_rate_in_any_interval(
    rate: int, burst: int, calls: list[tuple[int, int, float, int]]
) -> None:
    """Each call is predicted to be so many units, is a share of that, and lasts so long."""
    bucket, now = Bucket(rate, burst), 0
    passed: list[tuple[int, int]] = []
    ends: list[tuple[int, int, Taken]] = []
    for pause, predicted, share, lasts in calls:
        now += pause
        for end in sorted(ends, key=lambda each: each[0]):
            if end[0] <= now:
                ends.remove(end)
                bucket.correct(end[1], end[2], end[0])
        predicted = min(predicted, bucket.burst)
        true = int(predicted * share)
        if bucket.wait(predicted, now) == 0:
            ends.append((now + lasts, true - predicted, bucket.take(predicted, now)))
            passed.append((now, true))
    assert_keeps_to(bucket, passed)


# ── headers ────────────────────────────────────────────────────────────────────────────────────
def test_openai_s_headers_are_read_also_as_litellm_hands_them_on() -> None:
    headers = {
        "llm_provider-X-RateLimit-Limit-Requests": "60",
        "llm_provider-x-ratelimit-remaining-requests": "59",
        "llm_provider-x-ratelimit-reset-requests": "1s",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-tokens": "6m0s",
    }
    assert read_headers(headers) == Word(Said(59, 60, 1.0), Said(149_984, None, 360.0))


def test_anthropic_s_reset_is_a_time_after_the_response_s_own_date() -> None:
    headers = {
        "date": "Thu, 26 Nov 2026 05:26:47 GMT",
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": "2026-11-26T05:26:59Z",
        "anthropic-ratelimit-tokens-remaining": "10000",
    }
    assert read_headers(headers) == Word(Said(0, 50, 12.0), Said(10_000))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("17ms", 0.017),
        ("2m59.56s", 179.56),
        ("1h2m", LONGEST),
        ("7.66s", 7.66),
        ("12", 12.0),
        ("999999999d", LONGEST),
        ("1790000000", None),  # a time since 1970, by another clock
        ("soon", None),
        ("-5s", None),
        ("nan", None),
        ("inf", None),
        ("1e9", None),
        ("", None),
        ("٣s", None),
        ("1s" * 50, None),
        ("2026-11-26T05:26:59", None),  # without a zone, and without a date to compare with
    ],
)
def test_resets_in_every_shape(text: str, seconds: float | None) -> None:
    word = read_headers({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": text})
    assert word.requests is not None
    assert word.requests.reset == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("text", ["-1", "many", "1e400", "nan", "0x10", "", "9" * 400, "१"])
def test_a_count_that_is_none_says_nothing(text: str) -> None:
    assert not read_headers({"x-ratelimit-remaining-requests": text})


@given(st.dictionaries(st.sampled_from(["x-ratelimit-remaining-tokens", "date",
       "x-ratelimit-reset-tokens", "x-ratelimit-limit-tokens"]), st.text()))  # fmt: skip
def test_no_header_can_break_or_block_for_ever(headers: dict[str, str]) -> None:
    word = read_headers(headers)
    if word.tokens is not None:
        assert word.tokens.remaining >= 0
        assert Allowance(word.tokens, 0.0).wait(10**12, 0.0) <= LONGEST
        assert Allowance(word.tokens, 0.0).wait(10**12, LONGEST) == 0


def test_an_allowance_is_refilled_evenly_until_it_is_whole() -> None:
    allowance = Allowance(Said(0, 60, 60.0), now=100.0)
    assert allowance.wait(1, 100.0) == pytest.approx(1.0)  # 60 in 60 s
    assert allowance.wait(1, 101.0) == 0
    assert allowance.wait(100, 101.0) == pytest.approx(59.0)  # more than the limit: when whole
    allowance.take(2)
    assert allowance.wait(1, 101.0) == pytest.approx(2.0)


def test_without_a_limit_nothing_is_refilled_before_the_reset() -> None:
    allowance = Allowance(Said(1, None, 30.0), now=0.0)
    assert allowance.wait(1, 0.0) == 0
    allowance.take(1)
    assert allowance.wait(1, 10.0) == pytest.approx(20.0)
    assert allowance.wait(1, 30.0) == 0


# ── the breaker ────────────────────────────────────────────────────────────────────────────────
def breaker(**options: object) -> Breaker:
    asked = BreakerOptions.model_validate(
        {"failures": 3, "open_seconds": 10, "longest_open_seconds": 30, **options}
    )
    return Breaker(asked, probe_seconds=100.0)


def test_a_life_cycle_closed_open_half_open_closed() -> None:
    circuit = breaker()
    for at in range(3):
        assert circuit.obstacle(float(at)) is None
        circuit.fail(circuit.enter(float(at)), "ProviderUnavailable", float(at))
    seen = circuit.obstacle(2.0)
    assert seen is not None
    assert "3 failures in a row; last: ProviderUnavailable" in seen.why
    assert seen.wait == pytest.approx(10.0)
    assert circuit.obstacle(12.0) is None
    probe = circuit.enter(12.0)
    assert probe
    under_way = circuit.obstacle(12.0)  # one at a time
    assert under_way is not None
    assert "probe" in under_way.why
    circuit.succeed(probe)
    assert circuit.closed
    assert circuit.obstacle(12.0) is None


def test_each_failed_probe_doubles_the_wait_up_to_the_longest() -> None:
    circuit, now, waits = breaker(failures=1), 0.0, []
    for _ in range(5):
        circuit.fail(circuit.enter(now), "ProviderTimeout", now)
        seen = circuit.obstacle(now)
        assert seen is not None
        assert seen.wait is not None
        waits.append(round(seen.wait))
        now += seen.wait
    assert waits == [10, 20, 30, 30, 30]


def test_a_success_in_between_starts_the_count_anew() -> None:
    circuit = breaker()
    for _ in range(5):
        circuit.fail(0, "ProviderTimeout", 0.0)
        circuit.fail(0, "ProviderTimeout", 0.0)
        circuit.succeed(0)
    assert circuit.closed


def test_a_share_of_the_last_calls_opens_too() -> None:
    circuit = breaker(failures=100, ratio=0.5, of=10)
    for at in range(10):
        assert circuit.closed
        circuit.fail(0, "MalformedReply", 0.0) if at % 2 else circuit.succeed(0)
    seen = circuit.obstacle(0.0)
    assert seen is not None
    assert "5 of the last 10 calls failed" in seen.why


def test_calls_from_before_it_opened_change_nothing() -> None:
    circuit = breaker(failures=1)
    circuit.fail(0, "ProviderTimeout", 0.0)
    circuit.succeed(0)
    circuit.fail(0, "ProviderTimeout", 5.0)
    seen = circuit.obstacle(5.0)
    assert seen is not None
    assert seen.wait == pytest.approx(5.0)


def test_a_probe_that_was_cancelled_lets_the_next_one_go_and_a_lost_one_only_later() -> None:
    circuit = breaker(failures=1)
    circuit.fail(0, "ProviderTimeout", 0.0)
    cancelled = circuit.enter(10.0)
    circuit.forget(cancelled)
    assert circuit.obstacle(10.0) is None
    lost = circuit.enter(10.0)
    assert circuit.obstacle(109.0) is not None
    assert circuit.obstacle(110.0) is None
    later = circuit.enter(110.0)
    circuit.succeed(lost)  # a voice from the past
    assert not circuit.closed
    circuit.succeed(later)
    assert circuit.closed
