"""`router judge STORE`: what logged answers were worth beside the baseline tier's, by a judge."""

from __future__ import annotations

import sys

import click
from rich.console import Console
from rich.table import Table

from router.cli.output import as_written, emit, json_option, print_table, progress_console
from router.errors import ConfigurationError
from router.judging.figures import JudgeReport, wilson
from router.ledger import store_exists
from router.ledger.url import store_url
from router.money import InvalidAmount, format_usd, parse_usd
from router.policy import load_policy


def _money(context: click.Context, option: click.Parameter, text: str) -> int:
    try:
        return parse_usd(text)
    except InvalidAmount as error:
        raise click.BadParameter(str(error)) from None


@click.command("judge")
@click.argument("store")
@click.option("--policy", default="default", show_default=True, help="A file or shipped policy.")
@click.option("--rate", type=click.FloatRange(0, 1, min_open=True),
              help="The share of requests to judge; by default the policy's.")  # fmt: skip
@click.option("--count", type=click.IntRange(1), help="Judge so many instead.")
@click.option("--ceiling", default="1.00", show_default=True, callback=_money, metavar="USD",
              help="The most that all calls of this run may cost together.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Decides which requests.")
@json_option
def command(
    store: str,
    policy: str,
    rate: float | None,
    count: int | None,
    ceiling: int,
    seed: int,
    as_json: bool,
) -> None:
    """Judge a sample of STORE's requests (a URL, or a SQLite file), and label them.

    For each request that a cheaper tier answered, the baseline tier is asked too; then the policy's
    judge compares both answers, blind and in both orders. The label is 1 where the routed answer is
    at least as good in both orders, 0 where it is worse in both, else 0.5. Only requests whose text
    the log kept (log: {content: true}) can be judged, and each only once by the same judge.

    Exit code 1 where a provider or the store failed; what was judged until then is kept.
    """
    from router.judging import judge

    if rate is not None and count is not None:
        raise click.UsageError("--rate and --count exclude each other")
    url = store_url(store)
    if not store_exists(url):
        raise ConfigurationError(f"there is no store at {store}")
    with progress_console().status("reading the log…") as status:
        report = judge(
            url,
            load_policy(policy),
            rate=rate,
            count=count,
            ceiling=ceiling,
            seed=seed,
            progress=lambda so_far: status.update(
                f"{so_far.judged} of {so_far.sampled - so_far.before} judged"
            ),
        )
    emit(report.as_dict(), as_json, lambda console: render(report, console))
    sys.exit(1 if report.outage else 0)


def render(report: JudgeReport, console: Console) -> None:
    """Print a judging report."""
    console.print(
        f"[bold]{report.judged}[/] judged by {as_written(report.judge)} against "
        f"{report.baseline}, of "
        f"{report.sampled} sampled (rate {report.rate:.2%} of {report.eligible:,}, seed "
        f"{report.seed}; {report.before} judged before)."
    )
    spent = " and ".join(f"{format_usd(each)} on {name}" for name, each in report.spent.items())
    console.print(f"Spent {spent or 'an unknown amount'} calls; ceiling "
                  f"{format_usd(report.ceiling)}.")  # fmt: skip
    if report.stopped:
        console.print(f"[yellow]Ended early:[/] {as_written(report.stopped)}", soft_wrap=True)
    if report.judged:
        _print_outcomes(report, console)
    for kind, found in report.agreement.items():
        if found.pairs:
            kappa = "" if found.kappa is None else f", kappa {found.kappa:.2f}"
            console.print(
                f"Agrees with {kind} labels on {found.agreed} of {found.pairs}{kappa}"
                f"{_range(found.kappa_interval)}."
            )
    for note in notes(report):
        console.print(f"[dim]{note}[/]")


def notes(report: JudgeReport) -> list[str]:
    """What a careful reader should know about the figures."""
    said = [
        f"Not judged: {report.own:,} that the baseline tier answered itself, {report.unkept:,} "
        f"whose text the log did not keep, {report.unfit:,} with more than text; "
        f"{report.refused} refused by the judge, {report.unparseable} verdicts that are none, "
        f"{report.failed} failed."
    ]
    if report.judges_itself:
        said.append("The judge compares its own answers with others'; models prefer their own.")
    return said


def _print_outcomes(report: JudgeReport, console: Console) -> None:
    good = sum(each == 1.0 for each in report.scores)
    table = Table(box=None, pad_edge=False)
    for name in ("routed wins", "ties", "losses", "at least as good", "mean score"):
        table.add_column(name, justify="right")
    table.add_row(
        *(str(report.count(each)) for each in ("win", "tie", "loss")),
        f"{good / report.judged:.1%}{_range(wilson(good, report.judged))}",
        f"{sum(report.scores) / report.judged:.3f}",
    )
    print_table(console, table)
    first, second = report.places
    line = f"Swapping the order changed {report.swapped / report.judged:.1%} of the verdicts"
    if first + second:
        share, interval = first / (first + second), wilson(first, first + second)
        line += (
            f"; where the judge stuck to a place, it was the first in {share:.0%}{_range(interval)}"
        )
    console.print(f"{line}.")


def _range(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" (95%: {interval[0]:.2f} to {interval[1]:.2f})"
