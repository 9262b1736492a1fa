"""`router demo`: the whole path in under a minute, without a key, and what it saved."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from router.cli.options import check_page, write_page
from router.cli.output import emit, json_option, print_table, progress_console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from router.demo.result import DemoResult
    from router.demo.run import Progress
    from router.demo.simulation import Prompt
    from router.types import BudgetState


@click.command("demo")
@json_option
@click.option("--requests", type=click.IntRange(min=1), help="How many prompts; all by default.")
@click.option("--seed", default=0, show_default=True, help="Decides the order and the answers.")
@click.option(
    "--html",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    default=Path("router-demo.html"),
    show_default=True,
    help="Where to write the page.",
)
@click.option("--store", help="Keep budgets and log there: a URL, or a new SQLite file.")
@click.option("--live", is_flag=True, help="Send the prompts to real models, for real money.")
@click.option("--policy", help="The policy of --live; by default the one named default.")
@click.option("--yes", is_flag=True, help="With --live: do not ask before spending.")
def command(
    as_json: bool,
    requests: int | None,
    seed: int,
    html: Path,
    store: str | None,
    live: bool,
    policy: str | None,
    yes: bool,
) -> None:
    """Send a few hundred prompts, easy to hard, through the router under a hard budget.

    A local simulated provider answers, over real HTTP; no key is needed and nothing is spent.
    Ends with what was spent against always-frontier, and writes the picture to an HTML page.
    """
    from router.demo.page import page
    from router.demo.run import choose_prompts, simulate
    from router.ledger.place import identity
    from router.ledger.url import store_url

    check_page(html)
    if not live and (policy is not None or yes):
        raise click.UsageError("--policy and --yes go with --live")
    url = None if store is None else store_url(store)
    if url is not None and identity(url) == str(html.resolve()):
        problem = f"{html} is to be the store, which a page would replace; name another file"
        raise click.BadParameter(problem, param_hint="--html")
    chosen = choose_prompts(requests, seed)
    if live:
        result = _live(policy or "default", chosen, seed=seed, store=url, yes=yes)
    else:
        with _progress(len(chosen), "simulated provider") as progress:
            result = simulate(chosen, seed=seed, progress=progress, store=url)
    facts = {**result.as_json(), "html": str(html)}
    emit(facts, as_json, lambda console: render(result, html, console))
    write_page(html, page(result))


def _live(
    policy: str, chosen: Sequence[Prompt], *, seed: int, store: str | None, yes: bool
) -> DemoResult:
    from router.demo.live import check_keys, run_live, upper_bound
    from router.money import format_usd
    from router.pipeline import Router
    from router.policy import load_policy

    real = load_policy(policy)
    check_keys(real)
    with TemporaryDirectory(prefix="router-demo-") as folder:
        url = store or f"sqlite:///{Path(folder).as_posix()}/demo.db"
        with Router(real, store=url) as router:
            limit = upper_bound(router, chosen)
        click.echo(
            f"{len(chosen)} prompts to the real models of {real.name!r}: at most "
            f"{format_usd(limit)}, held by a hard budget; usually a small part of it.",
            err=True,
        )
        if not yes:
            click.confirm("Go on and spend?", abort=True, err=True)
        with _progress(len(chosen), "real models") as progress:
            result = run_live(real, chosen, limit=limit, seed=seed, progress=progress, store=url)
    return replace(result, store=store)


@contextmanager
def _progress(total: int, what: str) -> Iterator[Progress]:
    """A bar with the live spend on standard error; on a terminal only."""
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bar

    from router.money import format_usd
    from router.types import TIERS

    columns: list[Any] = [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[spend]}"),
    ]
    with Bar(*columns, console=progress_console(), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=total, spend="loading litellm …")

        def show(done: int, budget: BudgetState, tiers: Mapping[str, int]) -> None:
            mix = " ".join(f"{tier} {tiers[tier]}" for tier in TIERS if tier in tiers)
            spend = f"{format_usd(budget.settled)} of {format_usd(budget.budget.limit)} · {mix}"
            bar.update(task, completed=done, spend=spend)

        yield show


def render(result: DemoResult, html: Path, console: Console) -> None:
    """Print a run for a person."""
    from router.money import format_usd

    books, total = result.provider, result.report.total
    label = "real models" if books is None else "simulated provider: no model was called"
    console.print(f"[bold]{len(result.rows)} requests[/], {label}, {result.seconds:.0f} seconds\n")
    print_table(console, _table(result))
    share = "" if total.saved_share is None else f", {total.saved_share:.1%} saved"
    console.print(
        f"\n[bold]{format_usd(total.spent)}[/] realised; always frontier would have cost "
        f"[bold]{format_usd(total.baseline)}[/]{share}."
    )
    if result.good_share is not None and result.frontier_good_share is not None:
        console.print(
            f"{result.good_share:.1%} of the answers were judged good; always frontier would have "
            f"had {result.frontier_good_share:.1%}."
        )
    console.print(
        f"Budget: {format_usd(result.budget_settled)} settled of a hard limit of "
        f"{format_usd(result.budget_limit)}; refused: {result.report.refused}."
    )
    if books is not None:
        console.print(
            f"Wire: {books.wire_requests} requests, {result.reservations} reservations, "
            f"{result.retries} retries; the provider's own bill is {format_usd(books.bill)}."
        )
    console.print(f"Page: [bold]{html}[/]")


def _table(result: DemoResult) -> Table:
    from rich.table import Table

    from router.log.savings import Line
    from router.money import format_usd
    from router.types import TIERS

    table = Table(box=None, pad_edge=False)
    table.add_column("tier", style="bold")
    for name in ("requests", "realised", "always frontier", "judged good"):
        table.add_column(name, justify="right")
    for tier in TIERS:
        line = result.report.by_tier.get(tier, Line())
        table.add_row(
            tier,
            f"{line.requests:,}",
            format_usd(line.spent),
            format_usd(line.baseline),
            "-" if line.quality is None else f"{line.quality:.1%}",
        )
    return table
