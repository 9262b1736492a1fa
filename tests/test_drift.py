"""The tests for a change: false alarms are as rare as they say, and changes are found."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.drift.change import _SHARES, BETS, Streams, unstarted
from router.drift.quantities import (
    BINS,
    form_note,
    score_bin,
    score_counts,
    tie,
    tokens_bin,
    typical,
    values_of,
    watched,
)
from router.drift.record import Alarm, Alarms, Watch
from router.log.base import LoggedRequest
from router.policy import load_policy
from router.types import AttemptRow
from tests.conftest import ladder

Draw = Any


def first_alarms(
    draw: Draw, length: int, streams: int, needed: float, reference: int = 100, seed: int = 0
) -> np.ndarray:
    """When each of so many independent streams first has the evidence; -1 for never."""
    rng, tests = np.random.default_rng(seed), Streams.new(streams, BINS)
    rows, first = np.arange(streams), np.full(streams, -1)
    for t in range(length):
        tests.see(rows, draw(rng, t, streams), rng.random(streams), reference, float(t))
        first[(first < 0) & (tests.peak >= needed)] = t
    return first


def rate(share: float) -> Draw:
    return lambda rng, t, n: (rng.random(n) < share).astype(np.int64)


def spread(rng: np.random.Generator, t: int, n: int) -> Any:
    return np.clip(np.round(rng.normal(24, 6, n)), 0, BINS - 1).astype(np.int64)


@pytest.mark.parametrize("draw", [rate(0.02), rate(0.5), spread], ids=["rare", "even", "spread"])
def test_false_alarms_are_at_most_as_frequent_as_their_bound(draw: Draw) -> None:
    """600 streams of 1,500 values at 10%: more than 80 would have a chance of one in 500."""
    false = (first_alarms(draw, 1500, 600, 10.0) >= 0).sum()
    assert false <= 80


def test_the_bound_could_be_broken() -> None:
    """The same count of a gambler who sees each p-value before he bets: the test above can fail."""
    first = first_alarms(
        lambda rng, t, n: spread(rng, t, n) if t < 700 else np.full(n, 24), 1500, 100, 10.0
    )
    assert (first >= 0).sum() > 80


@pytest.mark.parametrize(
    ("before", "after", "within"),
    [
        (rate(0.01), rate(0.2), 200),
        (rate(0.0), rate(0.1), 300),
        (rate(0.5), rate(0.8), 300),
        (spread, lambda rng, t, n: np.minimum(spread(rng, t, n) + 6, BINS - 1), 120),
        (spread, lambda rng, t, n: np.maximum(spread(rng, t, n) - 6, 0), 120),
        (spread, lambda rng, t, n: np.full(n, 24), 120),
    ],
    ids=["more refusals", "first refusals", "rate", "larger", "smaller", "narrower"],
)
@pytest.mark.parametrize("late", [800, 2000])
def test_a_change_is_found_soon_however_late_it_comes(
    before: Draw, after: Draw, within: int, late: int
) -> None:
    within = within if late > 1000 else 2 * within  # little is known of what was before
    first = first_alarms(
        lambda rng, t, n: (before if t < late else after)(rng, t, n), late + within, 40, 300.0
    )
    assert (first >= late).sum() >= 36


def test_the_time_of_the_change_is_told() -> None:
    rng, tests = np.random.default_rng(1), Streams.new(1, BINS)
    for t in range(1200):
        value = spread(rng, t, 1) + (10 if t >= 1000 else 0)
        tests.see(np.array([0]), np.minimum(value, BINS - 1), rng.random(1), 100, float(t))
    assert tests.peak[0] >= 300
    assert abs(tests.changed(0) - 1000) <= 15


def test_every_bet_is_fair_so_that_capital_is_not_expected_to_grow() -> None:
    """Its mean over uniform p-values is 1, but for what the smallest of all would pay."""
    n = 200_000
    tests = Streams.new(n, BINS)
    tests._bet(np.arange(n), (np.arange(n) + 0.5) / n, 0.0)
    begun = 1 - unstarted(np.array([1.0]))
    means = tests.capital.mean(axis=0) / (begun * _SHARES)
    assert means.shape == (BETS,)
    assert (means <= 1 + 1e-6).all()
    assert (means >= 0.93).all()
    assert tests.evidence.mean() <= 1 + 1e-9


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_streams_side_by_side_are_what_each_is_alone(values: list[int], cut: int) -> None:
    together, alone = Streams.new(3, BINS), Streams.new(1, BINS)
    for t, value in enumerate(values):
        u = tie(str(t), "x")
        alone.see(np.array([0]), np.array([value]), np.array([u]), cut, float(t))
        others = np.array([0, 2]) if t % 2 else np.array([2])
        bins = np.array([(value * 7) % BINS] * (len(others) - 1) + [value])
        together.see(others, bins, np.array([0.3] * (len(others) - 1) + [u]), cut, float(t))
    assert together.evidence[2] == pytest.approx(alone.evidence[0])
    assert together.peak[2] == pytest.approx(alone.peak[0])


# ── quantities ─────────────────────────────────────────────────────────────────────────────────
def policy(**changes: Any) -> Any:
    return load_policy(ladder("http://127.0.0.1:1/v1", **changes))


def test_what_is_watched_follows_the_policy() -> None:
    assert watched(policy()) == ()
    every = watched(policy(drift={}))
    assert every[:2] == ("scores/nano", "scores/mini")
    assert "gate" not in every
    assert "gate" in watched(policy(drift={}, cascade={}))
    assert watched(policy(drift={"watch": ["novel", "prices"]})) == ("novel",)


def test_a_policy_without_drift_keeps_its_hash_and_another_has_another() -> None:
    assert "drift" not in json.dumps(policy().hash)
    assert policy().hash == policy(drift=None).hash
    assert policy().hash != policy(drift={}).hash
    assert policy(drift={}).hash != policy(drift={"alpha": 0.1}).hash


def row(number: int = 1, **changes: Any) -> AttemptRow:
    facts: dict[str, Any] = {
        "request_id": "r",
        "number": number,
        "time": 1.0,
        "step": 0,
        "arm": "nano/0:m",
        "tier": "nano",
        "model": "m",
        "propensity": 1.0,
        "status": "answered",
        "reserved": 1,
        "cost": 1,
        "cost_source": "computed",
        "price_book": "b",
        "latency": 0.1,
        "output_tokens": 99,
    }
    return AttemptRow(**{**facts, **changes})


def request(request_id: str = "r", time: float = 1.0, **changes: Any) -> LoggedRequest:
    arms = (
        {"arm": "nano/0:m", "tier": "nano", "quality": 0.5, "output_tokens": 99.0},
        {"arm": "frontier/0:f", "tier": "frontier", "quality": 0.9, "output_tokens": 199.0},
    )
    facts: dict[str, Any] = {
        "request_id": request_id,
        "time": time,
        "status": "answered",
        "policy": "p@1",
        "predictor": "q",
        "price_book": "b",
        "scopes": {},
        "tags": (),
        "conversation_id": None,
        "stream": False,
        "features": {"novel": False},
        "decision": arms,
        "chosen": "nano/0:m",
        "reason": "",
        "rule": None,
        "baseline": None,
        "ended": time,
        "attempts": 1,
    }
    return LoggedRequest(**{**facts, **changes})


def test_a_requests_values_are_read_off_its_rows() -> None:
    found = values_of(request(), [row(note=form_note(("refusal", "truncated")))])
    assert found == {
        "novel": 0,
        "scores/nano": 24,
        "scores/frontier": 43,
        "tokens/nano": 24,
        "refusals/nano": 1,
        "faults/nano": 1,
        "gate": 0,
    }
    second = row(2, step=1, arm="frontier/0:f", tier="frontier", output_tokens=399)
    more = values_of(request(), [row(note="price unknown"), second])
    assert (more["gate"], more["refusals/nano"], more["tokens/frontier"]) == (1, 0, 28)


def test_an_answer_that_stood_in_for_a_failed_call_is_left_out() -> None:
    failed = row(status="failed")
    stand_in = row(2, arm="frontier/0:f", tier="frontier")
    assert (
        not {"tokens/frontier", "refusals/frontier"}
        & values_of(request(), [failed, stand_in]).keys()
    )


def test_of_the_samples_of_a_vote_one_counts() -> None:
    rows = [row(1, status="failed"), row(2, note=form_note(("refusal",))), row(3, output_tokens=9)]
    found = values_of(request(), rows)
    assert (found["refusals/nano"], found["tokens/nano"]) == (1, 24)


@given(st.floats(0, 1), st.floats(0, 1e9), st.floats(0, 1e9))
def test_every_value_has_a_bin(quality: float, actual: float, predicted: float) -> None:
    assert 0 <= score_bin(quality) < BINS
    assert 0 <= tokens_bin(actual, predicted) < BINS
    assert score_counts(np.array([quality]))[score_bin(quality)] == 1


def test_typical_values_are_said_in_their_own_unit() -> None:
    counts = np.zeros(BINS)
    assert typical("novel", counts) is None
    counts[[0, 1]] = 3, 1
    assert typical("refusals/nano", counts) == 0.25
    counts[:] = 0
    counts[tokens_bin(200, 100)] = 5
    assert typical("tokens/mini", counts) == pytest.approx(2.0, rel=0.1)
    assert typical("scores/mini", score_counts(np.full(9, 0.7))) == pytest.approx(0.7, abs=0.02)


# ── what is kept ───────────────────────────────────────────────────────────────────────────────
NAMES = ("refusals/nano", "tokens/nano")


def watch() -> Watch:
    return Watch("p@1", NAMES, 0.1, 60, 0, 0.0, 0.0, streams=Streams.new(2, BINS))


def stream(n: int, refuses_from: int = 10**9) -> list[tuple[LoggedRequest, list[AttemptRow]]]:
    note = form_note(("refusal",))
    return [
        (
            request(f"r{i}", 100.0 + i),
            [row(request_id=f"r{i}", note=note if i >= refuses_from else None)],
        )
        for i in range(n)
    ]


def one(asked: LoggedRequest, *attempts: AttemptRow) -> tuple[LoggedRequest, list[AttemptRow]]:
    return asked, list(attempts)


def test_reading_in_parts_and_over_a_restart_is_reading_at_once() -> None:
    rows = stream(300, refuses_from=250)
    at_once, parts = watch(), watch()
    assert at_once.read(rows, math.inf) == 300
    for end in (7, 100, 101, 300):
        parts.read([r for r in rows[:end] if r[0].time >= parts.since], math.inf)
        again = Watch.from_json(json.loads(json.dumps(parts.to_json())))
        assert again is not None
        parts = again
    assert parts.streams.evidence.tolist() == at_once.streams.evidence.tolist()
    [alarm] = parts.alarms(1000.0)
    assert (alarm.name, alarm.reference, alarm.needed) == ("refusals/nano", "0.0%", 20.0)
    assert 345 <= alarm.since <= 352


def test_no_request_counts_twice_and_none_counts_before_one_that_is_under_way() -> None:
    rows, seen = stream(20), watch()
    open_one = one(request("open", 105.5, status="open", ended=None, attempts=0))
    assert seen.read([*rows[:6], open_one, *rows[6:]], 200.0) == 6
    again = [r for r in rows if r[0].time >= seen.since]
    assert seen.read([*again[:6], open_one, *again[6:]], 200.0) == 0
    it_ended = one(request("open", 105.5, ended=150.0), row(request_id="open"))
    assert seen.read([*again[:6], it_ended, *again[6:]], 200.0) == 15
    assert seen.read([r for r in rows if r[0].time >= seen.since], 200.0) == 0


def test_a_request_of_more_than_an_hour_never_counts_and_holds_up_others_for_an_hour() -> None:
    rows, seen = stream(20), watch()
    open_one = one(request("open", 105.5, status="open", ended=None, attempts=0))
    assert seen.read([*rows[:6], open_one, *rows[6:]], 105.5 + 3599) == 6
    it_ended = one(request("open", 105.5, ended=105.5 + 3601), row(request_id="open"))
    after = copy.deepcopy(seen)
    assert seen.read([*rows[:6], open_one, *rows[6:]], 105.5 + 3600) == 14
    assert after.read([*rows[:6], it_ended, *rows[6:]], 105.5 + 4000) == 14
    assert after.streams.evidence.tolist() == seen.streams.evidence.tolist()


def test_a_later_turn_or_another_policys_request_under_way_holds_up_none() -> None:
    under_way = [
        request("turn", 105.5, status="open", ended=None, features={"turn": 3}),
        request("other", 105.5, status="open", ended=None, policy="p@2"),
    ]
    rows = stream(20)
    assert watch().read([*rows[:6], *map(one, under_way), *rows[6:]], 200.0) == 20


def test_answers_that_take_longer_the_longer_they_are_raise_no_more_false_alarms() -> None:
    """A look each minute at traffic that never changes, some of it always under way: with later
    answers counted before longer ones, five of these six had an alarm (5% allowed)."""
    alarms = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        time = np.cumsum(rng.exponential(0.5, 1500))
        tokens = np.minimum(np.exp(rng.normal(6, 0.8, 1500)), 16_000)
        ended = time + 0.5 + tokens / 50
        rows = [
            (
                request(f"r{seed}-{i}", float(time[i]), ended=float(ended[i])),
                [row(request_id=f"r{seed}-{i}", output_tokens=int(tokens[i]))],
            )
            for i in range(1500)
        ]
        seen = Watch("p@1", NAMES[1:], 0.05, 500, 0, 0.0, 0.0, streams=Streams.new(1, BINS))
        counted = 0
        for now in range(60, 60 * 21, 60):
            first, last = np.searchsorted(time, [seen.since, now])
            counted += seen.read(rows[first:last], float(now))
        assert counted == 1500
        alarms += bool(seen.alarms(now))
    assert alarms <= 1


def test_looking_while_nothing_comes_counts_nothing_again() -> None:
    rows, seen = stream(40), watch()
    assert seen.read(rows, math.inf) == 40
    for _ in range(10):
        assert seen.read([r for r in rows if r[0].time >= seen.since], math.inf) == 0
        assert seen.since == 129.0


def test_what_an_alarm_decided_another_policy_and_later_turns_do_not_count() -> None:
    seen = watch()
    others = [
        request("a", features={"drift": "…"}),
        request("b", policy="p@2"),
        request("c", purpose="judge"),
        request("d", features={"turn": 3}),
    ]
    assert seen.read([(each, [row()]) for each in others], math.inf) == 0


def test_an_alarm_is_raised_once_and_closed_by_an_acceptance() -> None:
    alarm = Alarm("novel", 2.0, 1.0, 99.0, 20.0, "1%", "9%", "p@1")
    once = Alarms().raised([alarm])
    assert once.raised([alarm]) == once
    assert Alarms.from_json(json.loads(json.dumps(once.to_json()))).open == (alarm,)
    after = once.accept(3.0, "ann", "seen")
    assert (after.open, after.round) == ((), 1)
    assert [entry["what"] for entry in after.history] == ["alarm", "accepted"]
