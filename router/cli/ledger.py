"""`router ledger`: look after the store that holds the budgets and the log."""

from __future__ import annotations

import sys

import click
from rich.console import Console

from router.cli.output import emit, json_option
from router.ledger import open_ledger
from router.ledger.url import store_url


@click.group()
def command() -> None:
    """Check a ledger."""


@command.command()
@click.argument("store")
@json_option
def verify(store: str, as_json: bool) -> None:
    """Recompute every counter of STORE (a URL or a file) from its entries and rows.

    Exit code 0 and "sound" when all agree; otherwise 1 and the list of what does not.
    """
    ledger = open_ledger(store_url(store), create=False)
    try:
        problems = ledger.verify()
    finally:
        ledger.close()

    def render(out: Console) -> None:
        for problem in problems:
            out.print(problem, markup=False)
        out.print("not sound" if problems else "sound", style="red" if problems else "green")

    emit({"sound": not problems, "problems": problems}, as_json, render)
    sys.exit(1 if problems else 0)
