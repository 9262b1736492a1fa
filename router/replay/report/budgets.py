"""Budgets in their current windows: how much of the money and how much of the time is gone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from router.ledger.windows import window_start
from router.ledger.wording import forecast, whose, window_text
from router.types import BudgetState, Meter, allowed

MOST = 8  # scope values of one budget: there may be one for each request


@dataclass(frozen=True, slots=True)
class BudgetPace:
    """One budget, in the unit of its meter: nano-USD, tokens or requests.

    `room` is what used and held may sum to, None for unlimited; `limit` the same but for a share,
    whose limit is in millionths. `share_used`: used and held of the room; `share_gone`: how much of
    the window is over, None for windows without a beginning or an end. `left_out` counts further
    values of the budget that use less.
    """

    name: str
    whose: str
    meter: Meter
    window: str
    used: int
    held: int
    limit: int | None
    room: int | None
    share_used: float | None
    share_gone: float | None
    forecast: int | None
    resets_at: float | None
    left_out: int = 0


def paces(states: Iterable[BudgetState], now: float) -> tuple[BudgetPace, ...]:
    """Each budget's values that use most, in the order of the budgets."""
    found: list[BudgetPace] = []
    for _, group in groupby(states, key=lambda state: state.budget.name):
        each = sorted(group, key=lambda state: (-(state.settled + state.held), state.scope_value))
        more = max(0, len(each) - MOST)
        shown = each[:MOST]
        found += [_pace(state, now, more if state is shown[-1] else 0) for state in shown]
    return tuple(found)


def _pace(state: BudgetState, now: float, left_out: int) -> BudgetPace:
    budget, used = state.budget, state.settled + state.held
    room = None if state.limit is None else allowed(budget.meter, state.limit, state.seen)
    return BudgetPace(
        budget.name,
        whose(budget, state.scope_value),
        budget.meter,
        window_text(state),
        state.settled,
        state.held,
        state.limit,
        room,
        used / room if room else None,
        _gone(state, now),
        forecast(state, now),
        state.resets_at,
        left_out,
    )


def _gone(state: BudgetState, now: float) -> float | None:
    if state.resets_at is None or state.budget.window in ("rolling", "total"):
        return None
    start = window_start(state.budget, state.resets_at)
    return min(1.0, max(0.0, (now - start) / (state.resets_at - start)))
