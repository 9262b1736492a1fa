"""Budgets in words, for the command line and pages: amounts, limits, windows, whose they are."""

from __future__ import annotations

from datetime import UTC, datetime

from router.ledger.windows import window_start
from router.money import format_usd
from router.types import Budget, BudgetState, Meter


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


def window_text(state: BudgetState) -> str:
    """The window that counts now."""
    seconds = state.budget.seconds
    if not seconds:
        return state.window_id
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds % length == 0:
            return f"last {seconds // length} {unit}"
    return f"last {seconds} s"
