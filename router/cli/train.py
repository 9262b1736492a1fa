"""`router train`: a model of one's own, and whether it is better than the shipped one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from router.cli.options import models_of
from router.cli.output import emit, json_option
from router.cli.train_verifier import Asked, train_verifier
from router.cli.training_output import (
    SHIPPED,
    check_out,
    progress,
    table,
    verdict,
    widen,
    write_model,
)
from router.types import TIERS, Tier

if TYPE_CHECKING:
    from router.predict.embedder import TextEmbedder
    from router.predict.examples import Examples
    from router.replay.training.train import Progress, Trained


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
@click.option("--out", type=click.Path(path_type=Path), help="The model's folder.")
@click.option(
    "--verifier",
    type=click.Path(path_type=Path),
    help="Train a verifier of answers instead, for cascades, and write it to this folder.",
)
@click.option(
    "--max-steps",
    type=click.IntRange(2, 4),
    default=2,
    show_default=True,
    help="With --verifier: the most calls of the chains that it is judged by.",
)
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
    out: Path | None,
    verifier: Path | None,
    max_steps: int,
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
    exit code 1 says that it did not. A verifier must beat the structural gate in the same way.
    With --verifier, --base names the predictor that the policy has, one not trained on OUTCOMES;
    without it, predictors are trained beside it as `router train --out` would.
    """
    if (outcomes is None) == (store is None):
        raise click.UsageError("give either OUTCOMES or --from-log STORE")
    if outcomes is not None and ladder is None:
        raise click.UsageError("OUTCOMES needs --ladder TIER=MODEL,…")
    if store is not None and (base or ladder):
        raise click.UsageError("--base and --ladder go with OUTCOMES, not with --from-log")
    if embedder is not None and store:
        raise click.UsageError("--embedder goes with OUTCOMES: a log keeps no vectors")
    if out is None and verifier is None:
        raise click.UsageError("give --out for a model, or --verifier for a verifier")
    if out is not None and verifier is not None:
        raise click.UsageError("a model and a verifier are trained apart: --out or --verifier")
    check_out(out or verifier or Path(), "--out" if out else "--verifier")
    if verifier is not None:
        asked = Asked(verifier, max_steps, base, seed, folds, embedder, force, as_json)
        ctx.exit(0 if train_verifier(outcomes, ladder, store, asked) else 1)
    assert out is not None
    options = _Options(out, seed, folds, share, report, embedder, force, as_json)
    if store is not None:
        done = _from_log(store, options)
    elif base is not None:
        done = _from_anchors(Path(outcomes or ""), str(ladder), base, options)
    else:
        done = _from_outcomes(Path(outcomes or ""), str(ladder), options)
    ctx.exit(0 if done else 1)


def _from_outcomes(outcomes: Path, ladder: str, options: _Options) -> bool:
    from router.predict.embedder import load_embedder
    from router.replay.evaluation.plot import load_matplotlib
    from router.replay.training.train import need_learner

    models = models_of(ladder)
    need_learner()  # what is missing is said before the long work
    load_matplotlib()
    embedder = None if options.embedder is None else load_embedder(options.embedder)
    with progress(options.as_json) as show:
        examples = _read(outcomes, models, embedder, show)
        found = _train(examples, options, show, embedder)
    facts = {"ladder": dict(models), "trained_on": [outcomes.name]}
    return _deliver_trained(found, facts, {"outcomes": str(outcomes), **facts}, options)


def _train(
    examples: Examples, options: _Options, show: Progress, embedder: TextEmbedder | None = None
) -> Trained:
    from router.predict import load_predictor
    from router.replay.training.train import train

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
    from router.replay.recorded.featurise import examples_of, features_of
    from router.replay.recorded.outcomes import read_outcomes

    show("reading outcomes", 0, 1)
    read = read_outcomes(outcomes, models)
    estimated = [float(shape_of(messages, {}).input_tokens) for messages in read.messages]
    return examples_of(read, features_of(read, embedder), np.array(estimated))


