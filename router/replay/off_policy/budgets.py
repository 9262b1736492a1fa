"""Whether the budgets that a replay leaves out would have mattered.

A budget's state depends on all that was decided before, in order of time; estimates are sums, which
have no order. What they can say is whether the policy's mean cost, at the log's traffic, comes up
to a limit within a window. Where it does not, leaving the budget out changes next to nothing; where
it does, the figures are of a policy that goes on as if there were money.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from router.ledger.windows import window
from router.money import NANO_PER_USD

if TYPE_CHECKING:
    from router.replay.off_policy.facts import Facts
    from router.types import Budget

_DAY = 86_400  # seconds
_WINDOWS = {"day": "day", "week": "week", "month": "month", "total": "period"}


def about_budgets(
    name: str, budgets: Iterable[Budget], cost: Mapping[str, float] | None, facts: Facts
) -> list[str]:
    """Say of each budget of a policy in how many windows of the log it would have been used up.

    Parameters: `cost`, US dollars a request: `value`, `low` and `high`; None where it is not known.
    Budgets that count something else than all money, or in another zone than the log's days (UTC),
    are passed over, and so is a log in which some requests have no known cost.
    """
    days: Counter[int] = Counter()
    for (day, _), (calls, *_rest) in facts.bills.items():
        days[day] += round(calls)
    if cost is None or sum(days.values()) != facts.rows:
        return []
    found = []
    for budget in budgets:
        if budget.limit is None or not _counts_all_money(budget):
            continue
        requests: Counter[str] = Counter()
        for day, calls in days.items():
            requests[window(budget, day * _DAY)[0]] += calls
        reached = {
            end: sum(calls * cost[end] * NANO_PER_USD > budget.limit for calls in requests.values())
            for end in ("low", "value", "high")
        }
        of = f"{len(requests):,} {_WINDOWS[budget.window]}{'s' if len(requests) > 1 else ''}"
        said = f"none of {of} at the log's traffic"
        if reached["high"]:
            ends = f"{reached['low']:,} to {reached['high']:,}"
            said = (
                f"{reached['value']:,} of {of} ({ends}) at the log's traffic; figures are as if "
                "there were no limit"
            )
        found.append(
            f"{name}: its budget {budget.name!r}, which is left out, would have been used up in "
            f"{said}"
        )
    return found


def _counts_all_money(budget: Budget) -> bool:
    return (
        budget.meter == "usd"
        and budget.scope == "global"
        and budget.purpose in ("serve", "any")
        and not budget.when
        and budget.window in _WINDOWS
        and (budget.window == "total" or budget.zone == "UTC")
    )
