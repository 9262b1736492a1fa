"""`router ledger`: look after the store that holds the budgets and the log."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
from rich.console import Console

from router.cli.output import emit, json_option
from router.ledger import open_ledger
from router.ledger.url import store_url


@click.group()
def command() -> None:
    """Check and repair a ledger."""


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


@command.command()
@click.argument("store")
@click.option("--journal", type=click.Path(path_type=Path), help="The policy's ledger.journal.")
@json_option
def recover(store: str, journal: Path | None, as_json: bool) -> None:
    """Replay what processes that are gone could not write into STORE, and return what they had
    leased and not spent.

    The next process that uses the store does the same; this does it without one.
    """
    ledger = open_ledger(store_url(store), create=False, journal=journal)
    try:
        count = ledger.recover(time.time())
    finally:
        ledger.close()
    emit(
        {"journals": count},
        as_json,
        lambda out: out.print(f"{count} journals replayed" if count else "nothing to replay"),
    )
