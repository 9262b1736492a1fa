"""`router train`: a model of one's own, and whether it is better than the shipped one."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from router.cli.output import emit, json_option, progress_console
from router.errors import ConfigurationError
from router.types import TIERS, Tier

if TYPE_CHECKING:
    from router.predict.embedder import TextEmbedder
    from router.predict.examples import Examples
    from router.predict.model_file import ModelFile
    from router.replay.train import Progress, Trained

SHIPPED = "shipped"


@dataclass(frozen=True, slots=True)
class _Options:
    out: Path
    seed: int
    folds: int | None
    share: float
    report: Path | None
    embedder: str | None
    force: bool
    as_json: bool


@click.command("train")
@click.argument("outcomes", required=False, type=click.Path(path_type=Path))
@click.option("--from-log", "store", help="Learn from the labels in this store's log instead.")
@click.option(
    "--ladder",
    metavar="TIER=MODEL,…",
    help="Which recorded model stands for which tier, such as nano=A,frontier=B.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The model's folder.")
@click.option(
    "--base",
    metavar="MODEL",
    help=f"A model folder ('{SHIPPED}' is the shipped one) that knows the other tiers: OUTCOMES "
    "has a few answers of the one new model of --ladder, or of one at another reasoning effort, "
    "as mini@high=M.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--folds",
    type=click.IntRange(2, 20),
    help="Judge by cross-validation with so many folds: slower, and on every row.",
)
@click.option(
    "--calibration-share",
    "share",
    type=click.FloatRange(0, 0.5),
    default=0.2,
    show_default=True,
    help="Share of the questions that are held out, to judge by and to certify promises on.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the pictures and the page; beside the model by default.",
)
@click.option(
    "--embedder",
    metavar="NAME",
    help="Read a text embedder's vectors too: wordllama, or package.module:attribute.",
)
@click.option("--force", is_flag=True, help="Write the model even if it is not shown to be better.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    outcomes: Path | None,
    store: str | None,
    ladder: str | None,
    out: Path,
    base: str | None,
    seed: int,
    folds: int | None,
    share: float,
    report: Path | None,
    embedder: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Train a model on OUTCOMES (Parquet or JSONL: every model's answers, scored) or on a log.

    The model is written only if it beats the shipped one on requests that it was not fitted to;
    exit code 1 says that it did not.
    """
    if (outcomes is None) == (store is None):
        raise click.UsageError("give either OUTCOMES or --from-log STORE")
    if outcomes is not None and ladder is None:
        raise click.UsageError("OUTCOMES needs --ladder TIER=MODEL,…")
    if store is not None and (base or ladder):
        raise click.UsageError("--base and --ladder go with OUTCOMES, not with --from-log")
    if embedder is not None and store:
        raise click.UsageError("--embedder goes with OUTCOMES: a log keeps no vectors")
    _check_out(out)
    options = _Options(out, seed, folds, share, report, embedder, force, as_json)
    if store is not None:
        done = _from_log(store, options)
    elif base is not None:
        done = _from_anchors(Path(outcomes or ""), str(ladder), base, options)
    else:
        done = _from_outcomes(Path(outcomes or ""), str(ladder), options)
    ctx.exit(0 if done else 1)


def _check_out(out: Path) -> None:
    """Refuse a place whose files a model would mix with."""
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "model.json").exists()):
        raise ConfigurationError(f"--out {out}: is there already and is no model's folder")


def _from_outcomes(outcomes: Path, ladder: str, options: _Options) -> bool:
    from router.predict.embedder import load_embedder
    from router.replay.ladder import parse_ladder
    from router.replay.plot import load_matplotlib
    from router.replay.train import need_learner

    models = parse_ladder(ladder)
    need_learner()  # what is missing is said before the long work
    load_matplotlib()
    embedder = None if options.embedder is None else load_embedder(options.embedder)
    with _progress(options.as_json) as show:
        examples = _read(outcomes, models, embedder, show)
        found = _train(examples, options, show, embedder)
    facts = {"ladder": dict(models), "trained_on": [outcomes.name]}
    return _deliver_trained(found, facts, {"outcomes": str(outcomes), **facts}, options)


