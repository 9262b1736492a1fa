"""Labels that a judge drew weigh by the inverse of their rate; what is assumed else is said."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.judging.sample import draw
from router.ledger import open_log
from router.replay.off_policy.batch import LogBatch
from router.replay.off_policy.measure import Question, measure
from router.replay.off_policy.replay import Replay, conclude
from router.replay.off_policy.target import Named
from tests.judge_kit import Court, Panel
from tests.judge_kit import court as court  # a fixture
from tests.judge_kit import panel as panel  # a fixture
from tests.off_policy_kit import SKILL, estimated, log, truth

MINI = 1
OFTEN, SELDOM = 0.6, 0.06


def mini(batch: LogBatch) -> Any:
    return np.full(len(batch), MINI)


def judged(seed: int, n: int = 4000, *, callers: bool = False) -> LogBatch:
    """A simulated log whose hard requests are dear, and whose judge draws dear answers more often.

    The predictions know the arms' mean skill alone, so no model makes good for a wrong weight.
    `callers`: bad answers are complained about as well, which no rate tells of.
    """
    rng = np.random.default_rng(seed + 10**6)
    made = log(n, seed)
    dearer = np.exp(8 * (SKILL[MINI] - made.quality[:, [MINI]]))
    cost = made.cost * dearer[:, 0]
    rate = np.where(dearer[:, 0] > 1, OFTEN, SELDOM)
    drawn = rng.random(n) < rate
    complained = callers & (rng.random(n) < np.where(made.label < 0.5, 0.3, 0.02))
    return replace(
        made,
        quality=np.broadcast_to(SKILL, (n, 3)).copy(),
        expected=np.rint(made.expected * dearer).astype(np.int64),
        cost=cost,
        label=np.where(drawn | complained, made.label, np.nan),
        label_rate=np.where(drawn & ~complained, rate, np.nan),
    )


def held(batches: Any, estimator: str, true: float) -> float:
    found = [
        estimated(each, mini(each)).by_outcome["quality"][estimator].estimate() for each in batches
    ]
    return float(np.mean([one.low <= true <= one.high for one in found]))


@pytest.mark.parametrize("callers", [False, True])
def test_intervals_hold_where_a_judge_draws_dear_answers_more_often(callers: bool) -> None:
    true, draws = truth(mini)["quality"], 200
    batches = [judged(seed, callers=callers) for seed in range(draws)]
    for estimator in ("doubly_robust", "snips", "ips"):
        # 95%, less four standard errors of a share over 200 logs.
        least = 0.95 - 4 * math.sqrt(0.95 * 0.05 / draws)
        assert held(batches, estimator, true) >= least, estimator
    unweighted = [replace(each, label_rate=None) for each in batches]
    assert held(unweighted, "doubly_robust", true) < 0.5


@given(st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_weighted_labels_are_what_the_formula_says(seed: int) -> None:
    batch = judged(seed, 800, callers=True)
    assert batch.label_rate is not None
    mine = batch.chosen == MINI
    told = mine & np.isfinite(batch.label) & np.isnan(batch.label_rate)
    drawn = mine & np.isfinite(batch.label_rate)
    assert drawn.sum() >= 30
    scale = (mine.sum() - told.sum()) / (1 / batch.label_rate[drawn]).sum()
    weight = 1 / batch.propensity[:, MINI]
    total = (weight[told] * batch.label[told]).sum()
    total += scale * (weight[drawn] * batch.label[drawn] / batch.label_rate[drawn]).sum()
    found = estimated(batch, mini(batch)).by_outcome["quality"]["ips"].values[0]
    assert found == pytest.approx(total / len(batch))


@given(st.integers(0, 2**32), st.floats(0.05, 1))
@settings(max_examples=10, deadline=None)
def test_one_rate_for_all_labels_changes_nothing(seed: int, rate: float) -> None:
    batch = log(800, seed)
    drawn = np.random.default_rng(seed).random(800) < rate
    batch = replace(batch, label=np.where(drawn, batch.label, np.nan))
    same = replace(batch, label_rate=np.where(drawn, rate, np.nan))
    one, other = (estimated(each, mini(each)).by_outcome["quality"] for each in (batch, same))
    for estimator in one:
        assert one[estimator].values == pytest.approx(other[estimator].values)


def test_a_few_drawn_labels_do_not_stand_for_all_that_callers_left_out() -> None:
    batch = judged(3, callers=True)
    assert batch.label_rate is not None
    few = np.flatnonzero(np.isfinite(batch.label_rate) & (batch.chosen == MINI))[:29]
    rate = np.full(len(batch), np.nan)
    rate[few] = batch.label_rate[few]
    found = estimated(replace(batch, label_rate=rate), mini(batch)).by_outcome["quality"]
    plain = estimated(replace(batch, label_rate=None), mini(batch)).by_outcome["quality"]
    assert found["doubly_robust"].values[0] == plain["doubly_robust"].values[0]


def ask(*batches: LogBatch) -> Replay:
    return conclude(measure(batches, Question((Named("mini", mini),))), "mid")


def test_labels_weigh_the_same_however_the_log_is_cut_into_batches() -> None:
    """Callers labelled the first half, a judge drew from the second: each half is a batch."""
    batch, n = log(2000), 2000
    early = np.arange(n) < n // 2
    drawn = ~early & (np.random.default_rng(0).random(n) < 0.5)
    label = np.where(early, 1.0, np.where(drawn, 0.0, np.nan))
    whole = replace(batch, label=label, label_rate=np.where(drawn, 0.5, np.nan))
    parts = [whole.take(np.flatnonzero(half)) for half in (early, ~early)]
    one, two = ask(whole), ask(*parts)
    assert one.log["quality"]["value"] == pytest.approx(0.5)
    assert two.log["quality"] == pytest.approx(one.log["quality"])
    mine, same = (found.policies[0].figures["quality"] for found in (one, two))
    for estimator, figure in mine.items():
        assert same[estimator] == pytest.approx(figure), estimator


def test_what_is_taken_for_granted_of_answers_without_a_label_is_said() -> None:
    batch = judged(0)
    assert not any("label" in each for each in ask(batch).warnings)
    unlabelled = f"{np.isnan(batch.label).sum():,} answers have no label, and too few"
    assert any(unlabelled in each for each in ask(replace(batch, label_rate=None)).warnings)
    assert batch.label_rate is not None
    few = np.where(np.arange(len(batch)) < 50, batch.label_rate, np.nan)  # in each arm below 30
    assert any(unlabelled in each for each in ask(replace(batch, label_rate=few)).warnings)


def test_a_draw_that_was_cut_short_is_noticed() -> None:
    batch = judged(0)
    late = np.arange(len(batch)) > len(batch) // 2
    short = replace(
        batch,
        label=np.where(late, np.nan, batch.label),
        label_rate=np.where(late, np.nan, batch.label_rate),
    )
    assert any("a draw was cut short" in each for each in ask(short).warnings)


def rates(court: Court) -> dict[str, float | None]:
    """The rate of the latest label of each request."""
    reader = open_log(court.store)
    try:
        return {each.request_id: each.rate for each in reader.labels()}
    finally:
        reader.close()


def test_a_wider_draw_takes_in_what_a_narrower_one_had_judged(court: Court) -> None:
    names = court.serve(12)
    assert court.judge(rate=0.4, seed=5).judged >= 1
    assert set(rates(court).values()) == {0.4}
    court.judge(rate=0.8, seed=5)
    assert rates(court) == {name: 0.8 for name in names if draw(name, 5) < 0.8}
    court.judge(rate=0.4, seed=5)
    assert set(rates(court).values()) == {0.8}


def test_a_run_that_is_cut_short_says_how_far_it_came(court: Court, panel: Panel) -> None:
    names = sorted(court.serve(6), key=lambda name: draw(name, 0))
    court.judge(count=1)
    panel.tokens = 400
    report = court.judge(ceiling=500_000_000)
    assert report.stopped is not None
    judged_now = report.judged + 1
    assert 1 < judged_now < 6
    reached = draw(names[judged_now], 0)
    found = rates(court)
    assert set(found) == set(names[:judged_now])
    assert set(found.values()) == {reached}
    court.judge()
    assert set(rates(court).values()) == {1.0}
