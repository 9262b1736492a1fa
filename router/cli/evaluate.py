"""`router evaluate OUTCOMES --ladder …`: what routing would have cost, and how good it was."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from router.cli.options import ladder_callback
from router.cli.output import as_written, emit, json_option, progress_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from router.policy.vote import Vote
    from router.replay.evaluation.evaluate import Progress
    from router.types import Tier

SHIPPED = "shipped"


def _votes(ctx: click.Context, param: click.Parameter, value: str | None) -> dict[Tier, Vote]:
    from router.policy.vote import Vote
    from router.types import TIERS

    found: dict[Tier, Vote] = {}
    if value is None:
        return found
    for part in value.split(","):
        tier, _, samples = (piece.strip() for piece in part.partition("="))
        if tier not in TIERS or not samples.isdecimal() or not 3 <= int(samples) <= 9:
            raise click.BadParameter(f"{part.strip()!r} is not TIER=SAMPLES, 3 to 9, as in mini=5")
        found[tier] = Vote(samples=int(samples))
    return found


def _new_file(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and not value.absolute().parent.is_dir():
        raise click.BadParameter(f"folder {value.parent} does not exist")
    return value


def _plot_file(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    from router.replay.evaluation.plot import SUFFIXES

    if value is not None and value.suffix.lower() not in SUFFIXES:
        raise click.BadParameter(f"{value} must end in one of {', '.join(SUFFIXES)}")
    return _new_file(ctx, param, value)


@click.command("evaluate")
@click.argument("outcomes", type=click.Path(path_type=Path))
@click.option(
    "--ladder",
    required=True,
    callback=ladder_callback,
    metavar="TIER=MODEL,…",
    help="Which recorded model stands for which tier, such as nano=A,frontier=B.",
)
@click.option(
    "--model",
    help=f"A trained model folder ('{SHIPPED}' is the shipped one) instead of cross-validation; "
    "needs no scores.",
)
@click.option(
    "--embedder",
    metavar="NAME",
    help="The text embedder whose vectors are read too: wordllama, or package.module:attribute.",
)
@click.option("--folds", type=click.IntRange(2), default=5, show_default=True)
@click.option(
    "--sweep",
    type=click.IntRange(2, 10_001),
    default=101,
    show_default=True,
    help="Number of cost weights, from 'money is no object' to 'only money counts'.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--draws",
    type=click.IntRange(0, 100_000),
    default=1000,
    show_default=True,
    help="Bootstrap resamples of the intervals.",
)
@click.option(
    "--cascade",
    type=click.IntRange(2, 4),
    metavar="STEPS",
    help="Look at recorded answers, and call up to so many tiers for a query (2 to 4).",
)
@click.option(
    "--gate",
    metavar="DIR",
    help="A trained verifier of answers, instead of one trained on the other folds; cascades.",
)
@click.option(
    "--vote",
    "votes",
    callback=_votes,
    metavar="TIER=SAMPLES,…",
    help="Repeated answers of these tiers are samples of a vote of at most so many (3 to 9); "
    "not with --cascade, --gate or --model.",
)
@click.option(
    "--compare",
    metavar="NAME,…",
    help="Only these comparisons: singles, random_mix, length, shuffled_labels, task_table, knn, "
    "litellm_heuristic, oracle; or 'none'.",
)
@click.option(
    "--decisions",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_new_file,
    help="Write every decision of the sweep to this Parquet file.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_plot_file,
    help="Draw cost against quality: .png, .svg, .pdf or .html.",
)
@json_option
def command(
    outcomes: Path,
    ladder: dict[Tier, str],
    model: str | None,
    embedder: str | None,
    folds: int,
    sweep: int,
    seed: int,
    draws: int,
    cascade: int | None,
    gate: str | None,
    votes: dict[Tier, Vote],
    compare: str | None,
    decisions: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Decide every query of OUTCOMES (Parquet or JSONL, every model recorded) at every cost
    weight of a sweep, and compare cost and quality with what others reach.

    Without --model a router is trained on the other folds of each query. Scores train and judge;
    no decision reads one.
    """
    from router.gates.verifier import load_verifier
    from router.predict import load_predictor
    from router.predict.embedder import load_embedder
    from router.prices.book import load_book
    from router.replay.evaluation.decisions import write_decisions
    from router.replay.evaluation.evaluate import evaluate
    from router.replay.evaluation.plot import draw, load_matplotlib
    from router.replay.recorded.outcomes import read_outcomes

    if decisions is not None and decisions.resolve() == outcomes.resolve():
        raise click.BadParameter(f"{decisions} is OUTCOMES itself", param_hint="--decisions")
    if decisions is not None and plot is not None and decisions.resolve() == plot.resolve():
        raise click.BadParameter(f"{plot} is where --decisions go", param_hint="--plot")
    if votes and (cascade or gate or model):
        raise click.UsageError("--vote does not go with --cascade, --gate or --model")
    if model is not None and cascade and gate is None:
        raise click.UsageError("--cascade with --model needs a trained --gate")
    if plot is not None:
        load_matplotlib()  # what is missing is said before the long work
    names = _names(compare)
    if left := [tier for tier in votes if tier not in ladder]:
        raise click.BadParameter(f"the ladder has no tier {left[0]}", param_hint="--vote")
    now, book = time.time(), load_book()
    predictor = (
        None if model is None else load_predictor(None if model == SHIPPED else model, embedder)
    )
    with _progress() as show:
        show("reading", 0, 1)
        read = read_outcomes(outcomes, ladder, book=book, now=now, votes=votes)
        found = evaluate(
            read,
            folds=folds,
            sweep=sweep,
            seed=seed,
            model=predictor,
            embedder=None if embedder is None or model else load_embedder(embedder),
            compare=names,
            max_steps=cascade or (1 if gate is None else 2),
            verifier=None if gate is None else load_verifier(gate),
            draws=draws,
            book=book,
            now=now,
            progress=show,
        )
        if decisions is not None:
            show("writing decisions", 0, 1)
            found.report["decisions"] = {
                "path": str(decisions),
                "rows": write_decisions(found, decisions),
            }
        if plot is not None:
            show("drawing", 0, 1)
            draw(found.report, plot)
            found.report["plot"] = str(plot)
    emit(found.report, as_json, lambda console: _render(found.report, console))