def _train(
    examples: Examples, options: _Options, show: Progress, embedder: TextEmbedder | None = None
) -> Trained:
    from router.predict import load_predictor
    from router.replay.train import train

    return train(
        examples,
        shipped=load_predictor(),
        folds=options.folds,
        seed=options.seed,
        calibration_share=options.share,
        embedder=embedder,
        progress=show,
    )


def _read(
    outcomes: Path, models: Mapping[Tier, str], embedder: TextEmbedder | None, show: Progress
) -> Examples:
    """Read outcomes as examples, with the input tokens that a decision would estimate."""
    import numpy as np

    from router.predict import shape_of
    from router.replay.featurise import examples_of, features_of
    from router.replay.outcomes import read_outcomes

    show("reading outcomes", 0, 1)
    read = read_outcomes(outcomes, models)
    estimated = [float(shape_of(messages, {}).input_tokens) for messages in read.messages]
    return examples_of(read, features_of(read, embedder), np.array(estimated))


def _from_log(store: str, options: _Options) -> bool:
    from router.ledger.url import store_url
    from router.log import open_log
    from router.predict import load_predictor
    from router.replay.from_log import correct, merged, read_log
    from router.replay.train import need_learner, without_nan

    need_learner()
    shipped = load_predictor()
    with _progress(options.as_json) as show:
        show("reading the log", 0, 1)
        with closing(open_log(store_url(store))) as log:
            rows = read_log(log, shipped)
        whole = merged(rows)
        if whole is not None:
            found = _train(whole, options, show)
        else:
            show("correcting", 0, 1)
            corrected = correct(rows, shipped, seed=options.seed)
    if whole is not None:
        return _deliver_trained(found, {"trained_on": ["log"]}, {"store": store}, options)
    written = _write(corrected.model, corrected.promoted, options)
    data = without_nan({"kind": "log_correction", "store": store, **corrected.as_dict(), **written})
    emit(data, options.as_json, lambda console: _render_log(data, console))
    return written["written"] is not None


def _from_anchors(anchors: Path, ladder: str, base: str, options: _Options) -> bool:
    from router.predict import load_predictor
    from router.predict.effort import EFFORTS
    from router.replay.anchors import anchor
    from router.replay.effort_gain import measure_effort
    from router.replay.train import need_learner, without_nan

    said, equals, model = (part.strip() for part in ladder.partition("="))
    tier = next((each for each in TIERS if each == said.partition("@")[0]), None)
    effort = next((each for each in EFFORTS if said.endswith(f"@{each}")), None)
    unknown = tier is None or said not in (tier, f"{tier}@{effort}")
    if tier is None or unknown or not equals or not model or "," in ladder:
        raise ConfigurationError(
            f"ladder: {ladder!r}: with --base it is the one new model, such as mini=MODEL, or a "
            f"model at one of the efforts {', '.join(EFFORTS)}, such as mini@high=MODEL"
        )
    need_learner()
    predictor = load_predictor(None if base == SHIPPED else base, options.embedder)
    with _progress(options.as_json) as show:
        examples = _read(anchors, {tier: model}, predictor.embedder, show)
        found: Any = (
            measure_effort(examples, tier, effort, predictor)
            if effort
            else anchor(examples, tier, predictor, seed=options.seed)
        )
    written = _write(found.model, True, options)
    data = without_nan(
        {
            "kind": "effort" if effort else "anchored",
            "base": predictor.name,
            "new_model": model,
            **found.as_dict(),
            **written,
        }
    )
    emit(data, options.as_json, lambda console: _render_anchored(data, console))
    return True


def _deliver_trained(
    found: Trained, facts: Mapping[str, Any], source: Mapping[str, Any], options: _Options
) -> bool:
    """Write model and report, and print the figures; whether the model was written."""
    from dataclasses import replace

    from router.replay.train_report import write_report

    model = replace(found.model, facts={**found.model.facts, **facts})
    written = _write(model, found.promoted, options)
    figures = found.as_dict()
    folder = options.report or options.out.with_name(options.out.name + ".report")
    files = [str(path) for path in write_report(figures, folder)]
    data = {
        "kind": "trained", **source, "seed": options.seed, **figures, **written, "report": files,
    }  # fmt: skip
    emit(data, options.as_json, lambda console: _render_trained(data, console))
    return written["written"] is not None


