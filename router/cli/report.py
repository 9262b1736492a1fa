"""`router report STORE`: what was spent, against what always-frontier would have cost."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from router.cli.options import check_page, period, since_option, until_option, write_page
from router.cli.output import as_written, console, emit, json_option, print_table
from router.drift.watcher import all_alarms, open_alarms
from router.ledger import open_ledger
from router.ledger.url import store_url
from router.log.savings import MOST_LINES, Line, Savings, notes, savings, shown_name
from router.money import format_usd
from router.policy import load_policy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from router.drift.record import Alarm
    from router.replay.report.break_even import BreakEven


@click.command("report")
@click.argument("store")
@since_option
@until_option
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page too.")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="P",
    help="Show from what volume on its own hardware is cheaper than its APIs, or another P's.",
)
@json_option
def command(
    store: str,
    since: datetime | None,
    until: datetime | None,
    html: Path | None,
    policies: tuple[str, ...],
    as_json: bool,
) -> None:
    """Report realized spend and savings from STORE (a URL, or a SQLite file).

    The page of --html is one file that needs nothing else; beside the sums it shows spend and tiers
    over time, predicted cost and quality, calibration, budgets, what changed, and drift alarms.
    """
    days = period(since, until)
    if html is not None:
        check_page(html)
    loaded = [load_policy(policy) for policy in policies]
    ledger = open_ledger(store_url(store), create=False)
    try:
        if html is None and not as_json and not policies:
            report = savings(ledger.log(), *days)
            render(report, console())
            render_alarms(open_alarms(ledger.log()), console())
            return
        from router.replay.report.data import report_data

        now, kept = time.time(), all_alarms(ledger.log())
        data = report_data(
            ledger.log(),
            ledger.states(now),
            now=now,
            since=days.since,
            until=days.until,
            policies=loaded,
            alarms=kept,
        )
    finally:
        ledger.close()
    alarms = [(policy, alarm) for policy, of_policy in kept for alarm in of_policy.open]
    if html is not None:
        from router.replay.report.page import page

        write_page(html, page(data, made=now))
    said = [{"policy": policy, **asdict(alarm)} for policy, alarm in alarms]
    facts = data.as_dict() | {"drift": said} | ({} if html is None else {"html": str(html)})

    def show(out: Console) -> None:
        render(data.savings, out)
        render_alarms(alarms, out)
        if policies:
            render_break_even(data.break_even, out)
        if html is not None:
            out.print(f"Page: {html}", markup=False)

    emit(facts, as_json, show)


def render(report: Savings, console: Console) -> None:
    """Print a savings report for the person who pays the bill."""
    total = report.total
    if not total.attempts and not report.refused:
        own = f"the router spent {format_usd(report.overhead)} on calls of its own."
        console.print(
            f"No request is logged in this period; {own}"
            if report.overhead
            else "Nothing is logged in this period."
        )
        return
    for line in _lead(report):
        console.print(line)
    if report.per_answer is not None:
        said = f"[bold]{format_usd(round(report.per_answer))}[/] an accepted answer"
        if report.per_good_answer is not None:
            said += f", {format_usd(round(report.per_good_answer))} a good one by its labels"
        console.print(f"{said}, with all that led to it.")
    for title, lines in (
        ("tier", report.by_tier),
        ("model", report.by_model),
        ("day", report.by_day),
        ("tag", report.by_tag),
    ):
        if lines and (title != "day" or len(lines) > 1):
            shown = len(lines) if title == "day" else MOST_LINES
            print_table(console, _table(title, dict(islice(lines.items(), shown))))
            if len(lines) > shown:
                console.print(f"[dim]{len(lines) - shown:,} {title}s that cost less: --json[/]")
    for note in notes(report):
        console.print(f"[dim]{as_written(note)}[/]")


def _lead(report: Savings) -> Iterator[str]:
    """What was spent, and what was saved as far as it can be told."""
    total = report.total
    spent = (
        f"[bold]{format_usd(total.known_spent)}[/] spent on {total.requests:,} answered requests"
    )
    own = f"{format_usd(report.overhead)} that the router spent on calls of its own."
    saved = report.known_net_saved
    if saved is None:
        why = "; of none of them both a baseline and the costs are known"
        yield f"{spent}{why if total.requests else ''}."
        yield f"What was saved is not known; not in it are {own}"
        return
    of_them = "" if total.comparable == total.requests else f" for {total.comparable:,} of them"
    yield (
        f"{spent}; always the baseline tier would have cost "
        f"[bold]{format_usd(total.baseline)}[/]{of_them}."
    )
    share = f" ({abs(saved) / total.baseline:.1%})" if total.baseline else ""
    verb = "Saved" if saved >= 0 else "Lost"
    yield f"{verb} [bold]{format_usd(abs(saved))}[/]{share}, net of {own}"


def render_alarms(alarms: Sequence[tuple[str, Alarm]], console: Console) -> None:
    """Print the drift alarms that are open, each with its policy."""
    for policy, alarm in alarms:
        console.print(f"DRIFT under {policy}: {alarm.text}", style="red", markup=False)


def render_break_even(found: Sequence[BreakEven], console: Console) -> None:
    """Print from what volume on own hardware is cheaper."""
    if not found:
        console.print(
            "No deployment has a price by GPU-hours, with another one to hold it against."
        )
        return
    assumed = "" if found[0].mix_measured else ", which is assumed"
    console.print(
        f"\n[bold]Own hardware[/] against APIs, where {found[0].prompt_share:.0%} of the tokens "
        f"are prompts{assumed}:"
    )
    for each in found:
        text = f"{each.own_model} is cheaper than {each.api_model} {each.verdict}. {each.seen}"
        console.print(text.rstrip(), markup=False, highlight=False)


def _table(title: str, lines: dict[str, Line]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(title, style="bold", overflow="fold")
    for name in ("requests", "attempts", "spent", "baseline", "saved", "quality", "bill/quote"):
        table.add_column(name, justify="right")
    for key, line in lines.items():
        table.add_row(
            as_written(shown_name(key)),
            f"{line.requests:,}",
            f"{line.attempts:,}",
            format_usd(line.known_spent),
            format_usd(line.known_baseline),
            "-" if line.saved_share is None else f"{line.saved_share:.1%}",
            "-" if line.quality is None else f"{line.quality:.3f}",
            "-" if line.bill_over_quote is None else f"{line.bill_over_quote:.2f}",
        )
    return table