def _names(compare: str | None) -> tuple[str, ...]:
    from router.replay.evaluation.comparisons import NAMES

    if compare is None:
        return NAMES
    names = tuple(name.strip() for name in compare.split(",") if name.strip() not in ("", "none"))
    for name in names:
        if name not in NAMES:
            raise click.BadParameter(
                f"no comparison {name!r}; there are {', '.join(NAMES)}", param_hint="--compare"
            )
    return names


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on standard error, one line a stage; silent where that is no terminal."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
    ]
    with Progress(*columns, console=progress_console(), disable=not sys.stderr.isatty()) as bar:
        stages: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            for name, task in stages.items():
                if name != stage and not bar.tasks[task].finished:
                    bar.update(task, total=1, completed=1)
            if stage not in stages:
                stages[stage] = bar.add_task(stage, total=total)
            bar.update(stages[stage], completed=done)

        yield show


def _render(report: Mapping[str, Any], console: Console) -> None:
    """Print an evaluation for a person."""
    if not console.is_terminal:
        console.width = 1000  # a pipe has no width: one line a row
    how = f"{report['folds']}-fold cross-validation"
    if report["model"]:
        how = f"model {report['model']}, nothing trained"
    console.print(
        f"[bold]{report['queries']:,} queries[/] ({report['questions']:,} different questions) of "
        f"{as_written(report['outcomes'])}, {as_written(how)}, seed {report['seed']}"
    )
    for reason, count in report["dropped"].items():
        if count:
            console.print(f"left out: {count:,} {reason.replace('_', ' ')}")
    two = report["apgr"] is not None or any(
        one["apgr"] is not None for one in report["comparisons"].values()
    )
    if report["judged"]:
        console.print()
        console.print(_figures(report, two))
        console.print()
        if report["honest"]["levels"]:
            console.print(_honest(report))
            console.print()
        console.print(_calibration(report))
    else:
        console.print()
        console.print(_decisions(report))
    for note in report["notes"]:
        console.print(f"note: {note}", markup=False)
    for name in ("decisions", "plot"):
        if name in report:
            where = report[name]["path"] if name == "decisions" else report[name]
            console.print(f"{name}: [bold]{as_written(where)}[/]")


