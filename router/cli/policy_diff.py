"""`router policy diff OLD NEW --log LOG`: what a change would cost and do to quality, before it is
made."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from router.cli.options import period, since_option, until_option
from router.cli.output import as_written, emit, json_option, print_table
from router.cli.replay import reading, usd

if TYPE_CHECKING:
    from rich.console import Console


@click.command("diff")
@click.argument("old")
@click.argument("new")
@click.option("--log", "log", required=True, help="A store, or what `router export` wrote.")
@since_option
@until_option
@click.option("--max-cost-increase", type=click.FloatRange(min=-100), metavar="PCT",
              help="Fail where a request surely costs more percent more than this: the LOWER end "
              "of the interval is above it.")  # fmt: skip
@click.option("--max-quality-loss", type=click.FloatRange(0, 1), metavar="X",
              help="Fail where surely more quality than this is lost, a share of good answers: the "
              "UPPER end of the interval is below -X.")  # fmt: skip
@click.option("--unless-sure", is_flag=True,
              help="Fail unless the thresholds surely hold: the UPPER end of the cost and the "
              "LOWER end of the quality count instead.")  # fmt: skip
@click.option("--examples", type=click.IntRange(0, 1000), default=5, show_default=True,
              metavar="N", help="How many moved requests to show, a sample by hash.")  # fmt: skip
@json_option
def diff(
    old: str,
    new: str,
    log: str,
    since: datetime | None,
    until: datetime | None,
    max_cost_increase: float | None,
    max_quality_loss: float | None,
    unless_sure: bool,
    examples: int,
    as_json: bool,
) -> None:
    """Compare policy NEW with OLD (files, or shipped names): settings, and what they would do.

    From a log that left something to chance, the difference NEW - OLD in dollars and in quality is
    estimated request by request, with 95% intervals, and the requests whose arm changes are
    counted. Exit code 0: no threshold is broken; 1: one is, or the log cannot tell; 2: wrong usage.
    """
    from router.replay.off_policy.diff import Thresholds, policy_diff

    days = period(since, until)
    thresholds = Thresholds(max_cost_increase, max_quality_loss, unless_sure)
    with reading() as progress:
        found = policy_diff(
            old,
            new,
            log,
            now=time.time(),
            since=days.since,
            until=days.until,
            thresholds=thresholds,
            examples=examples,
            progress=progress,
        )
    data = found.as_dict()
    emit(data, as_json, lambda console: _render(data, console))
    if not found.passes:
        sys.exit(1)


def _render(data: dict[str, Any], console: Console) -> None:
    console.print(f"[bold]{as_written(data['old'])} → {as_written(data['new'])}[/]")
    for each in data["settings"]:
        console.print(f"  {each['key']}: {_plain(each['old'])} → {_plain(each['new'])}",
                      markup=False)  # fmt: skip
    if not data["settings"]:
        console.print("  no setting differs")
    console.print()
    if data["difference"]:
        _figures(data, console)
    if data["moved"]:
        _moved(data["moved"], console)
    for reason in data["refused"]:
        console.print(f"[bold red]Not estimated[/]: {as_written(reason)}")
    for reason in data["broken"]:
        console.print(f"[bold red]Threshold broken[/]: {as_written(reason)}")
    for warning in data["warnings"]:
        console.print(f"[yellow]Warning[/]: {as_written(warning)}")
    for note in data["notes"]:
        console.print(f"[dim]{as_written(note)}[/]")


def _plain(value: Any) -> str:
    return "-" if value is None else str(value)


def _figures(data: dict[str, Any], console: Console) -> None:
    """The difference in one line for each outcome that is known."""
    difference, support = data["difference"], data["support"]
    if difference["cost_per_1000_usd"]:
        _costs(data, console)
    if quality := difference["quality"]:
        console.print(
            f"Quality: {support['old']['quality']:.4f} → {support['new']['quality']:.4f}, "
            f"{quality['value']:+.4f} ({quality['low']:+.4f} to {quality['high']:+.4f})"
        )


def _costs(data: dict[str, Any], console: Console) -> None:
    difference, support = data["difference"], data["support"]
    per_thousand, whole = difference["cost_per_1000_usd"], difference["cost_over_log_usd"]
    percent = difference["cost_pct"]
    was, now = (1000 * support[side]["cost_per_request_usd"] for side in ("old", "new"))
    said = f" ({percent['value']:+.2f}%, {percent['low']:+.2f}% to {percent['high']:+.2f}%)"
    console.print(
        f"Cost of 1,000 requests: {usd(was)} → {usd(now)}, {_dollars(per_thousand)}"
        + (said if percent else "")
    )
    refused = support["new"]["refused_requests"]
    served = " that are served" if refused else ""
    console.print(
        f"Over the {data['log']['rows'] - refused:,} requests of the log{served}: {_dollars(whole)}"
    )


def _dollars(figure: dict[str, float]) -> str:
    value, low, high = (usd(figure[key], sign=True) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _moved(moved: dict[str, Any], console: Console) -> None:
    """Which arms requests move between, and some of these requests."""
    from rich.table import Table

    console.print(f"Requests whose arm changes: {moved['requests']:,} ({moved['share']:.1%})")
    console.print()
    table = Table(box=None, pad_edge=False)
    for name in ("from", "to"):
        table.add_column(name)
    for name in ("requests", "share"):
        table.add_column(name, justify="right")
    for row in moved["table"]:
        table.add_row(row["from"], row["to"], f"{row['requests']:,}", f"{row['share']:.1%}")
    if moved["table"]:
        print_table(console, table)
        console.print()
    if moved["examples"]:
        console.print("For example, with predicted quality and cost:")
    for each in moved["examples"]:
        sides = (_side(each[side]) for side in ("from", "to"))
        console.print(f"  {each['request_id']}: {' → '.join(sides)}", markup=False)
    console.print()


def _side(side: dict[str, Any]) -> str:
    if side["quality"] is None:
        return str(side["arm"])
    cost = "unknown" if side["cost_usd"] is None else usd(side["cost_usd"])
    return f"{side['arm']} ({side['quality']:.3f}, {cost})"
