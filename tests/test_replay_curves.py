"""Each figure of a curve against a case that was worked out by hand."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from router.replay.evaluation.calibration import auc, calibrate, intervals
from router.replay.evaluation.curves import (
    Singles,
    area_under,
    cost_at,
    resamples,
    summarise,
    two_tiers,
    upper_hull,
)
from router.replay.evaluation.honest import chosen_on_calibration


def a(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array(values, dtype=np.float64)


SINGLES = Singles(cost=a(1, 3, 11), quality=a(0.5, 0.7, 0.8))


def test_the_hull_drops_what_a_random_mix_beats() -> None:
    xs, ys = upper_hull(a(1, 2, 3, 4, 5), a(0.1, 0.2, 0.5, 0.4, 0.6))
    assert xs.tolist() == [1, 3, 5]
    assert ys.tolist() == [0.1, 0.5, 0.6]


def test_of_points_of_equal_cost_only_the_best_is_a_corner() -> None:
    xs, ys = upper_hull(a(1, 1, 2, 2), a(0.2, 0.3, 0.1, 0.4))
    assert (xs.tolist(), ys.tolist()) == ([1, 2], [0.3, 0.4])


def test_a_mix_of_two_points_reaches_the_quality_between_them() -> None:
    curve = upper_hull(a(1, 3), a(0.5, 0.7))
    assert cost_at(curve, 0.6) == pytest.approx(2)
    assert cost_at(curve, 0.4) == 1
    assert cost_at(curve, 0.71) is None


def test_aiq_is_the_mean_quality_over_spends_from_cheapest_to_frontier() -> None:
    hull = upper_hull(SINGLES.cost, SINGLES.quality)
    # (0.6 × 2 + 0.75 × 8) / 10
    assert area_under(hull, hull, 1, 11) == pytest.approx(0.72)
    # One point at a spend of 6: the hull's mean to the left of it, its own quality to the right.
    point = upper_hull(a(6), a(0.9))
    left = 0.6 * 2 + (0.7 + 0.7375) / 2 * 3
    assert area_under(point, hull, 1, 11) == pytest.approx((left + 0.9 * 5) / 10)
    assert area_under(hull, hull, 11, 11) is None


def test_a_summary_compares_with_always_frontier_and_with_the_random_mix() -> None:
    found = summarise(a(1, 2, 6), a(0.5, 0.8, 0.84), SINGLES)
    # 90% of 0.8 is 0.72: on the way from (1, 0.5) to (2, 0.8).
    assert found.cost_pct_at_quality[0] == pytest.approx(100 * (1 + 0.22 / 0.3) / 11)
    assert found.cost_pct_at_quality[-1] == pytest.approx(100 * 2 / 11)
    assert found.peak_quality_ratio == pytest.approx(1.05)
    area = 0.65 * 1 + 0.82 * 4 + 0.84 * 5
    assert found.aiq == pytest.approx(area / 10)
    assert found.aiq_above_random_mix == pytest.approx(area / 10 - 0.72)


def test_a_quality_that_is_not_reached_has_no_cost() -> None:
    found = summarise(a(1, 2), a(0.5, 0.75), SINGLES)
    assert found.cost_pct_at_quality[:2] != (None, None)
    assert found.cost_pct_at_quality[1] is None


def test_without_costs_only_the_peak_is_known() -> None:
    found = summarise(a(np.nan, np.nan), a(0.5, 0.84), Singles(a(np.nan, np.nan), a(0.5, 0.8)))
    assert found.peak_quality_ratio == pytest.approx(1.05)
    assert (found.aiq, set(found.cost_pct_at_quality)) == (None, {None})


def test_apgr_and_cpt_by_exact_thresholds() -> None:
    weak, strong = a(0, 1, 0, 1), a(1, 1, 1, 0)  # lead 1, 0, 1, -1: 1 in all
    (found,) = two_tiers(a(4, 2, 3, 1), weak, strong)
    assert found is not None
    # PGR after 0..4 calls: 0, 1, 2, 2, 1.
    assert found.apgr == pytest.approx((0.5 + 1.5 + 2 + 1.5) / 4)
    assert found.cpt50 == pytest.approx(12.5)
    assert found.cpt80 == pytest.approx(20)


def test_equal_gains_are_called_in_random_order_whatever_the_order_of_rows() -> None:
    weak, strong = a(0, 0, 0, 0), a(1, 1, 0, 0)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        (found,) = two_tiers(np.zeros(4), weak[order], strong[order])
        assert found is not None
        assert (found.apgr, found.cpt50, found.cpt80) == pytest.approx((0.5, 50, 80))


def test_no_figures_of_two_tiers_where_strong_is_not_better() -> None:
    assert two_tiers(a(1, 2), a(1, 0), a(0, 1)) == [None]


def test_weights_of_a_resample_count_rows_that_often() -> None:
    weak, strong, gain = a(0, 1, 0, 1, 0), a(1, 1, 1, 0, 0), a(5, 2, 3, 1, 4)
    (weighted,) = two_tiers(gain, weak, strong, np.array([[2.0, 1, 0, 1, 1]]))
    rows = [0, 0, 1, 3, 4]
    (repeated,) = two_tiers(gain[rows], weak[rows], strong[rows])
    assert weighted == repeated


def test_resamples_draw_whole_groups_and_as_many_as_there_are() -> None:
    group = np.array(["a", "b", "a", "c"])
    drawn = resamples(group, 50, seed=0)
    assert drawn.shape == (50, 4)
    assert (drawn[:, 0] == drawn[:, 2]).all()
    assert (drawn[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert (drawn == resamples(group, 50, seed=0)).all()
    assert len(np.unique(drawn, axis=0)) > 5


def test_calibration_error_brier_and_auc() -> None:
    predicted = np.repeat([0.2, 0.8], 50)
    score = np.concatenate([np.tile(np.arange(10) < 4, 5), np.tile(np.arange(10) < 8, 5)])
    found = calibrate(predicted, score.astype(float))
    assert [part[1:] for part in found.bins] == [(0.4, 10)] * 5 + [(0.8, 10)] * 5
    assert found.ece == pytest.approx(0.5 * 0.2)
    assert found.brier == pytest.approx(0.2 * 0.64 + 0.3 * 0.04 + 0.4 * 0.04 + 0.1 * 0.64)
    # 60 good of 100: pairs won 40·30, ties 20·30 + 40·10.
    assert found.auc == pytest.approx((40 * 30 + 0.5 * (20 * 30 + 40 * 10)) / (60 * 40))


def test_a_perfectly_calibrated_prediction_has_no_error() -> None:
    score = np.tile([0.0, 1.0], 50)
    assert calibrate(np.full(100, 0.5), score).ece == pytest.approx(0)


def test_auc_needs_both_outcomes() -> None:
    assert auc(a(0.1, 0.2), np.array([True, True])) is None
    assert auc(a(0.1, 0.2), np.array([False, True])) == 1
    assert auc(a(0.2, 0.1), np.array([False, True])) == 0


def test_intervals_of_resampled_rows_equal_what_the_rows_themselves_give() -> None:
    rng = np.random.default_rng(1)
    predicted, score = rng.random(40), (rng.random(40) < 0.5).astype(float)
    weights = rng.integers(1, 3, size=(1, 40)).astype(float)
    rows = np.repeat(np.arange(40), weights[0].astype(int))
    found = intervals(predicted, score, weights)
    assert found["brier"] == pytest.approx([np.mean((predicted - score)[rows] ** 2)] * 2)
    assert found["auc"] == pytest.approx([auc(predicted[rows], score[rows] >= 0.5)] * 2)


def test_a_weight_is_chosen_on_one_half_and_judged_on_the_other() -> None:
    n = 40
    group = np.array([f"g{i}" for i in range(n)])
    frontier_quality, frontier_cost = np.ones(n), np.full(n, 10.0)
    quality = np.stack([np.ones(n), np.full(n, 0.95), np.full(n, 0.5)])
    cost = np.stack([np.full(n, 8.0), np.full(n, 4.0), np.full(n, 1.0)])
    found = chosen_on_calibration(cost, quality, frontier_cost, frontier_quality, group, splits=20)
    assert found["1.00"]["cost_pct"] == pytest.approx(80)
    assert found["0.95"]["cost_pct"] == pytest.approx(40)
    assert found["0.90"]["quality_ratio"] == pytest.approx(0.95)
    assert found["0.90"]["share_below"] == found["0.90"]["stayed_at_frontier"] == 0


def test_a_lucky_half_does_not_hide_that_the_level_is_missed_on_the_other() -> None:
    rng = np.random.default_rng(0)
    n = 60
    quality = np.stack([np.ones(n), (rng.random(n) < 0.9).astype(float)])
    cost = np.stack([np.full(n, 10.0), np.ones(n)])
    group = np.arange(n).astype(str)
    found = chosen_on_calibration(cost, quality, cost[0], quality[0], group, splits=100)
    level = found["0.90"]
    assert 0.1 < level["share_below"] < 0.9
    assert level["cost_pct_p5_p95"][0] < level["cost_pct"] < level["cost_pct_p5_p95"][1]


def test_what_nothing_can_be_a_share_of_is_no_figure() -> None:
    one, n = np.ones((1, 12)), np.arange(12).astype(str)
    chosen: Any = partial(chosen_on_calibration, one, one, splits=20)
    assert chosen(one[0], one[0], np.full(12, "alone")) == {}  # no other half
    assert chosen(one[0], 0 * one[0], n) == {}
    free = chosen(0 * one[0], one[0], n)["0.90"]
    assert (free["cost_pct"], free["cost_pct_p5_p95"], free["quality_ratio"]) == (None, None, 1.0)
    seldom = (np.arange(12) < 1).astype(float)  # of the frontier a good answer is in one half alone
    assert chosen(one[0], seldom, n)["0.90"]["quality_ratio"] == pytest.approx(6)
    found = summarise(np.ones(2), np.ones(2), Singles(np.ones(2), np.array([1.0, 0.0])))
    assert found.cost_pct_at_quality == (None,) * 5
    assert found.peak_quality_ratio is None


def test_where_no_point_reaches_the_level_the_frontier_is_called() -> None:
    n = 10
    half = np.full((1, n), 0.5)
    found = chosen_on_calibration(
        np.ones((1, n)), half, np.full(n, 4.0), np.ones(n), np.arange(n).astype(str), splits=5
    )
    assert found["0.90"]["stayed_at_frontier"] == 1
    assert (found["0.90"]["cost_pct"], found["0.90"]["quality_ratio"]) == (100, 1)
