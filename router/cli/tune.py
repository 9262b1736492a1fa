"""`router tune --log LOG --policy BASE --out NEW.yaml`: a policy that a log says is better."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from router.cli.output import as_written, emit, json_option, progress_console
from router.cli.replay import usd

if TYPE_CHECKING:
    from rich.console import Console

    from router.replay.tuning.tune import Progress


@click.command("tune")
@click.option("--log", "log", required=True, help="A store, or what `router export` wrote.")
@click.option(
    "--policy",
    "base",
    required=True,
    metavar="BASE",
    help="The policy to begin with, a file or a shipped name.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="NEW.yaml",
    help="Where the tuned policy is written.",
)
@click.option(
    "--trials",
    type=click.IntRange(1, 100_000),
    default=100,
    show_default=True,
    help="How many candidates are tried.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="The same seed and log give the same policy.",
)
@click.option(
    "--holdout-days", type=click.IntRange(1), metavar="K", help="Judge on the last K days (UTC)."
)
@click.option(
    "--holdout-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Judge on the last days that have this share of the requests; 0.3 without either option.",
)
@click.option(
    "--pick",
    type=click.Choice(["cheapest", "best", "value"]),
    default="cheapest",
    show_default=True,
    help="cheapest: the least cost without loss of quality; best: the "
    "most quality without more cost; value: the most P(good) - the base's cost_weight * "
    "USD. All by the ends of 95% intervals.",
)
@click.option(
    "--max-quality-loss",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    metavar="X",
    help="With cheapest: how much lower quality may be.",
)
@click.option(
    "--max-cost-increase",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    metavar="PCT",
    help="With best: how many percent dearer it may be.",
)
@click.option("--sampler", type=click.Choice(["tpe", "nsga2"]), default="tpe", show_default=True)
@click.option(
    "--rows",
    type=click.IntRange(1000),
    default=250_000,
    show_default=True,
    help="The most rows in memory; of a longer log, some conversations.",
)
@click.option("--force", is_flag=True, help="Write the policy even if it does not beat BASE.")
@json_option
def command(
    log: str,
    base: str,
    out: Path,
    trials: int,
    seed: int,
    holdout_days: int | None,
    holdout_share: float | None,
    pick: Literal["cheapest", "best", "value"],
    max_quality_loss: float,
    max_cost_increase: float,
    sampler: Literal["tpe", "nsga2"],
    rows: int,
    force: bool,
    as_json: bool,
) -> None:
    """Search tiers, objective and length rules of BASE on the first days of LOG; judge the point
    that is picked once, on the last days; write it to NEW.yaml if it beats BASE there.

    LOG must have left something to chance (`explore`), and have labels. What is not searched stays
    as it is in BASE. Exit code 0: NEW.yaml is written; 1: nothing beats BASE, or the log does not
    suffice; 2: wrong usage.
    """
    from router.replay.tuning.pick import rule_of
    from router.replay.tuning.space import Base
    from router.replay.tuning.tune import Options, tune

    if holdout_days is not None and holdout_share is not None:
        raise click.UsageError("give --holdout-days or --holdout-share, not both")
    policy = Base.read(base, time.time())
    rule = rule_of(pick, max_quality_loss, max_cost_increase, policy.settings.cost_weight)
    options = Options(
        rule,
        trials=trials,
        seed=seed,
        sampler=sampler,
        days=holdout_days,
        share=holdout_share,
        most_rows=rows,
    )
    with _watching() as progress:
        found = tune(log, policy, out, options, force=force, progress=progress)
    data = found.as_dict()
    emit(data, as_json, lambda console: _render(data, console))
    if found.out is None:
        sys.exit(1)


@contextmanager
def _watching() -> Iterator[Progress]:
    """A bar for each stage on standard error; silent where that is no terminal."""
    from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = [
        TextColumn("{task.completed:,.0f} {task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
    ]
    with Bars(*columns, console=progress_console(), disable=not sys.stderr.isatty()) as bars:
        stages: dict[str, TaskID] = {}

        def progress(what: str, done: int, total: int | None) -> None:
            if what not in stages:
                stages[what] = bars.add_task(what, total=None)
            bars.update(stages[what], completed=done, total=total)

        yield progress


def _render(data: dict[str, Any], console: Console) -> None:
    log = data["log"]
    kept = log["rows_in_memory"]
    sample = "" if kept == log["rows"] else f", a sample of {log['rows']:,}"
    console.print(
        f"[bold]{as_written(data['base'])}[/] on {kept:,} requests{sample}: searched on "
        f"{' to '.join(log['training_days'])}, judged on {' to '.join(log['held_out_days'])}"
    )
    console.print(
        f"{data['candidates']:,} candidates, of which the log supports {data['supported']:,}; "
        f"{len(data['front']):,} on the front. Wanted: {as_written(data['rule'])}."
    )
    console.print()
    for each in data["settings"]:
        console.print(f"  {each['key']}: {each['old']} → {each['new']}", markup=False)
    for name, stretch in (("training", data["training"]), ("held-out", data["held_out"])):
        if stretch is not None and data["settings"]:
            console.print(f"{name} days, {stretch['rows']:,} requests: {_line(stretch)}")
    console.print()
    if data["beats"]:
        console.print(f"[bold green]It beats the base[/]: {as_written(data['verdict'])}.")
    else:
        console.print(f"[bold red]It does not beat the base[/]: {as_written(data['verdict'])}.")
    written = f"Written to {data['out']}" if data["out"] else "Nothing was written"
    console.print(f"{written}.", markup=False)
    for warning in data["warnings"]:
        console.print(f"[yellow]Warning[/]: {as_written(warning)}")
    for note in data["notes"]:
        console.print(f"[dim]{as_written(note)}[/]")


def _line(stretch: dict[str, Any]) -> str:
    cost, percent, quality = (
        stretch[key] for key in ("cost_per_request_usd", "cost_pct", "quality")
    )
    if cost is None:
        return "not estimated"
    thousand = {key: usd(1000 * value, sign=True) for key, value in cost.items()}
    said = f"cost of 1,000 {thousand['value']} ({thousand['low']} to {thousand['high']})"
    if percent:
        said += f", {percent['value']:+.1f}%"
    if quality:
        said += (
            f"; quality {quality['value']:+.4f} ({quality['low']:+.4f} to {quality['high']:+.4f})"
        )
    return said
