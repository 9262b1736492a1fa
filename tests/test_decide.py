"""Deciding: pure, the same for one request and for many, and always within what is allowed."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from router.decide import UNKNOWN, UNLIMITED, Bar, Objective, Options, choose, decision
from router.types import Arm, Quote

TIER = np.array([0, 1, 1, 2, 3])
ARMS = [
    Arm("nano", 0, "a"),
    Arm("mini", 0, "b"),
    Arm("mini", 1, "c"),
    Arm("mid", 0, "d"),
    Arm("frontier", 0, "e"),
]
WIDTH = len(ARMS)


def options(
    quality: Any, expected: Any, upper: Any = None, barred: Any = None, tier: Any = TIER
) -> Options:
    quality = np.atleast_2d(np.asarray(quality, dtype=float))
    expected = np.atleast_2d(np.asarray(expected, dtype=np.int64))
    return Options(
        quality=quality,
        expected=expected,
        upper=expected * 10 if upper is None else np.atleast_2d(np.asarray(upper)),
        barred=np.zeros(quality.shape, np.uint8) if barred is None else np.atleast_2d(barred),
        rung=np.asarray(tier),
        baseline=3,
    )


MILLI = 1_000_000  # nano-USD in a tenth of a cent
LADDER = options([0.6, 0.7, 0.9, 0.8, 0.9], [MILLI, 2 * MILLI, 3 * MILLI, 10 * MILLI, 40 * MILLI])
NO_LIMIT = np.array([UNLIMITED])


def chosen(choice_options: Options, objective: Objective, room: int = UNLIMITED) -> int:
    return int(choose(choice_options, objective, np.array([room]), priced=True).arm[0])


@pytest.mark.parametrize(
    ("weight", "arm"),
    [(0.0, 4), (3.0, 4), (5.0, 3), (20.0, 1), (1000.0, 0)],
)
def test_a_larger_cost_weight_never_chooses_a_dearer_arm(weight: float, arm: int) -> None:
    assert chosen(LADDER, Objective(cost_weight=weight)) == arm


def test_keep_quality_takes_the_cheapest_arm_that_is_good_enough() -> None:
    assert chosen(LADDER, Objective(keep_quality=0.75)) == 1
    assert chosen(LADDER, Objective(keep_quality=0.88)) == 3
    assert chosen(LADDER, Objective(keep_quality=1.0)) == 4


def test_a_request_ceiling_takes_the_best_arm_below_it() -> None:
    assert chosen(LADDER, Objective(max_cost_per_request=100 * MILLI)) == 3
    assert chosen(LADDER, Objective(max_cost_per_request=20 * MILLI)) == 1
    assert chosen(LADDER, Objective(max_cost_per_request=1)) == -1


def test_a_tier_is_led_by_its_first_free_deployment() -> None:
    choices = choose(LADDER, Objective(cost_weight=20.0), NO_LIMIT, priced=True)
    assert choices.barred[0, 2] == Bar.STANDBY
    barred = np.array([[0, Bar.FAILED, 0, 0, 0]], np.uint8)
    again = options(LADDER.quality, LADDER.expected, barred=barred)
    assert chosen(again, Objective(cost_weight=20.0)) == 2


def test_a_budget_downgrades_to_the_best_arm_that_fits_and_says_so() -> None:
    choices = choose(LADDER, Objective(cost_weight=0.0), np.array([150 * MILLI]), priced=True)
    assert choices.arm[0] == 3
    assert choices.downgraded[0]
    free = choose(LADDER, Objective(cost_weight=0.0), NO_LIMIT, priced=True)
    assert not free.downgraded[0]


def test_an_unknown_price_is_barred_under_a_budget_and_dear_without() -> None:
    unknown = options(
        LADDER.quality,
        [UNKNOWN, 2 * MILLI, 3 * MILLI, 10 * MILLI, 40 * MILLI],
        [UNKNOWN, 20 * MILLI, 30 * MILLI, 100 * MILLI, 400 * MILLI],
    )
    held = choose(unknown, Objective(cost_weight=1000.0), NO_LIMIT, priced=True)
    assert held.barred[0, 0] == Bar.UNPRICED
    free = choose(unknown, Objective(cost_weight=1000.0), NO_LIMIT, priced=False)
    assert free.arm[0] == 1  # as dear as the dearest, never as nothing


def test_no_free_arm_is_minus_one_with_no_propensity() -> None:
    barred = np.full((1, WIDTH), Bar.NO_VISION, np.uint8)
    none = choose(
        options(LADDER.quality, LADDER.expected, barred=barred),
        Objective(cost_weight=1.0),
        NO_LIMIT,
        priced=True,
    )
    assert none.arm[0] == -1
    assert none.propensity.sum() == 0


@pytest.mark.parametrize(
    "objective",
    [
        Objective(cost_weight=20.0),
        Objective(keep_quality=0.9),
        Objective(max_cost_per_request=200 * MILLI),
    ],
)
def test_every_arm_but_the_chosen_has_a_reason(objective: Objective) -> None:
    choices = choose(LADDER, objective, np.array([150 * MILLI]), priced=True)
    quotes = [Quote(int(cost), int(cost) * 10, 100) for cost in LADDER.expected[0]]
    made = decision(ARMS, quotes, LADDER, choices, objective, rule="r", baseline=7)
    assert made.view.rejected is None
    assert all(view.rejected for view in made.arms if view is not made.view)
    assert made.arm.tier in made.reason
    assert "'r'" in made.reason
    assert made.baseline == 7
    assert sum(view.propensity for view in made.arms) == 1.0


def test_a_dearer_model_that_answers_in_a_third_of_the_tokens_costs_less_a_good_answer() -> None:
    """At twice the price a token and 0.9 for 0.8 of being good."""
    options = Options(
        quality=np.array([[0.8, 0.9]]), expected=np.array([[300, 200]]),
        upper=np.array([[900, 900]]), barred=np.zeros((1, 2), np.uint8),
        rung=np.array([0, 1]), baseline=1,
    )  # fmt: skip
    choices = choose(options, Objective(cost_weight=20.0), np.array([10**9]), priced=True)
    quotes = [Quote(300, 900, 100), Quote(200, 900, 100)]
    made = decision(ARMS[:2], quotes, options, choices, Objective(cost_weight=20.0),
                    rule=None, baseline=7)  # fmt: skip
    assert made.arm == ARMS[1]
    assert [view.per_good_answer for view in made.arms] == [375, 222]
    assert "$0.00000022 a good answer" in made.reason
    unknown = replace(made.view, quote=Quote(None, None, 100))
    assert unknown.per_good_answer is None
    assert replace(made.view, quality=0.0).per_good_answer is None


objectives = st.one_of(
    st.builds(Objective, cost_weight=st.floats(0, 1e6)),
    st.builds(Objective, keep_quality=st.floats(0.01, 1)),
    st.builds(Objective, max_cost_per_request=st.integers(0, 10**10)),
)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Options, Any]:
    rows = draw(st.integers(1, 6))
    shape = (rows, WIDTH)
    expected = draw(hnp.arrays(np.int64, shape, elements=st.integers(-1, 10**9)))
    extra = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 10**9)))
    made = Options(
        quality=draw(hnp.arrays(float, shape, elements=st.floats(0.01, 0.99))),
        expected=expected,
        upper=np.where(expected == UNKNOWN, UNKNOWN, expected + extra),
        barred=draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 0, 1, 7]))),
        rung=TIER,
        baseline=3,
    )
    return made, draw(hnp.arrays(np.int64, rows, elements=st.integers(0, 3 * 10**9)))


@given(problems(), objectives)
def test_the_choice_is_always_free_priced_and_within_the_room(
    problem: tuple[Options, Any], objective: Objective
) -> None:
    made, room = problem
    choices = choose(made, objective, room, priced=True)
    for row, arm in enumerate(choices.arm):
        if arm < 0:
            assert (choices.barred[row] != Bar.FREE).all()
            continue
        assert made.barred[row, arm] == Bar.FREE
        assert 0 <= made.upper[row, arm] <= room[row]
        assert choices.propensity[row, arm] == 1.0
        if objective.max_cost_per_request is not None:
            assert made.upper[row, arm] <= objective.max_cost_per_request


@given(problems(), objectives)
def test_many_requests_are_decided_as_each_alone(
    problem: tuple[Options, Any], objective: Objective
) -> None:
    made, room = problem
    together = choose(made, objective, room, priced=False)
    for row in range(len(room)):
        alone = Options(
            made.quality[[row]],
            made.expected[[row]],
            made.upper[[row]],
            made.barred[[row]],
            made.rung,
            made.baseline,
        )
        single = choose(alone, objective, room[[row]], priced=False)
        assert single.arm[0] == together.arm[row]
        assert (single.barred[0] == together.barred[row]).all()


@given(problems(), st.floats(0, 100), st.floats(0, 100))
def test_raising_the_cost_weight_never_raises_the_expected_cost(
    problem: tuple[Options, Any], one: float, other: float
) -> None:
    made, _ = problem
    known = Options(
        made.quality,
        np.abs(made.expected),
        np.abs(made.expected),
        np.zeros_like(made.barred),
        np.arange(WIDTH),
        made.baseline,
    )
    room = np.full(len(made.quality), UNLIMITED)
    low, high = sorted((one, other))
    cheap = choose(known, Objective(cost_weight=high), room, priced=True).arm
    dear = choose(known, Objective(cost_weight=low), room, priced=True).arm
    rows = np.arange(len(cheap))
    assert (known.expected[rows, cheap] <= known.expected[rows, dear]).all()


# ── what the arrays do, said once more for one row in plain words ──────────────────────────────
def plainly(made: Options, objective: Objective, left: int, row: int, *, priced: bool) -> int:
    """The arm that the rules of `choose` name for one request; -1 for none."""
    arms = [at for at in range(WIDTH) if made.barred[row, at] == Bar.FREE]
    upper, quality = made.upper[row], made.quality[row]
    if priced:
        arms = [at for at in arms if upper[at] != UNKNOWN]
    ceiling = objective.max_cost_per_request
    if ceiling is not None:
        arms = [at for at in arms if upper[at] != UNKNOWN and upper[at] <= ceiling]
    usd = {at: made.expected[row, at] / 1e9 for at in arms if made.expected[row, at] != UNKNOWN}
    usd = {at: usd.get(at, max(usd.values(), default=0.0)) for at in arms}

    def utility(at: int) -> tuple[float, float]:
        if objective.cost_weight is not None:
            favour = objective.margin if made.rung[at] == made.baseline else 0.0
            return 0.0, quality[at] - objective.cost_weight * usd[at] + favour
        if ceiling is not None:
            return 0.0, quality[at]
        assert objective.keep_quality is not None
        of_baseline = [quality[other] for other in arms if made.rung[other] == made.baseline]
        promised = objective.keep_quality * max(of_baseline or [quality[other] for other in arms])
        return (1.0, -usd[at]) if quality[at] >= promised else (0.0, quality[at] - 1e9)

    worth = {at: utility(at) for at in arms}
    arms = [at for at in arms if upper[at] <= left]
    leaders = [at for at in arms if not any(made.rung[at] == made.rung[b] for b in arms if b < at)]
    return max(leaders, key=lambda at: (worth[at], -at), default=-1)


with_margin = st.builds(Objective, cost_weight=st.floats(0, 1e3), margin=st.floats(0, 1))


@given(problems(), st.one_of(objectives, with_margin), st.booleans())
def test_the_arrays_choose_what_the_rules_say_for_each_request(
    problem: tuple[Options, Any], objective: Objective, priced: bool
) -> None:
    made, room = problem
    choices = choose(made, objective, room, priced=priced)
    for row, left in enumerate(room.tolist()):
        assert choices.arm[row] == plainly(made, objective, left, row, priced=priced)


# ── the margin of the baseline ─────────────────────────────────────────────────────────────────
@given(problems())
def test_a_margin_of_one_takes_the_baseline_wherever_it_is_free(
    problem: tuple[Options, Any],
) -> None:
    made, room = problem
    always = choose(made, Objective(cost_weight=0.0, margin=1.0), room, priced=True)
    in_reach = (made.barred == Bar.FREE) & (made.upper != UNKNOWN) & (made.upper <= room[:, None])
    free = in_reach[:, made.rung == made.baseline].any(axis=1)
    assert (made.rung[always.arm[free]] == made.baseline).all()


@given(problems(), st.floats(0, 1e6), st.floats(0.0, 1.0))
def test_a_margin_moves_requests_to_the_baseline_and_nowhere_else(
    problem: tuple[Options, Any], weight: float, margin: float
) -> None:
    made, room = problem
    plain = choose(made, Objective(cost_weight=weight), room, priced=True)
    favoured = choose(made, Objective(cost_weight=weight, margin=margin), room, priced=True)
    moved = plain.arm != favoured.arm
    assert (made.rung[favoured.arm[moved]] == made.baseline).all()
    if margin == 0.0:
        assert not moved.any()
        assert (plain.utility == favoured.utility).all()


def test_another_tier_must_be_better_than_the_baseline_by_more_than_the_margin() -> None:
    made = options([0.5, 0.95, 0.5, 0.5, 0.9], [MILLI] * 5)
    assert chosen(made, Objective(cost_weight=0.0)) == 1
    assert chosen(made, Objective(cost_weight=0.0, margin=0.04)) == 1
    assert chosen(made, Objective(cost_weight=0.0, margin=0.06)) == 4


def test_a_choice_under_a_margin_says_so() -> None:
    objective = Objective(cost_weight=0.0, margin=0.25)
    choices = choose(LADDER, objective, NO_LIMIT, priced=True)
    quotes = [Quote(int(cost), int(cost) * 10, 100) for cost in LADDER.expected[0]]
    made = decision(ARMS, quotes, LADDER, choices, objective)
    assert "preferred by 0.25" in made.reason
    assert "preferred by 0.25" in str(made.arms[3].rejected)


# ── reasons are made when they are read ────────────────────────────────────────────────────────
def test_a_decision_explains_itself_once_and_survives_being_copied() -> None:
    objective = Objective(cost_weight=20.0)
    choices = choose(LADDER, objective, NO_LIMIT, priced=True)
    quotes = [Quote(int(cost), int(cost) * 10, 100) for cost in LADDER.expected[0]]
    made = decision(ARMS, quotes, LADDER, choices, objective, failure="RateLimited")
    unread = deepcopy(made)
    assert made.arms is made.arms
    assert made.view is made.arms[made.chosen]
    assert made.view.arm is made.arm
    assert made.reason.endswith("fallback after RateLimited")
    assert (unread.reason, unread.arms) == (made.reason, made.arms)
    assert unread == made
