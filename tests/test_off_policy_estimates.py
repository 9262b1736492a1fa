"""Off-policy estimates: what they are, that their intervals hold, and that parts add up."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.decide import UNKNOWN
from router.replay.off_policy.diff import Thresholds
from router.replay.off_policy.estimate import (
    FOLDS,
    Replicates,
    degrees_of_freedom,
    t_quantile,
    unskewed,
)
from router.replay.off_policy.measure import Question, measure, merged
from router.replay.off_policy.paired import Moves, pair
from router.replay.off_policy.replay import conclude, question_of
from router.replay.off_policy.sums import GROUPS
from router.replay.off_policy.target import Named
from tests.off_policy_kit import estimated, log, truth


def by_value(batch):
    """The arm that is worth most at a cost weight of 20."""
    return (batch.quality - 20 * batch.expected / 1e9).argmax(axis=1)


def dearest(batch):
    return np.full(len(batch), 2)


@given(st.integers(0, 2**32), st.integers(50, 400), st.floats(0, 0.8))
@settings(max_examples=25, deadline=None)
def test_weighted_estimates_are_what_their_formulas_say(seed, n, unlabelled):
    batch = log(n, seed)
    rng = np.random.default_rng(seed)
    label = np.where(rng.random(n) < unlabelled, np.nan, batch.label)
    batch = log(n, seed, label=label)
    arm = by_value(batch)
    found = estimated(batch, arm).by_outcome
    ips = weight_sum = cost_ips = 0.0
    for row in range(n):
        if batch.chosen[row] != arm[row]:
            continue
        weight = 1 / batch.propensity[row, arm[row]]
        cost_ips += weight * batch.cost[row]
        mine = batch.chosen == arm[row]
        labelled = np.isfinite(label[mine]).sum()
        if np.isfinite(label[row]):
            ips += weight * label[row] * mine.sum() / labelled
            weight_sum += weight * mine.sum() / labelled
    assert found["quality"]["ips"].values[0] == pytest.approx(ips / n)
    assert found["cost"]["ips"].values[0] == pytest.approx(cost_ips / n)
    if weight_sum:
        assert found["quality"]["snips"].values[0] == pytest.approx(ips / weight_sum)


def test_the_direct_model_is_a_line_fitted_on_the_other_folds():
    batch = log(3000, 3)
    arm = by_value(batch)
    found = estimated(batch, arm).by_outcome
    fold = batch.cluster % GROUPS % FOLDS
    total = corrected = 0.0
    for mine in range(FOLDS):
        for a in range(3):
            rest = (fold != mine) & (batch.chosen == a)
            x, y = batch.quality[rest, a], batch.label[rest]
            # Ridge towards the prediction itself: level 0 and slope 1.
            design = np.vstack([np.ones(len(x)), x]).T
            gram = design.T @ design + np.diag([0.5, 2.0])
            level, slope = np.array([0, 1]) + np.linalg.solve(gram, design.T @ (y - x))
            here = (fold == mine) & (arm == a)
            total += (level + slope * batch.quality[here, a]).sum()
            seen = here & (batch.chosen == a)
            weight = 1 / batch.propensity[seen, a]
            left = batch.label[seen] - level - slope * batch.quality[seen, a]
            corrected += (weight * left).sum()
    n = len(batch)
    assert found["quality"]["direct"].values[0] == pytest.approx(total / n)
    assert found["quality"]["doubly_robust"].values[0] == pytest.approx((total + corrected) / n)


@pytest.mark.parametrize("target", [by_value, dearest])
@pytest.mark.parametrize("outcome", ["quality", "cost"])
def test_intervals_hold_the_truth_as_often_as_they_say(target, outcome):
    true, held, draws = truth(target)[outcome], 0, 200
    for seed in range(draws):
        batch = log(2000, 1000 + seed)
        one = estimated(batch, target(batch)).by_outcome[outcome]["doubly_robust"].estimate()
        held += one.low <= true <= one.high
    # 95%, less four standard errors of a share over 200 logs.
    assert held / draws >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / draws)


def test_doubly_robust_has_at_most_half_the_variance_of_inverse_weights():
    values = {"ips": [], "doubly_robust": []}
    for seed in range(60):
        batch = log(2000, 5000 + seed)
        found = estimated(batch, by_value(batch)).by_outcome["quality"]
        for name, each in values.items():
            each.append(found[name].values[0])
    assert np.var(values["doubly_robust"]) <= 0.5 * np.var(values["ips"])


def test_a_model_that_is_wrong_does_not_make_doubly_robust_wrong():
    errors = []
    for seed in range(40):
        batch = log(4000, 9000 + seed)
        wrong = log(4000, 9000 + seed, quality=1 - batch.quality)
        one = estimated(wrong, by_value(batch)).by_outcome["quality"]["doubly_robust"]
        errors.append(float(one.values[0]) - truth(by_value)["quality"])
    assert abs(np.mean(errors)) <= 4 * np.std(errors) / math.sqrt(len(errors))


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).gamma(2.0, 1.0, 300)
    left = (values.sum() - values) / (len(values) - 1)
    found = Replicates(np.concatenate([[values.mean()], left])).estimate()
    assert found.error == pytest.approx(values.std(ddof=1) / math.sqrt(len(values)))
    assert found.high - found.value > found.value - found.low  # they are skewed to the right


@pytest.mark.parametrize("spread", [0.0, 0.01])
def test_an_estimate_beyond_what_can_be_has_no_interval_that_ends_before_it_begins(spread):
    for beyond, end in ((1.05, 1.0), (-0.05, 0.0)):
        for values in (np.full(31, beyond), beyond + np.linspace(-1e-3, 1e-3, 31)):
            found = Replicates(values).estimate(spread, 0.0, 1.0)
            assert (found.value, found.low, found.high) == (end, end, end)


@pytest.mark.parametrize(
    ("degrees", "within"), [(2, 8e-3), (4, 1e-3), (4.5, 1e-3), (10, 1e-5), (399, 1e-5)]
)
def test_the_t_quantile_is_that_of_students_distribution(degrees, within):
    from scipy.stats import t

    assert t_quantile(degrees) == pytest.approx(t.ppf(0.975, degrees), rel=within)


def test_a_spread_that_a_few_groups_make_up_has_few_degrees_of_freedom():
    alike = np.random.default_rng(0).normal(size=(2000, 400))
    kurtosis = ((alike / alike.std(axis=1, keepdims=True)) ** 4).mean(axis=1)
    usual = [degrees_of_freedom(each, 400) for each in kurtosis]
    assert np.median(usual) == pytest.approx(399, rel=0.03)
    assert degrees_of_freedom(400.0, 400) == pytest.approx(2, rel=0.01)  # one that makes it all


def test_intervals_hold_where_a_few_large_weights_make_the_sum():
    """Sums over 400 groups of which every tenth has a weight; the truth is 1."""
    rng = np.random.default_rng(1)
    weights = rng.lognormal(-1.125, 1.5, (3000, 400)) * 10 * (rng.random((3000, 400)) < 0.1)
    held = []
    for groups in weights:
        left_out = (groups.sum() - groups) / (len(groups) - 1)
        found = Replicates(np.array([groups.mean(), *left_out])).estimate()
        held.append((found.low <= 1 <= found.high, abs(found.value - 1) <= 1.966 * found.error))
    with_degrees, plain = np.mean(held, axis=0)
    assert plain < 0.85 < 0.93 < with_degrees < 0.97


@given(st.floats(-3, 3), st.floats(-2.5, 2.5), st.integers(20, 400))
def test_removing_skewness_undoes_halls_transformation(quantile, skewness, groups):
    root = math.sqrt(groups)
    inner = 1 + skewness * (quantile / root - skewness / (6 * groups))
    found = unskewed(quantile, skewness, groups)
    if inner > 0 and abs(skewness) > 1e-3:
        again = (
            found
            + skewness * found**2 / (3 * root)
            + skewness**2 * found**3 / (27 * groups)
            + skewness / (6 * root)
        )
        assert again == pytest.approx(quantile, abs=1e-6)


@given(st.integers(0, 1000), st.lists(st.integers(1, 1999), min_size=1, max_size=4, unique=True))
@settings(max_examples=10, deadline=None)
def test_a_log_in_parts_gives_the_figures_of_the_whole(seed, cuts):
    batch = log(2000, seed)
    question = Question((Named("value", by_value),))
    whole = measure([batch], question)
    edges = [0, *sorted(cuts), 2000]
    parts = [measure([batch.take(np.arange(a, b))], question) for a, b in pairwise(edges)]
    one, other = conclude(whole, "mid"), conclude(merged(parts), "mid")
    for name in ("quality", "cost", "latency"):
        mine, theirs = (each.policies[0].figures[name] for each in (one, other))
        for estimator in mine:
            assert mine[estimator] == pytest.approx(theirs[estimator], rel=1e-9)


def test_a_policy_that_does_what_the_log_did_costs_what_the_log_cost():
    batch = log(2000, 0, chances=(0.0, 1.0, 0.0))
    question = Question((Named("same", lambda b: np.full(len(b), 1)),))
    found = conclude(measure([batch], question), "mid").policies[0]
    assert found.figures["cost"]["doubly_robust"]["value"] * 1e9 == pytest.approx(batch.cost.mean())
    assert found.figures["quality"]["snips"]["value"] == pytest.approx(batch.label.mean())
    assert found.against_log["cost"]["value"] == pytest.approx(0, abs=1e-12)


def always(batch, arm):
    """What always taking one arm would have come to."""
    named = Named("it", lambda b: np.full(len(b), arm))
    return conclude(measure([batch], Question((named,))), "mid").policies[0]


def without_a_price(batch, arm, share=1.0):
    """The same log, had no price of an arm been known, to decide by or to bill by."""
    expected, some = batch.expected.copy(), np.random.default_rng(0).random(len(batch)) < share
    expected[some, arm] = UNKNOWN
    cost = np.where((batch.chosen == arm) & some, np.nan, batch.cost)
    return replace(batch, expected=expected, cost=cost)


def test_an_arm_without_a_price_is_not_free():
    batch = without_a_price(log(4000), 1)
    policies = [Named(name, lambda b, arm=arm: np.full(len(b), arm)) for name, arm in
                (("mini", 1), ("mid", 2))]  # fmt: skip
    tiers = ["nano", "mini", "mid"]
    moves = Moves("mid", "mini")
    sums = measure([batch], question_of(policies, tiers, None), moves.watch)
    found = conclude(sums, "mid")
    mini, mid = found.policies
    for it in (mini, found.singles[1]):
        assert set(it.figures) == {"quality", "latency"}
        assert (it.saved_usd, it.over_random_mix) == (None, None)
        assert any("mini:m-mini would be called" in each for each in it.warnings)
    # The log's own calls were of that arm too, so there is nothing to hold the other against.
    assert mid.figures["cost"]
    assert set(mid.against_log) == {"quality", "latency"}
    assert mid.saved_usd["value"] == 0
    assert found.log["cost_per_request_usd"] is None
    assert (found.baseline["saved_usd"], found.log["over_random_mix"]) == (None, None)
    assert "mini:m-mini would be called" in found.baseline["why_not_saved"]
    assert any(each.startswith("as logged: cost is not") for each in found.warnings)
    between = pair(sums, "mid", "mini", moves)
    assert (between.cost, between.cost_pct, between.value, between.over_log) == (None,) * 4
    assert between.quality is not None
    assert between.new["cost_per_request_usd"] is None
    assert between.why_no_cost.startswith("mini: cost is not estimated: mini:m-mini would be")
    assert Thresholds(cost=5).broken(between) == [
        f"cost is held to a threshold: {between.why_no_cost}"
    ]


def test_an_arm_whose_bills_are_known_needs_no_predicted_price():
    batch = log(4000)
    full = always(batch, arm=1).figures["cost"]["doubly_robust"]["value"]
    for share in (0.5, 1.0):
        unpredicted = replace(batch, expected=without_a_price(batch, 1, share).expected)
        found = always(unpredicted, arm=1).figures["cost"]["doubly_robust"]["value"]
        assert found == pytest.approx(full, rel=0.15)


@pytest.mark.parametrize(("share", "known"), [(0.5, False), (0.005, True)])
def test_an_arm_may_be_without_a_price_for_a_few_calls_alone(share, known):
    found = always(without_a_price(log(4000), 1, share), arm=1)
    assert ("cost" in found.figures) is known


def test_a_free_arm_is_free():
    batch = log(4000)
    expected, cost = batch.expected.copy(), np.where(batch.chosen == 0, 0.0, batch.cost)
    expected[:, 0] = 0
    found = always(replace(batch, expected=expected, cost=cost), arm=0)
    assert found.figures["cost"]["doubly_robust"]["value"] == 0
