"""`router report STORE`: what was spent, against what always-frontier would have cost."""

from __future__ import annotations

from datetime import UTC, datetime

import click
from rich.console import Console
from rich.table import Table

from router.cli.output import emit, json_option
from router.ledger import open_ledger
from router.ledger.url import store_url
from router.log.savings import Line, Savings, notes, savings
from router.money import format_usd


@click.command("report")
@click.argument("store")
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="First day (UTC).")
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), help="Day after the last (UTC).")
@json_option
def command(store: str, since: datetime | None, until: datetime | None, as_json: bool) -> None:
    """Report realized spend and savings from STORE (a URL, or a SQLite file)."""
    ledger = open_ledger(store_url(store), create=False)
    try:
        report = savings(ledger.log(), _unix(since), _unix(until))
    finally:
        ledger.close()
    emit(report.as_dict(), as_json, lambda console: render(report, console))


def render(report: Savings, console: Console) -> None:
    """Print a savings report for the person who pays the bill."""
    total = report.total
    if not total.attempts and not report.refused:
        console.print("Nothing is logged in this period.")
        return
    console.print(
        f"[bold]{format_usd(total.spent)}[/] spent on {total.requests:,} answered requests; "
        f"always the baseline tier would have cost [bold]{format_usd(total.baseline)}[/]."
    )
    share = "" if total.saved_share is None else f" ({total.saved_share:.1%})"
    verb = "Saved" if report.net_saved >= 0 else "Lost"
    console.print(
        f"{verb} [bold]{format_usd(abs(report.net_saved))}[/]{share}, net of "
        f"{format_usd(report.overhead)} that the router spent on calls of its own."
    )
    for title, lines in (
        ("tier", report.by_tier),
        ("model", report.by_model),
        ("day", report.by_day),
        ("tag", report.by_tag),
    ):
        if lines and (title != "day" or len(lines) > 1):
            console.print(_table(title, lines))
    for note in notes(report):
        console.print(f"[dim]{note}[/]")


def _table(title: str, lines: dict[str, Line]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(title, style="bold")
    for name in ("requests", "attempts", "spent", "baseline", "saved", "quality", "bill/quote"):
        table.add_column(name, justify="right")
    for key, line in lines.items():
        table.add_row(
            key,
            f"{line.requests:,}",
            f"{line.attempts:,}",
            format_usd(line.spent),
            format_usd(line.baseline),
            "-" if line.saved_share is None else f"{line.saved_share:.1%}",
            "-" if line.quality is None else f"{line.quality:.3f}",
            "-" if line.bill_over_quote is None else f"{line.bill_over_quote:.2f}",
        )
    return table


def _unix(day: datetime | None) -> float | None:
    return None if day is None else day.replace(tzinfo=UTC).timestamp()
