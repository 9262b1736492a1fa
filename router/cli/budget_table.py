"""How budgets are shown: amounts in the unit of their meter, forecasts, whose they are."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from router.ledger.windows import window_start
from router.money import format_usd, usd_text
from router.types import Budget, BudgetState, Change, Meter, allowed

_ROWS_EACH = 20  # scope values shown of one budget: there may be one for each request


def forecast(state: BudgetState, now: float) -> int | None:
    """What is used at the window's end if it goes on at this window's pace so far.

    None where the window has no end or no beginning: rolling ones, total ones, shares.
    """
    budget = state.budget
    if budget.window in ("rolling", "total") or budget.meter == "share" or state.resets_at is None:
        return None
    start = window_start(budget, state.resets_at)
    if now <= start:
        return None
    return round((state.settled + state.held) * (state.resets_at - start) / (now - start))


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


def render(out: Console, states: list[BudgetState], now: float) -> None:
    """Print a table of budgets, of each the scope values that use most."""
    if not states:
        out.print("This store defines no budgets.")
        return
    table = Table("budget", "for", "window", box=None, pad_edge=False)
    for name in ("used", "held", "limit", "%", "forecast"):
        table.add_column(name, justify="right")
    table.add_column("resets (UTC)")
    left_out = []
    for name, group in groupby(states, key=lambda state: state.budget.name):
        each = list(group)
        if len(each) > _ROWS_EACH:
            left_out.append(f"{name}: {len(each) - _ROWS_EACH:,} more that use less")
            each = sorted(each, key=lambda state: -(state.settled + state.held))[:_ROWS_EACH]
        for state in each:
            table.add_row(*_row(state, now))
    out.print(table)
    for line in left_out:
        out.print(line, markup=False)


def _row(state: BudgetState, now: float) -> tuple[str, ...]:
    budget, used = state.budget, state.settled + state.held
    room = None if state.limit is None else allowed(budget.meter, state.limit, state.seen)
    ahead = forecast(state, now)
    of = f" of {state.seen:,}" if budget.meter == "share" else ""
    return (
        escape(budget.name),
        escape(whose(budget, state.scope_value)),
        _lasting(budget.seconds) if budget.seconds else state.window_id,
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
        value = "" if change.scope_value is None else change.scope_value
        table.add_row(
            moment(change.time),
            escape(change.by or "(unknown)"),
            escape(change.budget),
            escape(value or "all"),
            done(meter, change.kind, change.amount),
            escape(change.note),
        )
    out.print(table)


def done(meter: Meter, kind: str, given: int | None) -> str:
    """What a change did, in words."""
    if kind == "credit":
        return f"credit of {amount_text(meter, given or 0)}"
    if given is None:
        return "limit taken back"
    return f"limit {limit_text(meter, None if given < 0 else given)}"


def amount_text(meter: Meter, number: int) -> str:
    """An amount of what a meter counts."""
    return format_usd(number) if meter == "usd" else f"{number:,}"


def limit_text(meter: Meter, limit: int | None) -> str:
    """A limit with its unit."""
    if limit is None:
        return "unlimited"
    if meter == "share":
        return f"{limit / 10_000:g}%"
    return amount_text(meter, limit) + ("" if meter == "usd" else f" {meter}")


def whose(budget: Budget, value: str) -> str:
    """Whose calls a budget counts, and which."""
    who = "all" if budget.scope == "global" else f"{budget.scope} {value or '(none named)'}"
    which = [f"{name} {wanted}" for name, wanted in budget.when if wanted != "*"]
    if budget.purpose not in ("serve", "any"):
        which.append(f"{budget.purpose} calls")
    return ", ".join([who, *which])


def moment(seconds: float) -> str:
    """A time in UTC, to the minute."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def _lasting(seconds: int) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds % length == 0:
            return f"last {seconds // length} {unit}"
    return f"last {seconds} s"
