"""Certificates: valid at the null's edge for any n, and as strong as the data allow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from router.decide.betting import betting_p_value, fixed_sequence
from router.decide.certify import Path, argmax_utility, certify, path
from router.errors import CalibrationError

DELTA = 0.05
Array = Any


def three_valued(rng: Any, repeats: int, n: int, harm: float, gain: float, loss: float) -> Array:
    """Draws of q_F - q_policy - loss where a share `harm` loses and a share `gain` wins."""
    u = rng.random((repeats, n))
    return np.where(u < harm, 1.0, np.where(u < harm + gain, -1.0, 0.0)) - loss


def ladder(rng: Any, n: int, edge: float = 0.1) -> tuple[Array, Array, Array]:
    """Two arms, cost 0 and 1, whose recorded scores follow the predicted qualities exactly."""
    regret = rng.uniform(-0.05, 0.4, n)
    strong = rng.uniform(0.5 + edge, 0.95, n)
    quality = np.column_stack([np.clip(strong - regret, 0.02, 0.98), strong])
    score = (rng.random((n, 2)) < quality).astype(float)
    return quality, np.tile([0.0, 1.0], (n, 1)), score


def loss_of(quality: Array, cost: Array, margin: float, weight: float) -> tuple[Array, Array]:
    """True quality of the policy and of the baseline, query by query."""
    arm = argmax_utility(quality, cost, 1, np.array([margin]), np.array([weight]))[0]
    return quality[np.arange(len(quality)), arm], quality[:, 1]


# ── the test ───────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("n", "harm", "gain", "loss"),
    [
        (30, 0.5, 0.0, 0.5),
        (200, 0.04, 0.0, 0.04),
        (500, 0.05, 0.03, 0.02),
        (1000, 0.11, 0.09, 0.02),
        (1000, 0.1, 0.1, 0.0),
    ],
)
def test_a_null_at_its_edge_is_rejected_at_most_as_often_as_delta_says(
    n: int, harm: float, gain: float, loss: float
) -> None:
    repeats = 4000
    x = three_valued(np.random.default_rng(1), repeats, n, harm, gain, loss)
    rejected = np.mean(betting_p_value(x, 1 - loss, DELTA) <= DELTA)
    assert rejected <= DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / repeats)


def test_a_null_of_continuous_skewed_draws_is_rejected_at_most_as_often_as_delta_says() -> None:
    repeats = 4000
    x = np.random.default_rng(2).beta(0.05, 0.95, (repeats, 300)) - 0.05
    rejected = np.mean(betting_p_value(x, 0.95, DELTA) <= DELTA)
    assert rejected <= DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / repeats)


def test_small_p_values_are_as_rare_as_they_say_at_every_level() -> None:
    x = three_valued(np.random.default_rng(3), 4000, 300, 0.06, 0.03, 0.03)
    p = betting_p_value(x, 0.97, DELTA)
    for level in (0.05, 0.1, 0.2, 0.5):
        assert np.mean(p <= level) <= level + 3 * math.sqrt(level * (1 - level) / len(p))


def test_an_alternative_two_standard_errors_inside_is_found_nearly_as_often_as_a_z_test_would() -> (
    None
):
    # Discordant in 8%: standard error sqrt(.08 / 2000); a z-test has power 0.64 there.
    shift = 2 * math.sqrt(0.08 / 2000)
    x = three_valued(np.random.default_rng(4), 1000, 2000, 0.05 - shift / 2, 0.03 + shift / 2, 0.02)
    assert np.mean(betting_p_value(x, 0.98, DELTA) <= DELTA) > 0.53


def test_with_no_loss_at_all_few_queries_suffice_but_not_fewer_than_possible() -> None:
    # No test of level 5% can reject "2% are lost" before (1 - .02)^n <= .05, that is n = 149.
    never = np.full((1, 149), -0.02)
    assert betting_p_value(never[:, :148], 0.98, DELTA) > DELTA
    assert betting_p_value(np.full((1, 230), -0.02), 0.98, DELTA) <= DELTA


@pytest.mark.parametrize("x", [np.zeros((3, 0)), np.zeros((3, 50)), np.full((3, 50), 0.98)])
def test_no_draws_zeros_and_pure_loss_are_no_evidence(x: Array) -> None:
    assert betting_p_value(x, 0.98, DELTA).tolist() == [1.0, 1.0, 1.0]


@given(
    hnp.arrays(np.float64, (4, 40), elements=st.floats(-1, 0.98)),
    st.integers(0, 5),
    st.floats(0.001, 0.5),
)
@settings(max_examples=50, deadline=None)
def test_p_values_are_within_0_and_1_repeatable_and_the_same_row_by_row(
    x: Array, seed: int, delta: float
) -> None:
    p = betting_p_value(x, 0.98, delta, seed)
    assert ((p > 0) & (p <= 1)).all()
    assert np.array_equal(p, betting_p_value(x, 0.98, delta, seed))
    assert np.allclose(p, [betting_p_value(row, 0.98, delta, seed) for row in x], rtol=1e-12)


def test_rows_stored_in_order_are_looked_at_in_the_seeds_order() -> None:
    # All gains first, then all losses: no evidence, but betted on in this order it would look so.
    stored = np.repeat([-0.5, 0.5], 200)
    for seed in range(4):
        assert betting_p_value(stored, 0.5, DELTA, seed) > DELTA
        undone = stored[np.argsort(np.random.default_rng(seed).permutation(400))]
        assert betting_p_value(undone, 0.5, DELTA, seed) <= DELTA


@pytest.mark.parametrize(
    ("x", "high", "delta"),
    [([[0.5]], 0.4, 0.05), ([[math.nan]], 1, 0.05), ([[0.1]], 0, 0.05), ([[0.1]], 1, 1.0)],
)
def test_draws_out_of_range_are_refused(x: Any, high: float, delta: float) -> None:
    with pytest.raises(ValueError, match=r"must be finite|needs high"):
        betting_p_value(np.array(x), high, delta)


# ── a sequence of tests ────────────────────────────────────────────────────────────────────────
def test_a_sequence_stops_at_its_first_failure_whatever_follows_and_asks_for_no_more() -> None:
    good, bad = np.full((1, 400), -0.1), np.full((1, 400), 0.1)

    def blocks() -> Any:
        yield np.concatenate([good, good])
        yield np.concatenate([good, bad, good])
        raise AssertionError("asked for more than needed")

    assert fixed_sequence(blocks(), 1.0, DELTA) == 2
    assert fixed_sequence([good, good], 1.0, DELTA) == 1
    assert fixed_sequence([bad, good], 1.0, DELTA) == -1
    assert fixed_sequence([], 1.0, DELTA) == -1


# ── the path ───────────────────────────────────────────────────────────────────────────────────
def test_the_path_first_lowers_the_margin_from_1_to_0_then_raises_the_weight() -> None:
    found = path()
    margins = found.margin[found.cost_weight == 0]
    assert margins[0] == 1
    assert margins[-1] == 0
    assert (np.diff(margins) < 0).all()
    weights = found.cost_weight[found.margin == 0]
    assert weights[0] == 0
    assert (np.diff(weights) > 0).all()
    assert len(found) == len(margins) + len(weights) - 1
    with pytest.raises(ValueError, match="ratio"):
        path(1.0)


@given(
    hnp.arrays(np.float64, (30, 3), elements=st.floats(0.01, 0.99)),
    hnp.arrays(np.float64, (30, 3), elements=st.floats(1e-6, 1)),
)
@settings(max_examples=30, deadline=None)
def test_the_path_starts_at_the_baseline_and_only_gets_cheaper_once_weights_rise(
    quality: Array, cost: Array
) -> None:
    found = path(1.2)
    arms = argmax_utility(quality, cost, 2, found.margin, found.cost_weight)
    assert (arms[0] == 2).all()
    margins = found.cost_weight == 0
    # While the margin falls, who has left the baseline stays off it.
    assert (np.diff((arms[margins] != 2).astype(int), axis=0) >= 0).all()
    spent = cost[np.arange(30), arms[found.margin == 0]]
    assert (np.diff(spent, axis=0) <= 1e-12).all()
    assert (cost[np.arange(30), arms[-1]] <= cost.min(axis=1) + 1e-6).all()


def test_of_equal_utilities_the_first_arm_wins() -> None:
    quality, cost = np.array([[0.5, 0.5, 0.5]]), np.zeros((1, 3))
    assert argmax_utility(quality, cost, 2, np.zeros(1), np.zeros(1)).tolist() == [[0]]


# ── the certificate ────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("promise", [{"epsilon": 0.02}, {"keep": 0.97}])
def test_the_promise_is_broken_no_more_often_than_the_confidence_allows(
    promise: dict[str, float],
) -> None:
    repeats, broken, moved = 100, 0, []
    rng = np.random.default_rng(6)
    traffic_quality, traffic_cost, _ = ladder(rng, 100_000)
    for _ in range(repeats):
        found = certify(*ladder(rng, 800), 1, policies=path(1.05), **promise)
        routed, best = loss_of(traffic_quality, traffic_cost, found.margin, found.cost_weight)
        if "keep" in promise:
            broken += routed.mean() < promise["keep"] * best.mean()
        else:
            broken += best.mean() - routed.mean() > promise["epsilon"]
        moved.append(found.share_moved)
    assert broken / repeats <= DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / repeats)
    assert np.mean(moved) > 0.1


def test_more_queries_certify_more_traffic_on_average() -> None:
    rng = np.random.default_rng(7)
    shares = [
        np.mean(
            [
                certify(*ladder(rng, n), 1, epsilon=0.02, policies=path(1.03)).share_moved
                for _ in range(8)
            ]
        )
        for n in (300, 1000, 3000)
    ]
    assert shares[0] < shares[1] < shares[2]


def test_a_looser_promise_or_less_confidence_never_moves_less_traffic() -> None:
    data = ladder(np.random.default_rng(8), 1500)
    keeps = [certify(*data, 1, keep=k).share_moved for k in (0.99, 0.97, 0.94)]
    assert keeps == sorted(keeps)
    assert keeps[-1] > keeps[0]
    sure, unsure = (certify(*data, 1, keep=0.97, confidence=c).share_moved for c in (0.99, 0.8))
    assert sure <= unsure


def test_the_certified_policy_is_the_one_that_the_figures_describe() -> None:
    quality, cost, score = ladder(np.random.default_rng(9), 1500)
    found = certify(quality, cost, score, 1, keep=0.97)
    arm = argmax_utility(quality, cost, 1, np.array([found.margin]), np.array([found.cost_weight]))
    routed = score[np.arange(1500), arm[0]]
    assert found.share_moved == np.mean(arm[0] == 0) > 0
    assert found.estimate == pytest.approx(routed.sum() / score[:, 1].sum())
    assert found.keep is not None
    assert found.keep <= found.bound < found.estimate
    assert found.cost_ratio == pytest.approx(1 - found.share_moved)
    assert found.reason.startswith("with 95% confidence, moving ")


def test_too_few_queries_stay_at_the_baseline_and_say_how_many_are_needed() -> None:
    data = ladder(np.random.default_rng(10), 100)
    found = certify(*data, 1, keep=0.98)
    assert (found.margin, found.cost_weight, found.share_moved) == (1.0, 0.0, 0.0)
    assert (found.estimate, found.bound, found.cost_ratio) == (1.0, 1.0, 1.0)
    assert found.queries_needed is not None
    assert found.queries_needed > 100
    assert "with 100 calibration queries nothing but always-baseline" in found.reason
    assert f"about {found.queries_needed:,} would be needed" in found.reason
    # The rough figure is about right: with so many queries the path has begun.
    more = certify(*ladder(np.random.default_rng(11), 2 * found.queries_needed), 1, keep=0.98)
    assert more.margin < 1


def test_where_every_cheaper_policy_loses_too_much_it_says_that_more_may_not_help() -> None:
    quality = np.tile([0.9, 0.5], (600, 1))  # the predictor is wrong about everything
    found = certify(
        quality, np.tile([0.0, 1.0], (600, 1)), np.tile([0.0, 1.0], (600, 1)), 1, keep=0.9
    )
    assert found.share_moved == 0
    assert found.queries_needed is None
    assert "more may not help" in found.reason


def test_an_equally_good_cheap_arm_takes_all_traffic() -> None:
    score = np.ones((600, 2))
    found = certify(np.full((600, 2), 0.8), np.tile([0.0, 1.0], (600, 1)), score, 1, keep=0.98)
    assert (found.share_moved, found.estimate, found.queries_needed) == (1.0, 1.0, None)
    assert found.cost_ratio == 0


def test_without_queries_and_with_a_baseline_that_never_answers_well_nothing_is_promised() -> None:
    none = np.zeros((0, 2))
    assert certify(none, none, none, 1, keep=0.98).margin == 1.0
    zeros = np.zeros((500, 2))
    found = certify(np.full((500, 2), 0.5), zeros, zeros, 1, keep=0.98)
    assert (found.share_moved, found.estimate) == (0.0, 1.0)


def test_the_same_queries_and_seed_give_the_same_certificate() -> None:
    data = ladder(np.random.default_rng(12), 700)
    assert certify(*data, 1, keep=0.97, seed=3) == certify(*data, 1, keep=0.97, seed=3)


def test_an_arm_that_no_tested_policy_chooses_may_be_unrecorded() -> None:
    quality, cost, score = ladder(np.random.default_rng(13), 700)
    wide = [np.column_stack([np.full(700, v), a]) for v, a in ((0.0, quality), (2.0, cost))]
    found = certify(*wide, np.column_stack([np.full(700, np.nan), score]), 2, keep=0.97)
    plain = certify(quality, cost, score, 1, keep=0.97)
    assert (found.margin, found.cost_weight) == (plain.margin, plain.cost_weight)


def _with(array: Array, value: float, column: int) -> Array:
    changed = array.copy()
    changed[[3, 8], column] = value
    return changed


@pytest.mark.parametrize(
    ("which", "value", "column", "message"),
    [
        (2, math.nan, 1, "no score is recorded for the baseline"),
        (2, 1.5, 0, "a score is not within"),
        (2, -0.1, 1, "a score is not within"),
        (0, math.nan, 0, "a predicted quality is not within"),
        (0, 1.1, 0, "a predicted quality is not within"),
        (1, math.inf, 0, "an expected cost is not finite"),
        (1, -1.0, 0, "an expected cost is not finite"),
    ],
)
def test_unusable_arrays_are_refused_with_their_rows(
    which: int, value: float, column: int, message: str
) -> None:
    data = list(ladder(np.random.default_rng(14), 400))
    data[which] = _with(data[which], value, column)
    with pytest.raises(CalibrationError, match=message) as caught:
        certify(*data, 1, keep=0.97)
    assert caught.value.rows == (3, 8)


def test_a_missing_score_of_a_chosen_arm_is_refused() -> None:
    quality, cost, score = ladder(np.random.default_rng(15), 700)
    chosen = int(np.argmax(quality[:, 0] - quality[:, 1]))
    score[chosen, 0] = math.nan
    with pytest.raises(CalibrationError, match="an arm that is chosen") as caught:
        certify(quality, cost, score, 1, keep=0.97)
    assert caught.value.rows == (chosen,)


def test_shapes_that_do_not_fit_and_an_unknown_baseline_are_refused() -> None:
    quality, cost, score = ladder(np.random.default_rng(16), 10)
    with pytest.raises(CalibrationError, match="one shape"):
        certify(quality, cost, score[:9], 1, keep=0.97)
    with pytest.raises(CalibrationError, match="no arm 2"):
        certify(quality, cost, score, 2, keep=0.97)


@pytest.mark.parametrize(
    "promise",
    [
        {},
        {"keep": 0.9, "epsilon": 0.1},
        {"keep": 1.0},
        {"epsilon": 0.0},
        {"keep": 0.9, "confidence": 1},
    ],
)
def test_a_promise_that_cannot_be_made_is_refused(promise: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"above 0 and below 1|either keep or epsilon"):
        certify(*ladder(np.random.default_rng(17), 10), 1, **promise)


def test_a_path_of_ones_own_is_followed() -> None:
    data = ladder(np.random.default_rng(18), 1500)
    own = Path(margin=np.array([1.0, 0.0]), cost_weight=np.array([0.0, 0.01]))
    found = certify(*data, 1, keep=0.95, policies=own)
    assert (found.margin, found.cost_weight) == (0.0, 0.01)
