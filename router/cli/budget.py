"""`router budget`: what each budget has spent, holds and still allows."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from router.cli.output import emit, json_option
from router.ledger import open_ledger
from router.ledger.url import store_url
from router.money import format_usd, usd_text
from router.types import BudgetState


@click.command()
@click.argument("store")
@json_option
def command(store: str, as_json: bool) -> None:
    """Show every budget of STORE (a URL or a file) in its current window."""
    ledger = open_ledger(store_url(store), create=False)
    try:
        states = ledger.states(time.time())
    finally:
        ledger.close()
    emit([_facts(state) for state in states], as_json, lambda out: _render(out, states))


def _facts(state: BudgetState) -> dict[str, Any]:
    budget = state.budget
    money = {
        "used": state.settled,
        "held": state.held,
        "limit": budget.limit,
        "remaining": state.remaining,
        "overrun": state.overrun,
    }
    return {
        "budget": budget.name,
        "scope": budget.scope,
        "scope_value": state.scope_value,
        "window": budget.window,
        "window_id": state.window_id,
        "zone": budget.zone,
        "on_exceed": budget.on_exceed,
        **{f"{name}_usd": None if n is None else usd_text(n) for name, n in money.items()},
        **{f"{name}_nano": n for name, n in money.items()},
        "resets_at": state.resets_at,
    }


def _render(out: Console, states: list[BudgetState]) -> None:
    if not states:
        out.print("This store defines no budgets.")
        return
    table = Table("budget", "for", "window", box=None, pad_edge=False)
    for name in ("used", "held", "limit", "%"):
        table.add_column(name, justify="right")
    table.add_column("resets (UTC)")
    for state in states:
        limit = state.budget.limit
        resets = state.resets_at
        table.add_row(
            escape(state.budget.name),
            escape(_whose(state)),
            state.window_id,
            format_usd(state.settled),
            format_usd(state.held),
            "unlimited" if limit is None else format_usd(limit),
            f"{100 * (state.settled + state.held) / limit:.0f}" if limit else "",
            f"{datetime.fromtimestamp(resets, UTC):%Y-%m-%d %H:%M}" if resets else "never",
        )
    out.print(table)


def _whose(state: BudgetState) -> str:
    if state.budget.scope == "global":
        return "all"
    return f"{state.budget.scope} {state.scope_value or '(none named)'}"
