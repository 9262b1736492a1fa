"""`router budget`: what each budget has used, holds and still allows; limits, credits, audit."""

from __future__ import annotations

import getpass
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

import click

from router.cli.budget_table import facts, render, render_audit
from router.cli.output import emit, json_option
from router.errors import ConfigurationError
from router.ledger import open_ledger
from router.ledger.url import store_url
from router.ledger.wording import amount_text, limit_text
from router.money import InvalidAmount, parse_usd
from router.types import Budget, BudgetState, Meter

if TYPE_CHECKING:
    from rich.console import Console

    from router.ledger import Ledger


class _ShowsByDefault(click.Group):
    """`router budget STORE` is `router budget show STORE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group("budget", cls=_ShowsByDefault)
def command() -> None:
    """Show the budgets of a store (router budget STORE), change them, see who did.

    STORE is a URL or a file; one that is called like a command is written ./set.
    """


value_option = click.option("--value", help="Of this scope value alone, such as a user's name.")


@command.command()
@click.argument("store")
@json_option
def show(store: str, as_json: bool) -> None:
    """Show every budget of STORE in its current window.

    The forecast is what is used at the window's end at this window's pace so far.
    """
    now = time.time()
    with _opened(store) as ledger:
        states, budgets = ledger.states(now), ledger.budgets()
    emit(
        [facts(state, now) for state in states],
        as_json,
        lambda out: render(out, states, now, budgets),
    )


@command.command("set")
@click.argument("store")
@click.argument("name")
@click.argument("limit", required=False)
@value_option
@click.option("--note", default="", help="Why; it is kept in the audit.")
@click.option("--undo", is_flag=True, help="Take an earlier limit back: the policy's own holds.")
@json_option
def set_limit(
    store: str,
    name: str,
    limit: str | None,
    value: str | None,
    note: str,
    undo: bool,
    as_json: bool,
) -> None:
    """Put LIMIT in the place of budget NAME's own, in every process; usage is kept.

    LIMIT is in US dollars, tokens or requests, as the budget counts; of a share, 0.25 or 25%;
    "none" is unlimited.
    """
    if (limit is None) != undo:
        raise click.UsageError("give either a LIMIT or --undo")
    now = time.time()
    with _opened(store) as ledger:
        budget = _budget(ledger, name)
        wanted = None if limit in (None, "none") else _parsed(budget.meter, str(limit))
        ledger.set_limit(
            name, wanted, now=now, scope_value=value, keep=not undo, by=_user(), note=note
        )
        states = _states(ledger, name, value, now)
    what = f"{name}: " + (
        "its own limit again" if undo else f"limit {limit_text(budget.meter, wanted)}"
    )
    _report(states, what, as_json, now)


@command.command()
@click.argument("store")
@click.argument("name")
@click.argument("amount", metavar="AMOUNT")
@value_option
@click.option("--note", required=True, help="Why; it is kept in the audit.")
@json_option
def credit(store: str, name: str, amount: str, value: str | None, note: str, as_json: bool) -> None:
    """Take back up to AMOUNT of what budget NAME has used in the current window.

    What was really spent stays in the log. Exit code 1 where there was nothing to take back.
    """
    now = time.time()
    with _opened(store) as ledger:
        budget = _budget(ledger, name)
        asked = _parsed("requests" if budget.meter == "share" else budget.meter, amount)
        whose = value if value is not None else budget.value or ""
        given = ledger.credit(name, asked, now=now, scope_value=whose, by=_user(), note=note)
        states = _states(ledger, name, whose, now)
    _report(states, f"{name}: credited {_amount(budget, given)}", as_json, now, given=given)
    if asked and not given:
        sys.exit(1)


@command.command()
@click.argument("store")
@json_option
def audit(store: str, as_json: bool) -> None:
    """List who changed which budget of STORE, when and why."""
    with _opened(store) as ledger:
        changes, budgets = ledger.audit(), ledger.budgets()
    emit(
        [asdict(change) for change in changes],
        as_json,
        lambda out: render_audit(out, changes, budgets),
    )


@contextmanager
def _opened(store: str) -> Iterator[Ledger]:
    ledger = open_ledger(store_url(store), create=False)
    try:
        yield ledger
    finally:
        ledger.close()


def _budget(ledger: Ledger, name: str) -> Budget:
    known = {budget.name: budget for budget in ledger.budgets()}
    if name not in known:
        names = ", ".join(known) or "none"
        raise ConfigurationError(f"this store defines no budget {name!r}; it defines {names}")
    return known[name]


def _states(ledger: Ledger, name: str, value: str | None, now: float) -> list[BudgetState]:
    return [
        state
        for state in ledger.states(now)
        if state.budget.name == name and value in (None, state.scope_value)
    ]


def _report(
    states: list[BudgetState], what: str, as_json: bool, now: float, given: int | None = None
) -> None:
    done = {"states": [facts(state, now) for state in states]}

    def show_it(out: Console) -> None:
        out.print(what, markup=False)
        if states:
            render(out, states, now)

    emit(done if given is None else {"credited": given, **done}, as_json, show_it)


def _amount(budget: Budget, number: int) -> str:
    unit = {"usd": "", "tokens": " tokens"}.get(budget.meter, " requests")
    return amount_text(budget.meter, number) + unit


def _parsed(meter: Meter, text: str) -> int:
    """An amount in the unit of a meter, from what a person writes."""
    try:
        if meter == "usd":
            return parse_usd(text.removeprefix("$"))
        if meter != "share":
            if not text.isascii() or not text.isdigit():
                raise ValueError(f"{text!r} is not a whole number of {meter}")
            return int(text)
        share = Decimal(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        if not 0 <= share <= 1:
            raise ValueError(f"{text!r} is not a share from 0 to 1, or 0% to 100%")
        return round(share * 1_000_000)
    except InvalidOperation:
        raise click.BadParameter(f"{text!r} is not a share such as 0.25 or 25%") from None
    except (InvalidAmount, ValueError) as error:
        raise click.BadParameter(str(error)) from None


def _user() -> str:
    """Who is asking, as the system knows them."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no name for this number
        return "unknown"
