"""How budgets are shown: amounts in the unit of their meter, forecasts, whose they are."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

from router.cli.output import as_written, print_table
from router.ledger.wording import (
    amount_text,
    forecast,
    limit_text,
    moment,
    whose,
    window_text,
)
from router.money import usd_text
from router.types import Budget, BudgetState, Change, Meter, allowed

_ROWS_EACH = 20  # scope values shown of one budget: there may be one for each request


def facts(state: BudgetState, now: float) -> dict[str, Any]:
    """A budget's state as JSON: amounts in the unit of the meter, money in US dollars as well."""
    budget = state.budget
    amounts = {
        "used": state.settled,
        "held": state.held,
        "limit": state.limit,
        "own_limit": budget.limit,
        "remaining": state.remaining,
        "overrun": state.overrun,
        "forecast": forecast(state, now),
    }
    shown: dict[str, Any] = {
        "budget": budget.name,
        "meter": budget.meter,
        "scope": budget.scope,
        "scope_value": state.scope_value,
        "when": dict(budget.when),
        "purpose": budget.purpose,
        "window": budget.window,
        "window_id": state.window_id,
        "seconds": budget.seconds,
        "zone": budget.zone,
        "on_exceed": budget.on_exceed,
        **amounts,
        "resets_at": state.resets_at,
    }
    if budget.meter == "share":
        shown["seen"] = state.seen
    if budget.meter == "usd":
        shown |= {f"{name}_usd": None if n is None else usd_text(n) for name, n in amounts.items()}
        shown |= {f"{name}_nano": n for name, n in amounts.items()}
    return shown


def render(
    out: Console, states: list[BudgetState], now: float, budgets: Iterable[Budget] = ()
) -> None:
    """Print a table of budgets, of each the scope values that use most. `budgets`: all that are
    defined, so that those of which nobody has used anything are named too."""
    used = {state.budget.name for state in states}
    notes = [f"{each.name}: not used yet" for each in budgets if each.name not in used]
    if not states and not notes:
        out.print("This store defines no budgets.")
        return
    table = Table("budget", "for", "window", box=None, pad_edge=False)
    for name in ("used", "held", "limit", "%", "forecast"):
        table.add_column(name, justify="right")
    table.add_column("resets (UTC)")
    for name, group in groupby(states, key=lambda state: state.budget.name):
        each = list(group)
        if len(each) > _ROWS_EACH:
            notes.append(f"{name}: {len(each) - _ROWS_EACH:,} more that use less")
            each = sorted(each, key=lambda state: -(state.settled + state.held))[:_ROWS_EACH]
        for state in each:
            table.add_row(*_row(state, now))
    if states:
        print_table(out, table)
    for line in notes:
        out.print(line, markup=False)


def _row(state: BudgetState, now: float) -> tuple[str, ...]:
    budget, used = state.budget, state.settled + state.held
    room = None if state.limit is None else allowed(budget.meter, state.limit, state.seen)
    ahead = forecast(state, now)
    of = f" of {state.seen:,}" if budget.meter == "share" else ""
    return (
        as_written(budget.name),
        as_written(whose(budget, state.scope_value)),
        window_text(state),
        amount_text(budget.meter, state.settled) + of,
        amount_text(budget.meter, state.held),
        limit_text(budget.meter, state.limit) + (" (set)" if state.limit != budget.limit else ""),
        f"{100 * used / room:.0f}" if room else "",
        "" if ahead is None else amount_text(budget.meter, ahead),
        moment(state.resets_at) if state.resets_at else "never",
    )


def render_audit(out: Console, changes: list[Change], budgets: Iterable[Budget]) -> None:
    """Print what people did to the budgets, oldest first."""
    if not changes:
        out.print("Nobody has changed a budget of this store.")
        return
    known = {budget.name: budget for budget in budgets}
    table = Table("when (UTC)", "who", "budget", "for", "what", "why", box=None, pad_edge=False)
    for change in changes:
        budget = known.get(change.budget)
        meter = budget.meter if budget else "requests"
        table.add_row(
            moment(change.time),
            as_written(change.by or "(unknown)"),
            as_written(change.budget),
            as_written(_changed_for(change, budget)),
            done(meter, change.kind, change.amount),
            as_written(change.note),
        )
    print_table(out, table)


def _changed_for(change: Change, budget: Budget | None) -> str:
    """Whose counters a change was of."""
    has_values = budget is not None and budget.scope != "global"
    if change.scope_value is None or not (change.scope_value or has_values):
        return "all"
    return change.scope_value or "(none named)"


def done(meter: Meter, kind: str, given: int | None) -> str:
    """What a change did, in words."""
    if kind == "credit":
        return f"credit of {amount_text(meter, given or 0)}"
    if given is None:
        return "limit taken back"
    return f"limit {limit_text(meter, None if given < 0 else given)}"