def _from_log(store: str, options: _Options) -> bool:
    from router.ledger import open_log
    from router.ledger.url import store_url
    from router.predict import load_predictor
    from router.replay.training.from_log import correct, merged, read_log
    from router.replay.training.train import need_learner, without_nan

    need_learner()
    shipped = load_predictor()
    with progress(options.as_json) as show:
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
    written = write_model(corrected.model, corrected.promoted, options.out, options.force)
    data = without_nan({"kind": "log_correction", "store": store, **corrected.as_dict(), **written})
    emit(data, options.as_json, lambda console: _render_log(data, console))
    return written["written"] is not None


def _from_anchors(anchors: Path, ladder: str, base: str, options: _Options) -> bool:
    from router.predict import load_predictor
    from router.predict.effort import EFFORTS
    from router.replay.training.anchors import anchor
    from router.replay.training.effort_gain import measure_effort
    from router.replay.training.train import need_learner, without_nan

    said, equals, model = (part.strip() for part in ladder.partition("="))
    tier = next((each for each in TIERS if each == said.partition("@")[0]), None)
    effort = next((each for each in EFFORTS if said.endswith(f"@{each}")), None)
    unknown = tier is None or said not in (tier, f"{tier}@{effort}")
    if tier is None or unknown or not equals or not model or "," in ladder:
        raise click.BadParameter(
            f"{ladder!r}: with --base it is the one new model, such as mini=MODEL, or a "
            f"model at one of the efforts {', '.join(EFFORTS)}, such as mini@high=MODEL",
            param_hint="--ladder",
        )
    need_learner()
    predictor = load_predictor(None if base == SHIPPED else base, options.embedder)
    with progress(options.as_json) as show:
        examples = _read(anchors, {tier: model}, predictor.embedder, show)
        found: Any = (
            measure_effort(examples, tier, effort, predictor)
            if effort
            else anchor(examples, tier, predictor, seed=options.seed)
        )
    written = write_model(found.model, True, options.out, options.force)
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

    from router.replay.training.report import write_report

    model = replace(found.model, facts={**found.model.facts, **facts})
    written = write_model(model, found.promoted, options.out, options.force)
    figures = found.as_dict()
    folder = options.report or options.out.with_name(options.out.name + ".report")
    files = [str(path) for path in write_report(figures, folder)]
    data = {
        "kind": "trained", **source, "seed": options.seed, **figures, **written, "report": files,
    }  # fmt: skip
    emit(data, options.as_json, lambda console: _render_trained(data, console))
    return written["written"] is not None


def _render_trained(data: Mapping[str, Any], console: Console) -> None:
    from router.replay.training.report import table_rows, with_interval

    widen(console)
    console.print(
        f"[bold]{data['rows']:,} requests[/], fitted to {data['fitted']:,}; judged on "
        f"{data['judged']:,} ({data['how']}), seed {data['seed']}"
    )
    rows = table("tier", "model", "AUC", "Brier", "ECE", "≤ P50", "≤ P90", "≤ P95")
    for row in table_rows(data):
        rows.add_row(*row, style="dim" if row[1] == "shipped" else "")
    console.print(rows)
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
    verdict(data, data["promoted"], console)
    console.print(f"report: {data['report'][-1]}")


def _render_log(data: Mapping[str, Any], console: Console) -> None:
    widen(console)
    text = f"the prompts of {data['with_text']:,} were kept"
    left = f"; {data['unusable']:,} more could not be used" if data["unusable"] else ""
    left += f" ({data['voted']:,} of them answered by votes)" if data["voted"] else ""
    left += f" ({data['chained']:,} of them in a cascade)" if data["chained"] else ""
    console.print(f"[bold]{data['rows']:,} labelled requests[/], {text}{left}")
    rows = table("tier", "labels", "predicted good", "judged good", "correction in log odds")
    for tier, one in data["tiers"].items():
        rows.add_row(
            tier,
            f"{one['labels']:,}",
            f"{one['predicted']:.3f}",
            f"{one['observed']:.3f}",
            f"{one['offset']:+.2f} ± {one['standard_error']:.2f}",
        )
    console.print(rows)
    console.print(
        "Each request has a label of one tier's answer, so only the level of each tier is learnt, "
        "not who gains from a dearer one; labels come from requests that the router sent there."
    )
    verdict(data, data["promoted"], console)


def _render_anchored(data: Mapping[str, Any], console: Console) -> None:
    widen(console)
    console.print(f"[bold]{data['new_model']}[/] as {data['tier']}, upon {data['base']}")
    verdict(data, True, console)
