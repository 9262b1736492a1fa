"""What a replay says of the budgets that it leaves out: whether they would have been used up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from router.money import NANO_PER_USD
from router.replay.off_policy.budgets import about_budgets
from router.replay.off_policy.facts import Facts
from router.types import Budget
from tests.off_policy_kit import log

DAY = 86_400
FIRST = 20_605 * DAY  # 2026-06-01, a Monday
USD = NANO_PER_USD
COST = {"low": 0.009, "value": 0.01, "high": 0.011}
PER_DAY = (50, 150, 95, 105)


def facts(**changes: Any) -> Facts:
    """Requests on each of four days."""
    made = log(sum(PER_DAY))
    days = np.repeat(np.arange(len(PER_DAY)), PER_DAY)
    found = Facts()
    found.add(replace(made, time=FIRST + days * float(DAY) + 3600.0, **changes))
    return found


def about(*budgets: Budget, of: Facts | None = None, cost: Any = COST) -> list[str]:
    return about_budgets("mine", budgets, cost, of or facts())


def test_a_budget_that_no_day_comes_up_to_would_not_have_mattered() -> None:
    [said] = about(Budget("daily", 2 * USD, window="day"))
    assert "'daily', which is left out, would have been used up in none of 4 days" in said


def test_a_budget_that_days_go_beyond_is_counted_at_both_ends_of_the_cost() -> None:
    [said] = about(Budget("daily", USD, window="day"))
    assert "used up in 2 of 4 days (1 to 3)" in said
    assert "as if there were no limit" in said


def test_weeks_months_and_the_whole_period_add_up_their_days() -> None:
    budgets = [Budget("b", 4 * USD - 1, window=w) for w in ("week", "month", "total")]  # type: ignore[arg-type]
    assert [said.partition("used up in ")[2].partition(" at")[0] for said in about(*budgets)] == [
        "1 of 1 week (0 to 1)",
        "1 of 1 month (0 to 1)",
        "1 of 1 period (0 to 1)",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"scope": "user"},
        {"meter": "tokens"},
        {"zone": "Asia/Kolkata"},
        {"window": "hour"},
        {"purpose": "judge"},
        {"when": (("tag", "a"),)},
        {"limit": None},
    ],
)
def test_of_what_the_log_cannot_add_up_nothing_is_said(changes: dict[str, Any]) -> None:
    daily = Budget("daily", USD, window="day")
    assert about(replace(daily, **changes)) == []
    assert len(about(daily)) == 1


def test_nothing_is_said_where_a_cost_is_unknown() -> None:
    daily = Budget("daily", USD, window="day")
    assert about(daily, cost=None) == []
    some = log(sum(PER_DAY)).cost
    some[3] = np.nan
    assert about(daily, of=facts(cost=some)) == []
