"""What policies are compared with: a random mix of tiers at their cost, and what exploring cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.replay.off_policy.estimate import Replicates
from router.replay.off_policy.measure import measure
from router.replay.off_policy.replay import conclude, question_of, random_mix
from router.replay.off_policy.target import Named
from tests.off_policy_kit import log

points = st.lists(
    st.tuples(st.floats(0.01, 10), st.floats(0, 1)),
    min_size=2,
    max_size=4,
    unique_by=lambda p: p[0],
)


def one(value: float) -> Replicates:
    return Replicates(np.array([value]))


def mixed(singles: list[tuple[float, float]], cost: float) -> float:
    mix = random_mix([(one(c), one(q)) for c, q in singles])
    assert mix is not None
    return float(mix(one(cost)).values[0])


@given(points, st.floats(0, 12), st.floats(0, 1), st.integers(0, 3), st.integers(0, 3))
def test_no_mix_of_two_tiers_at_that_cost_is_better(singles, cost, share, first, second):
    best = mixed(singles, cost)
    (c1, q1), (c2, q2) = singles[first % len(singles)], singles[second % len(singles)]
    if share * c1 + (1 - share) * c2 <= cost:
        assert share * q1 + (1 - share) * q2 <= best + 1e-9
    assert best <= max(q for _, q in singles) + 1e-12


@given(points, st.floats(0, 12), st.floats(0, 12))
def test_more_money_never_buys_less(singles, one_cost, other):
    low, high = sorted((one_cost, other))
    if low >= min(c for c, _ in singles):
        assert mixed(singles, low) <= mixed(singles, high) + 1e-9


def test_one_tier_alone_is_no_mix():
    assert random_mix([(one(1.0), one(0.5))]) is None


def test_a_router_that_knows_something_beats_the_mix_and_one_that_draws_lots_does_not():
    batch = log(60_000)
    found = conclude(measure([batch], question_of([], ["nano", "mini", "mid"], None)), "mid")
    drawn = found.log["over_random_mix"]
    assert drawn["high"] < 0  # a mix of all three is below the best mix of two

    def knowing(b):
        return (b.quality - 20 * b.expected / 1e9).argmax(axis=1)

    asked = question_of([Named("it", knowing)], ["nano", "mini", "mid"], None)
    [it] = conclude(measure([batch], asked), "mid").policies
    assert it.over_random_mix["low"] > 0


def test_what_exploring_was_expected_to_cost_is_summed():
    batch = log(3000, chances=(0.9, 0.06, 0.04))
    found = conclude(measure([batch], question_of([], ["nano"], None)), "mid").log
    drawn = batch.chosen != 0
    at = np.flatnonzero(drawn)
    extra = (batch.expected[at, batch.chosen[at]] - batch.expected[at, 0]).sum() / 1e9
    assert found["explored"] == drawn.sum()
    assert found["explored_extra_usd"] == pytest.approx(extra)
