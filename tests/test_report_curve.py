"""The predicted curve of a report: other cost weights, each tier alone, and the log's own point."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from router.decide import Bar
from router.decide.explain import BAR_TEXT, able
from router.replay.report.curve import Sample
from router.types import TIERS
from tests.report_kit import EXPECTED, arm, views


def test_the_curve_holds_the_log_s_own_point_and_each_tier_s() -> None:
    sample = Sample()
    for number in range(200):
        tier = TIERS[number % 4]
        sample.add(views(tier, (number % 10) / 10), arm(tier))
    curve = sample.curve()
    assert curve is not None
    quality, cost = [p.quality for p in curve.points], [p.cost for p in curve.points]
    assert cost == sorted(cost, reverse=True)
    assert quality == sorted(quality, reverse=True)
    assert (curve.points[0].quality, curve.points[-1].cost) == (
        pytest.approx(curve.always["frontier"].quality),
        pytest.approx(curve.always["nano"].cost),
    )
    hard = np.arange(200) % 10 / 10
    chosen = np.array([EXPECTED[TIERS[number % 4]] for number in range(200)])
    assert curve.operating.cost == pytest.approx(float((chosen * (1 + hard)).mean()), rel=1e-6)
    # For what the log's own choices cost, the sweep is at least as good: it chooses by need.
    best = max(p.quality for p in curve.points if p.cost <= curve.operating.cost * 1.02)
    assert best >= curve.operating.quality


def test_an_arm_that_could_not_answer_is_not_on_the_curve() -> None:
    sample, rows = Sample(), [dict(view) for view in views("mini")]
    rows[3]["rejected"] = BAR_TEXT[1]  # the frontier cannot read the images
    sample.add(tuple(rows), arm("mini"))
    curve = sample.curve()
    assert curve is not None
    assert curve.points[0].cost == EXPECTED["mid"]
    assert curve.always["frontier"].cost == EXPECTED["mid"]  # the nearest that can


@pytest.mark.parametrize("bar", sorted(BAR_TEXT))
def test_money_and_what_a_conversation_prefers_make_no_arm_unable(bar: int) -> None:
    passing = (Bar.OVER_REQUEST_CEILING, Bar.OVER_BUDGET, Bar.STANDBY, Bar.HELD_ABOVE)
    assert able(BAR_TEXT[bar].format(rule="x", upper="$1", why="y")) == (bar in passing)
    assert able("P(good) -0.1, but saves $0.01")
    assert able(None)


def test_a_sample_is_of_its_size_seeded_and_uniform() -> None:
    def costs(seed: int) -> list[int]:
        sample = Sample(50, seed)
        for number in range(5000):
            rows = [{**view, "expected": number} for view in views("nano")]
            sample.add(tuple(rows), arm("nano"))
        curve = sample.curve()
        assert curve is not None
        assert (curve.requests, curve.answered) == (50, 5000)
        return [round(curve.operating.cost)]

    assert costs(1) == costs(1)
    assert costs(1) != costs(2)
    means = [costs(seed)[0] for seed in range(12)]
    assert abs(float(np.mean(means)) - 2500) < 4 * 5000 / math.sqrt(12 * 50 * 12)


@pytest.mark.parametrize(
    "broken",
    [{"quality": None}, {"quality": math.nan}, {"expected": None}, {"expected": -1}, {"arm": "?"},
     {"tier": "other"}, {"quality": "0.5"}],
)  # fmt: skip
def test_a_row_without_a_usable_prediction_is_left_out_and_counted(broken: dict[str, Any]) -> None:
    sample = Sample()
    sample.add(views("mini", **broken), arm("mini"))
    sample.add((), "")
    sample.add(views("nano"), arm("nano"))
    curve = sample.curve()
    assert curve is not None
    assert (curve.requests, curve.left_out, curve.answered) == (1, 2, 3)
