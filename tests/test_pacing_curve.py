"""The spend curve: which cost weight spends how much, by the rule that `choose` decides with."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from router.decide import UNLIMITED, Bar, Objective, Options, choose
from router.decide.pacing import ONLY_COST, SpendCurve, spend_curve
from router.planning.pacing import Sample

ARMS = 4
qualities = st.sampled_from([0.0, 0.2, 0.25, 0.5, 0.75, 0.9, 1.0])
rows = st.integers(1, 12)


@st.composite
def samples(draw: Any) -> tuple[Any, Any]:
    """Qualities and nano-USD of a few requests, with many ties."""
    n = draw(rows)
    quality = draw(hnp.arrays(np.float64, (n, ARMS), elements=qualities))
    cost = draw(hnp.arrays(np.int64, (n, ARMS), elements=st.integers(0, 40)))
    return quality, cost * 1_000_000


def everything_free(quality: Any) -> Any:
    return np.ones(quality.shape, dtype=bool)


def curve_of(quality: Any, cost: Any) -> SpendCurve:
    curve = spend_curve(quality, cost, everything_free(quality))
    assert curve is not None
    return curve


def spend_by_choice(quality: Any, cost: Any, weight: float) -> float:
    """Mean expected nano-USD of what `choose` takes at a cost weight."""
    n = len(quality)
    options = Options(
        quality=quality,
        expected=cost,
        upper=cost,
        barred=np.zeros(quality.shape, np.uint8),
        rung=np.arange(ARMS),
        baseline=ARMS - 1,
    )
    arm = choose(options, Objective(cost_weight=weight), np.full(n, UNLIMITED), priced=True).arm
    return float(cost[np.arange(n), arm].mean())


@given(samples(), st.floats(0, 50e6), st.floats(0, 50e6))
def test_a_larger_target_never_raises_the_weight(
    sample: tuple[Any, Any], one: float, other: float
) -> None:
    curve = curve_of(*sample)
    low, high = sorted((one, other))
    assert curve.weight_for(high) <= curve.weight_for(low)


@given(samples(), st.floats(0, 50e6))
def test_what_is_chosen_at_the_weight_spends_the_target_at_most(
    sample: tuple[Any, Any], target: float
) -> None:
    """The promise is the rule's own: the same `choose`, on the same sample."""
    quality, cost = sample
    curve = curve_of(quality, cost)
    weight = curve.weight_for(target)
    assert 0 <= weight <= ONLY_COST
    spent = spend_by_choice(quality, cost, weight)
    if target >= curve.spend[0] and weight > 0:
        assert spent <= target * (1 + 1e-9) + 1
    if weight == ONLY_COST:
        assert spent == pytest.approx(curve.spend[0])


@given(samples())
def test_between_two_steps_the_curve_is_what_is_chosen(sample: tuple[Any, Any]) -> None:
    quality, cost = sample
    curve = curve_of(quality, cost)
    edges = [2 * curve.weights[0] if curve.weights else 1.0, *curve.weights, 0.0]
    for step, (above, below) in enumerate(pairwise(edges)):
        if above - below > 1e-9 * above:
            weight = (above + below) / 2
            assert spend_by_choice(quality, cost, weight) == pytest.approx(curve.spend[step])
            assert curve.spend_at(weight) == curve.spend[step]


@given(samples(), st.floats(0.001, 60))
def test_no_smaller_weight_spends_the_target(sample: tuple[Any, Any], target: float) -> None:
    """Of the weights that fit, the dearest step is taken: money is not left for want of courage."""
    quality, cost = sample
    curve = curve_of(quality, cost)
    weight = curve.weight_for(target * 1e6)
    smaller = [step for step in curve.weights if step < weight]
    if weight < ONLY_COST and smaller:
        assert spend_by_choice(quality, cost, smaller[0] * (1 - 1e-6)) >= target * 1e6 * (1 - 1e-9)


def test_equal_requests_change_their_arm_together() -> None:
    quality = np.tile([0.5, 0.9], (10, 1))
    cost = np.tile([1_000_000, 21_000_000], (10, 1))
    curve = curve_of(quality, cost)
    assert curve.weights == pytest.approx([0.4 / 0.020])
    assert curve.spend == pytest.approx([1_000_000, 21_000_000])
    assert curve.weight_for(20_999_999) == pytest.approx(40)  # half of them cannot be moved
    assert curve.weight_for(21_000_000) == 0
    assert curve.weight_for(999_999) == ONLY_COST


def test_an_arm_that_is_dearer_and_no_better_costs_nothing() -> None:
    quality, cost = np.array([[0.9, 0.9, 0.8]]), np.array([[5, 9, 7]])
    curve = spend_curve(quality, cost, np.ones((1, 3), bool))
    assert curve is not None
    assert curve.spend == pytest.approx([5])
    assert curve.weight_for(5.001) == 0


def test_a_sample_without_a_free_arm_has_no_curve() -> None:
    assert spend_curve(np.ones((2, 2)), np.ones((2, 2), np.int64), np.zeros((2, 2), bool)) is None
    assert Sample(np.arange(2)).draw(1000, 1.0) is None


def one(quality: Any, cost: Any, upper: Any, tier: Any, barred: Any = None) -> Options:
    quality = np.array([quality])
    return Options(
        quality=quality,
        expected=np.array([cost]),
        upper=np.array([upper]),
        barred=np.zeros(quality.shape, np.uint8)
        if barred is None
        else np.array([barred], np.uint8),
        rung=np.array(tier),
        baseline=tier[-1],
    )


def test_only_the_deployment_that_leads_its_tier_counts() -> None:
    tier = [0, 3, 3]
    sample = Sample(np.array(tier))
    sample.add(one([0.5, 0.9, 0.9], [10, 100, 1], [10, 100, 1], tier))
    drawn = sample.draw(10**9, 0.0)
    assert drawn is not None
    assert drawn.curve.spend == pytest.approx([10, 100])  # not the standby's 1
    sample.add(one([0.5, 0.9, 0.9], [10, 100, 1], [10, 100, 1], tier, [0, Bar.FAILED, 0]))
    drawn = sample.draw(10**9, 0.0)
    assert drawn is not None
    assert drawn.curve.spend[0] == pytest.approx((10 + 1) / 2)


def test_arms_whose_reservation_does_not_fit_are_not_counted_on() -> None:
    sample = Sample(np.arange(3))
    sample.add(one([0.5, 0.7, 0.9], [10, 20, 100], [50, 90, 1000], [0, 1, 2]))
    for room, most in ((1000, 100), (999, 20), (89, 10)):
        drawn = sample.draw(room, 0.0)
        assert drawn is not None
        assert drawn.curve.spend[-1] == pytest.approx(most)
        assert drawn.all_fit == (room >= 1000)
    assert sample.draw(49, 0.0) is None


def test_a_repriced_sample_spends_at_the_new_price() -> None:
    sample = Sample(np.arange(2))
    sample.add(one([0.5, 0.9], [10, 100], [50, 1000], [0, 1]))
    sample.reprice(np.array([1.0, 0.5]))
    drawn = sample.draw(500, 0.0)
    assert drawn is not None
    assert drawn.curve.spend == pytest.approx([10, 50])
    assert drawn.curve.weights == pytest.approx([0.4 / 40e-9])