def _write(model: ModelFile, promoted: bool, options: _Options) -> dict[str, Any]:
    """Save the model if it may be; say where it is and by which hash a policy can pin it."""
    from router.predict.model_file import save_model

    if not promoted and not options.force:
        return {"written": None, "sha256": None}
    try:
        digest = save_model(options.out, model.name, model.arrays, model.facts)
    except OSError as error:
        raise ConfigurationError(f"--out {options.out}: cannot be written: {error}") from error
    return {"written": str(options.out), "sha256": digest}


@contextmanager
def _progress(as_json: bool) -> Iterator[Progress]:
    """A bar on standard error; silent with --json and where that is no terminal."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = [
        SpinnerColumn(),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    ]
    console, quiet = progress_console(), as_json or not sys.stderr.isatty()
    with Progress(*columns, console=console, disable=quiet, transient=True) as bar:
        task = bar.add_task("starting", total=1)

        def show(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total)

        yield show


def _render_trained(data: Mapping[str, Any], console: Console) -> None:
    from router.replay.train_report import table_rows, with_interval

    _widen(console)
    console.print(
        f"[bold]{data['rows']:,} requests[/], fitted to {data['fitted']:,}; judged on "
        f"{data['judged']:,} ({data['how']}), seed {data['seed']}"
    )
    table = _table("tier", "model", "AUC", "Brier", "ECE", "≤ P50", "≤ P90", "≤ P95")
    for row in table_rows(data):
        table.add_row(*row, style="dim" if row[1] == "shipped" else "")
    console.print(table)
    apgr = [with_interval(data[part]["apgr"]) for part in ("held_out", "shipped")]
    cheapest, dearest = data["tiers"][0], data["tiers"][-1]
    console.print(f"APGR {cheapest} to {dearest}: {apgr[0]}; the shipped model's {apgr[1]}")
    curve = " · ".join(f"{one['rows']:,}: {one['area']:.3f}" for one in data["learning_curve"])
    console.print(f"learning curve (rows: area): {curve}")
    if data["calibration_queries"]:
        console.print(
            f"The model carries {data['calibration_queries']:,} calibration queries, on which "
            "keep_quality can be certified."
        )
    else:
        console.print("The model carries no calibration queries: keep_quality cannot use it.")
    _verdict(data, data["promoted"], console)
    console.print(f"report: {data['report'][-1]}")


def _render_log(data: Mapping[str, Any], console: Console) -> None:
    _widen(console)
    text = f"the prompts of {data['with_text']:,} were kept"
    left = f"; {data['unusable']:,} more could not be used" if data["unusable"] else ""
    console.print(f"[bold]{data['rows']:,} labelled requests[/], {text}{left}")
    table = _table("tier", "labels", "predicted good", "judged good", "correction in log odds")
    for tier, one in data["tiers"].items():
        table.add_row(
            tier,
            f"{one['labels']:,}",
            f"{one['predicted']:.3f}",
            f"{one['observed']:.3f}",
            f"{one['offset']:+.2f} ± {one['standard_error']:.2f}",
        )
    console.print(table)
    console.print(
        "Each request has a label of one tier's answer, so only the level of each tier is learnt, "
        "not who gains from a dearer one; labels come from requests that the router sent there."
    )
    _verdict(data, data["promoted"], console)


def _render_anchored(data: Mapping[str, Any], console: Console) -> None:
    _widen(console)
    console.print(f"[bold]{data['new_model']}[/] as {data['tier']}, upon {data['base']}")
    _verdict(data, True, console)


def _verdict(data: Mapping[str, Any], good: bool, console: Console) -> None:
    console.print(f"[bold {'green' if good else 'yellow'}]{data['sentence']}[/]")
    if data["written"] is None:
        console.print("Nothing was promoted: no model was written. --force writes it all the same.")
        return
    forced = "" if good else " (by --force)"
    console.print(f"written{forced}: [bold]{data['written']}[/], sha256 {data['sha256']}")


def _widen(console: Console) -> None:
    if not console.is_terminal:
        console.width = 1000  # a pipe has no width: one line a row


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for at, heading in enumerate(headings):
        table.add_column(heading, justify="left" if at == 0 else "right", no_wrap=True)
    return table