def _table(title: str, *headings: str) -> Table:
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0)
    )
    for at, heading in enumerate(headings):
        table.add_column(heading, justify="left" if at == 0 else "right", no_wrap=True)
    return table


def _figures(report: Mapping[str, Any], two: bool) -> Table:
    levels = list(report["cost_pct_at_quality"])
    table = _table(
        "Cost in % of always-frontier's, at a share of its quality; [95% interval]",
        "",
        *(f"{100 * float(level):.0f}%" for level in levels),
        "peak quality",
        "AIQ",
        "gap closed",
        *(("APGR", "CPT50", "CPT80") if two else ()),
    )

    def row(name: str, one: Mapping[str, Any], style: str = "") -> list[str]:
        cells = [name, *(_number(one["cost_pct_at_quality"][level], "{:.1f}") for level in levels)]
        cells += [
            _number(one["peak_quality_ratio"], "{:.1%}"),
            _number(one["aiq"], "{:.4f}"),
            _number(one["oracle_gap_closed"], "{:.0%}"),
        ]
        if two:
            cells += [
                _number(one[key], form)
                for key, form in (("apgr", "{:.3f}"), ("cpt50", "{:.1f}"), ("cpt80", "{:.1f}"))
            ]
        return cells

    table.add_row(*row("router", report), style="bold")
    if report["intervals"]:
        table.add_row(*_intervals(report, levels, two), style="dim")
    for name, one in report["comparisons"].items():
        table.add_row(*row(name.replace("_", " ").replace("single:", "always "), one))
    return table


def _intervals(report: Mapping[str, Any], levels: list[str], two: bool) -> list[str]:
    found = report["intervals"]

    def span(ends: list[float | None] | None, form: str) -> str:
        # An end that no resample reaches is infinitely dear.
        return "" if ends is None else "-".join("∞" if e is None else form.format(e) for e in ends)

    cells = ["", *(span(found["cost_pct_at_quality"][level], "{:.1f}") for level in levels)]
    cells += [
        span(found["peak_quality_ratio"], "{:.1%}"),
        span(found["aiq"], "{:.3f}"),
        span(found["oracle_gap_closed"], "{:.0%}"),
    ]
    if two:
        cells += [
            span(found[key], form)
            for key, form in (("apgr", "{:.2f}"), ("cpt50", "{:.0f}"), ("cpt80", "{:.0f}"))
        ]
    return cells


def _honest(report: Mapping[str, Any]) -> Table:
    splits = report["honest"]["splits"]
    table = _table(
        f"The cost weight chosen on one half, judged on the other: {splits} splits",
        "quality asked for",
        "cost %",
        "5th-95th",
        "quality reached",
        "splits below",
        "stayed at frontier",
    )
    for level, one in report["honest"]["levels"].items():
        spread = one["cost_pct_p5_p95"]
        table.add_row(
            f"{100 * float(level):.0f}%",
            _number(one["cost_pct"], "{:.1f}"),
            "unknown" if spread is None else f"{spread[0]:.1f}-{spread[1]:.1f}",
            f"{one['quality_ratio']:.1%}",
            f"{one['share_below']:.0%}",
            f"{one['stayed_at_frontier']:.0%}",
        )
    return table


def _calibration(report: Mapping[str, Any]) -> Table:
    table = _table("Predicted P(good answer)", "tier", "model", "ECE", "Brier", "AUC")
    for tier, one in report["calibration"].items():
        table.add_row(
            tier,
            as_written(report["ladder"][tier]),
            f"{one['ece']:.3f}",
            f"{one['brier']:.3f}",
            _number(one["auc"], "{:.3f}"),
        )
    return table


def _decisions(report: Mapping[str, Any]) -> Table:
    tiers = list(report["ladder"])
    table = _table("Decisions along the sweep", "cost weight", *tiers, "expected cost a query")
    step = max(1, len(report["curve"]) // 10)
    for point in report["curve"][::step]:
        table.add_row(
            f"{point['cost_weight']:.3g}",
            *(f"{point['share'][tier]:.0%}" for tier in tiers),
            _number(point["expected_usd"], "${:.3g}"),
        )
    return table


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
