"""Exploring: known chances, of safe arms alone, at a bounded cost, by draws that can be checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from router.decide import UNKNOWN, UNLIMITED, Bar, Exploration, Objective, Options, choose
from router.planning.exploring import Explorer, uniform
from router.policy.schema import Explore
from tests.conftest import HELLO, MakeRouter, ladder
from tests.provider import Provider, status

TIER = np.array([0, 1, 1, 2, 3])
WIDTH = len(TIER)
BY_WEIGHT = Objective(cost_weight=2.0)
objectives = st.sampled_from(
    [
        BY_WEIGHT,
        Objective(cost_weight=0.0),
        Objective(keep_quality=0.95),
        Objective(max_cost_per_request=10**9),
        Objective(cost_weight=1.0, margin=0.1, promise="certified"),
    ]
)


@st.composite
def many(draw: st.DrawFn) -> Options:
    shape = (draw(st.integers(1, 8)), WIDTH)
    expected = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 10**9)))
    unknown = draw(hnp.arrays(np.bool_, shape, elements=st.sampled_from([False] * 7 + [True])))
    return Options(
        quality=draw(hnp.arrays(np.float64, shape, elements=st.floats(0, 1, width=32))),
        expected=np.where(unknown, UNKNOWN, expected),
        upper=np.where(unknown, UNKNOWN, 2 * expected),
        barred=draw(
            hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 0, int(Bar.RULE)]))
        ),
        rung=TIER,
        baseline=3,
    )


explorations = st.builds(
    Exploration,
    rate=st.floats(0, 0.5),
    max_quality_loss=st.floats(0, 0.5),
    allowance=st.floats(0, 1e8),
    holdout=st.floats(0, 0.5),
)


def explored(options: Options, objective: Objective, exploration: Exploration) -> Any:
    room = np.full(len(options.quality), UNLIMITED)
    return choose(options, objective, room, priced=False, exploration=exploration)


@given(many(), objectives, explorations)
def test_chances_sum_to_one_and_only_allowed_arms_have_any(
    options: Options, objective: Objective, exploration: Exploration
) -> None:
    choices = explored(options, objective, exploration)
    sums = choices.propensity.sum(axis=1)
    assert np.allclose(sums, choices.best >= 0)
    assert (choices.propensity >= 0).all()
    assert not (choices.propensity * (choices.barred != Bar.FREE)).any()


@given(many(), objectives, explorations)
def test_exploring_adds_no_more_to_the_expected_cost_than_is_allowed(
    options: Options, objective: Objective, exploration: Exploration
) -> None:
    without_holdout = Exploration(
        exploration.rate, exploration.max_quality_loss, exploration.allowance
    )
    choices = explored(options, objective, without_holdout)
    for row in np.flatnonzero(choices.best >= 0):
        taken = choices.propensity[row] > 0
        if options.expected[row, choices.best[row]] == UNKNOWN:
            assert taken.sum() == 1
            continue
        dearer = np.maximum(options.expected[row] - options.expected[row, choices.best[row]], 0)
        assert choices.propensity[row] @ dearer <= exploration.allowance * (1 + 1e-9) + 1e-6


@given(many(), objectives, explorations)
def test_only_neighbours_that_are_nearly_as_good_are_explored(
    options: Options, objective: Objective, exploration: Exploration
) -> None:
    choices = explored(options, objective, exploration)
    for row in np.flatnonzero(choices.best >= 0):
        best = int(choices.best[row])
        free = np.flatnonzero(choices.barred[row] == Bar.FREE).tolist()
        for arm in np.flatnonzero(choices.propensity[row]).tolist():
            if arm == best or (exploration.holdout and TIER[arm] == options.baseline):
                continue
            assert abs(free.index(arm) - free.index(best)) == 1
            if objective.promise:
                assert TIER[arm] == options.baseline
            else:
                loss = options.quality[row, best] - options.quality[row, arm]
                assert loss <= exploration.max_quality_loss + 1e-12
            if objective.keep_quality is not None and objective.keeps(choices.utility[row, best]):
                assert objective.keeps(choices.utility[row, arm])


@given(many(), objectives, explorations)
def test_without_a_draw_the_best_arm_is_taken(
    options: Options, objective: Objective, exploration: Exploration
) -> None:
    room = np.full(len(options.quality), UNLIMITED)
    plain = choose(options, objective, room, priced=False)
    assert (explored(options, objective, exploration).arm == plain.arm).all()


def test_arms_are_drawn_as_often_as_their_chances_say() -> None:
    n = 200_000
    options = Options(
        quality=np.tile([0.85, 0.9, 0.9, 0.92, 0.95], (n, 1)),
        expected=np.tile(np.array([10, 40, 40, 100, 900]) * 1000, (n, 1)),
        upper=np.tile(np.array([10, 40, 40, 100, 900]) * 2000, (n, 1)),
        barred=np.zeros((n, WIDTH), np.uint8),
        rung=TIER,
        baseline=3,
    )
    draw = np.array([uniform(f"request-{at}") for at in range(n)])
    choices = explored(
        options, Objective(cost_weight=1000.0), Exploration(0.2, 0.1, 1e9, 0.01, draw)
    )
    found = np.bincount(choices.arm, minlength=WIDTH) / n
    chances = choices.propensity[0]
    assert chances[2] == 0  # stands by
    assert chances[0] == pytest.approx(0.99 * 0.2 * (1 / 10) / (1 / 10 + 1 / 100))
    error = np.sqrt(chances * (1 - chances) / n)
    assert (np.abs(found - chances) <= 4 * error).all()


def test_a_draw_depends_on_the_requests_id_alone() -> None:
    assert uniform("a") == uniform("a") != uniform("b")
    assert 0 <= uniform("\ud800") < 1


def test_nothing_dearer_is_explored_before_a_mean_cost_is_known() -> None:
    explorer = Explorer(Explore())
    first = explorer.draw("a")
    assert first is not None
    assert first.allowance == 0
    explorer.learn(1000)
    explorer.learn(3000)
    explorer.learn(None)
    second = explorer.draw("b")
    assert second is not None
    assert second.allowance == pytest.approx(0.01 * 2000)


def test_a_policy_without_explore_leaves_nothing_to_chance() -> None:
    assert Explorer(None).draw("a") is None


EAGER = {"rate": 0.5, "max_spend": 1, "max_quality_loss": 1}


def test_the_log_has_every_arms_chance_and_says_when_one_was_drawn(make_router: MakeRouter) -> None:
    router = make_router(
        explore={**EAGER, "rate": 0.3, "holdout": 0.2}, objective={"cost_weight": 1e5}
    )
    for _ in range(60):
        router.completion(messages=HELLO)
    attempts = {row.request_id: row for row in router.ledger.log().attempts()}
    drawn = 0
    for row in router.ledger.log().requests():
        chances = {view["arm"]: view["propensity"] for view in row.decision}
        assert sum(chances.values()) == pytest.approx(1)
        assert attempts[row.request_id].propensity == chances[row.chosen] > 0
        explored = chances[row.chosen] < max(chances.values())
        assert ("drawn to explore" in row.reason) == explored
        drawn += explored
    assert 0 < drawn < 60
    assert router.ledger.verify() == []
    report = router.report()
    assert report.explored == drawn
    assert report.explored_extra > 0


def test_nothing_is_refused_for_the_sake_of_exploring(
    make_router: MakeRouter, provider: Provider
) -> None:
    """A budget that blocks has room for some calls of nano, and for none of the frontier."""
    router = make_router(
        explore={**EAGER, "holdout": 0.5},
        objective={"cost_weight": 1e5},
        budgets=[{"name": "all", "limit": "0.002", "window": "total", "on_exceed": "block"}],
        limits={"max_output_tokens": 100},
    )
    for _ in range(20):
        router.completion(messages=HELLO)
    assert {row.status for row in router.ledger.log().requests()} == {"answered"}
    for row in router.ledger.log().requests():
        chances = {view["tier"]: view["propensity"] for view in row.decision}
        assert chances["frontier"] == 0
        assert sum(chances.values()) == pytest.approx(1)


def test_equal_requests_have_equal_chances_where_a_cap_is_lowered_too(
    make_router: MakeRouter, provider: Provider
) -> None:
    """The best arm fits the budget with a lower cap alone, its neighbour in full."""
    found = ladder(provider.url)["tiers"]
    for (deployment,) in found.values():
        deployment["capabilities"] |= {"context_window": 100_000, "max_output_tokens": 50_000}
    router = make_router(
        tiers=found,
        explore=EAGER,
        objective={"cost_weight": 1},
        budgets=[{"name": "each", "limit": "1", "scope": "request", "on_exceed": "block"}],
        limits={"max_output_tokens": 20_000},
    )
    for _ in range(20):
        router.completion(messages=HELLO)
    logged = list(router.ledger.log().requests())
    assert len({tuple(view["propensity"] for view in row.decision) for row in logged}) == 1
    for row in logged:
        chances = {view["arm"]: view["propensity"] for view in row.decision}
        assert chances[row.chosen] > 0


def test_a_fallback_after_a_failure_is_not_drawn(
    make_router: MakeRouter, provider: Provider
) -> None:
    # The holdout keeps its chance on a second deployment only in a decision that may draw.
    router = make_router(
        explore={**EAGER, "holdout": 0.5}, objective={"cost_weight": 1e5}, retry={"attempts": 1}
    )
    provider.script("t-nano", *[status(503)] * 40)
    for _ in range(20):
        router.completion(messages=HELLO)
    fallbacks = [row for row in router.ledger.log().attempts() if row.number == 2]
    assert fallbacks
    assert {(row.tier, row.propensity) for row in fallbacks} == {("mini", 1.0)}


def test_explain_states_the_chances_and_shows_the_best_arm(make_router: MakeRouter) -> None:
    router = make_router(explore={**EAGER, "holdout": 0.2}, objective={"cost_weight": 1e5})
    decision = router.explain(HELLO)
    assert decision.arm.tier == "nano"
    assert [round(view.propensity, 6) for view in decision.arms] == [0.8, 0, 0, 0.2]


def test_a_policy_that_explores_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing is explored"):
        Explore(rate=0, holdout=0)
