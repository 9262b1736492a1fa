"""`router replay LOG --policy A`: what policies would have cost and achieved, by a log alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from router.cli.options import models_of, period, since_option, until_option
from router.cli.output import as_written, emit, json_option, print_table, progress_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from router.replay.off_policy.run import Progress

ESTIMATORS = ("doubly_robust", "switch", "snips", "ips", "direct")


@click.command("replay")
@click.argument("log")
@click.option("--policy", "policies", multiple=True, required=False, metavar="POLICY",
              help="A policy's file or shipped name; may be given several times.")  # fmt: skip
@click.option(
    "--ladder",
    metavar="TIER=MODEL,…",
    help="LOG is an outcome file in which every one of these models answered every query.",
)
@since_option
@until_option
@click.option(
    "--model-only",
    is_flag=True,
    help="Let the direct model stand alone where the log cannot support more.",
)
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option("--work", type=click.Path(path_type=Path, file_okay=False),
              help="Keep the sums of each part here, and go on from them.")  # fmt: skip
@json_option
def command(
    log: str,
    policies: tuple[str, ...],
    ladder: str | None,
    since: datetime | None,
    until: datetime | None,
    model_only: bool,
    engine: Literal["local", "ray"],
    work: Path | None,
    as_json: bool,
) -> None:
    """Estimate cost, quality and latency of each POLICY from LOG, which another policy made.

    LOG is a store (a URL or a SQLite file), or what `router export` wrote. Every figure has a 95%
    interval, by conversations. What the log cannot support is refused, with the reason; the exit
    code is then 1. With --ladder every outcome was recorded, and figures are exact.
    """
    if ladder is not None:
        if since or until or model_only or work or engine != "local":
            raise click.UsageError(
                "--since, --until, --model-only, --engine and --work go with a log, not --ladder"
            )
        data = _observed(Path(log), policies, ladder)
        emit(data, as_json, lambda console: _render_observed(data, console))
        return
    from router.replay.off_policy.ask import ask
    from router.replay.off_policy.budgets import about_budgets
    from router.replay.off_policy.replay import conclude
    from router.replay.off_policy.run import run

    days = period(since, until)
    asked = ask(policies, time.time())
    with reading() as progress:
        sums = run(
            log,
            asked.question,
            since=days.since,
            until=days.until,
            engine=engine,
            work=work,
            progress=progress,
        )
    found = conclude(sums, asked.baseline, model_only=model_only)
    data = found.as_dict()
    data["notes"] = [*asked.notes]
    for each in data["policies"]:
        budgets, cost = asked.budgets.get(each["name"], ()), each["best"].get("cost")
        served = each["support"]["rows"] / sums.facts.rows  # what it refuses spends nothing
        spent = None if cost is None else {key: value * served for key, value in cost.items()}
        data["notes"] += about_budgets(each["name"], budgets, spent, sums.facts)
    emit(data, as_json, lambda console: _render(data, console))
    if any(each["refused"] for each in data["policies"]):
        sys.exit(1)


def _observed(outcomes: Path, policies: tuple[str, ...], ladder: str) -> dict[str, Any]:
    from router.parts import predictor_of
    from router.policy import load_policy
    from router.prices import load_book
    from router.replay.off_policy.ask import ladder_of, notes
    from router.replay.off_policy.observed import replay_outcomes
    from router.replay.recorded.outcomes import read_outcomes

    now, book = time.time(), load_book()
    loaded = [load_policy(each) for each in policies]
    own = [(policy, predictor_of(policy)) for policy in loaded]
    asked = [(ladder_of(policy, now, predictor), predictor) for policy, predictor in own]
    read = read_outcomes(outcomes, models_of(ladder), book=book, now=now)
    found = replay_outcomes(read, asked, book, now)
    return {**found, "notes": notes(loaded, on_log=False)}


def _render_observed(data: dict[str, Any], console: Console) -> None:
    print_table(console, figures(_plain(data)))
    for note in data["notes"]:
        console.print(f"[dim]{as_written(note)}[/]")


def _plain(data: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {**each, "against_log": {}, "support": {}} for each in [*data["policies"], *data["singles"]]
    ]


@contextmanager
def reading() -> Iterator[Progress]:
    """A count of rows on standard error; silent where that is no terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = [TextColumn("{task.completed:,.0f} rows"), BarColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=progress_console(), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("rows", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _render(data: dict[str, Any], console: Console) -> None:
    log, baseline = data["log"], data["baseline"]
    spent = baseline["spent_usd"]
    console.print(
        f"[bold]{log['rows']:,} requests[/] of {as_written(', '.join(log['policies']))}: "
        f"{'what was spent is not known' if spent is None else f'{usd(spent)} spent'}, "
        f"{log['labelled']:,} labels"
    )
    if log["explored"]:
        share = f" ({log['explored_extra_usd'] / spent:.1%} of the spend)" if spent else ""
        console.print(
            f"{log['explored']:,} of them were drawn to explore, which was expected to cost "
            f"{usd(log['explored_extra_usd'])}{share} more"
        )
    console.print()
    print_table(console, figures([_as_policy(log), *data["policies"], *data["singles"]]))
    for each in data["policies"]:
        for reason in each["refused"]:
            console.print(
                f"[bold red]{as_written(each['name'])}[/] is not estimated: {as_written(reason)}"
            )
        for warning in each["warnings"]:
            console.print(f"[yellow]{as_written(each['name'])}[/]: {as_written(warning)}")
    console.print()
    for line in _savings(baseline):
        console.print(line)
    for warning in data["warnings"]:
        console.print(f"[yellow]Warning[/]: {as_written(warning)}")
    for note in data["notes"]:
        console.print(f"[dim]{as_written(note)}[/]")
    console.print(
        "[dim]95% intervals, doubly robust, clustered by conversation. vs log: the difference to "
        "the log's own choices; vs mix: quality beyond the best random mix of tiers at that cost; "
        "agree: rows that speak for the policy.[/]"
    )


def _as_policy(log: dict[str, Any]) -> dict[str, Any]:
    found = {
        "cost": log["cost_per_request_usd"],
        "quality": log["quality"],
        "latency": log["latency_seconds"],
    }
    best = {name: figure for name, figure in found.items() if figure is not None}
    mix = log["over_random_mix"]
    return {"name": "as logged", "best": best, "against_log": {}, "support": {},
            "over_random_mix": mix}  # fmt: skip


def figures(rows: list[dict[str, Any]]) -> Table:
    """The table of policies: cost per thousand requests, quality, latency."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("policy", style="bold")
    for name in ("cost / 1,000", "95%", "vs log", "quality", "95%", "vs log", "vs mix", "latency",
                 "agree"):  # fmt: skip
        table.add_column(name, justify="right")
    for row in rows:
        cost, quality = row["best"].get("cost"), row["best"].get("quality")
        latency, change = row["best"].get("latency"), row["against_log"]
        table.add_row(
            as_written(row["name"]),
            *(_money(cost) if cost else ("-", "")),
            usd(1000 * change["cost"]["value"], sign=True) if "cost" in change else "",
            *(_share(quality) if quality else ("-", "")),
            f"{change['quality']['value']:+.3f}" if "quality" in change else "",
            f"{mix['value']:+.3f}" if (mix := row.get("over_random_mix")) else "",
            f"{latency['value']:.2f} s" if latency else "-",
            f"{row['support']['effective']:,.0f}" if row["support"] else "",
        )
    return table


def _money(figure: dict[str, Any]) -> tuple[str, str]:
    if figure["error"] is None:
        return usd(1000 * figure["value"]), "-"
    value, low, high = (1000 * figure[key] for key in ("value", "low", "high"))
    return usd(value), f"{usd(low)} to {usd(high)}"


def _share(figure: dict[str, Any]) -> tuple[str, str]:
    if figure["error"] is None:
        return f"{figure['value']:.3f}", "-"
    return f"{figure['value']:.3f}", f"{figure['low']:.3f} to {figure['high']:.3f}"


def usd(value: float, *, sign: bool = False) -> str:
    """An estimate in US dollars, with as many digits as say something."""
    digits = 2 if abs(value) >= 1 else 4
    mark = "-" if value < 0 else "+" if sign else ""
    return f"{mark}${abs(value):,.{digits}f}"


def _savings(baseline: dict[str, Any]) -> list[str]:
    """What always-baseline would have cost, as honestly as the log allows, and as others say it."""
    tier, said = baseline["tier"], []
    saved, honest = baseline["saved_usd"], baseline["honest_usd"]
    if saved and honest:
        said.append(
            f"Saved against always-{tier}: [bold]{usd(saved['value'])}[/] "
            f"({usd(saved['low'])} to {usd(saved['high'])}) of {usd(honest['value'])}."
        )
    elif (predicted := baseline["predicted_saved_usd"]) is None:
        said.append(
            f"Saved against always-{tier}: not known, and not predicted either: "
            f"{baseline['why_not_saved']}."
        )
    else:
        said.append(
            f"Saved against always-{tier}: {usd(predicted)} by prediction alone. The log cannot "
            f"check it: {baseline['why_not_saved']}."
        )
    if baseline["naive_saved_usd"] is not None:
        said.append(
            f"The usual figure (the chosen models' tokens at {tier} prices) would say "
            f"{usd(baseline['naive_saved_usd'])}."
        )
    return said
