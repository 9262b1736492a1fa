"""`router train --verifier`: a verifier of answers, and whether it beats the structural gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from router.cli.options import models_of
from router.cli.output import emit
from router.cli.training_output import SHIPPED, progress, table, verdict, widen, write_model

if TYPE_CHECKING:
    from router.replay.training.train_verifier import TrainedVerifier


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks for."""

    out: Path
    max_steps: int
    base: str | None
    seed: int
    folds: int | None
    embedder: str | None
    force: bool
    as_json: bool


def train_verifier(
    outcomes: Path | None, ladder: str | None, store: str | None, asked: Asked
) -> bool:
    """Train on outcomes of a ladder, or on a store's log; whether the verifier was written."""
    from router.gates.verifier import NAMES
    from router.predict.model_file import ModelFile
    from router.replay.training.train import without_nan

    source: dict[str, Any]
    if store is not None:
        found = _from_log(store, asked)
        facts: dict[str, Any] = {"trained_on": ["log"], "priors": "logged predictions"}
        source = {"store": store}
    else:
        found, models = _from_outcomes(Path(outcomes or ""), str(ladder), asked)
        priors = asked.base or "predictors trained on the other folds"
        facts = {"ladder": models, "trained_on": [Path(outcomes or "").name], "priors": priors}
        source = {"outcomes": str(outcomes), **facts}
    facts |= {"inputs": list(NAMES), "rows": found.rows, "seed": asked.seed, "ridge": found.ridge}
    facts |= {"how_judged": found.how, "comparison": without_nan(found.lead.as_dict())}
    model = ModelFile("verifier", "0" * 64, facts, found.arrays)
    written = write_model(model, found.promoted, asked.out, asked.force)
    data = {"kind": "verifier", **source, "seed": asked.seed, **found.as_dict(), **written}
    data = without_nan(data)
    emit(data, asked.as_json, lambda console: _render(data, console))
    return written["written"] is not None


def _from_outcomes(
    outcomes: Path, ladder: str, asked: Asked
) -> tuple[TrainedVerifier, dict[str, str]]:
    from router.predict import load_predictor
    from router.predict.embedder import load_embedder
    from router.replay.recorded.outcomes import read_outcomes
    from router.replay.training.train import need_learner
    from router.replay.training.train_verifier import FOLDS, train_on_outcomes

    models = models_of(ladder)
    need_learner()  # what is missing is said before the long work
    embedder = None if asked.embedder is None else load_embedder(asked.embedder)
    learner: Callable[..., Any]
    if asked.base is not None:
        predictor = load_predictor(None if asked.base == SHIPPED else asked.base, asked.embedder)
        learner, embedder = lambda examples, seed=0: predictor, predictor.embedder
    else:
        from router.predict.training import fit

        learner = partial(fit, embedder=embedder)
    with progress(asked.as_json) as show:
        show("reading outcomes", 0, 1)
        found = train_on_outcomes(
            read_outcomes(outcomes, models),
            learner,
            folds=asked.folds or FOLDS,
            seed=asked.seed,
            max_steps=asked.max_steps,
            embedder=embedder,
            progress=show,
        )
    return found, {str(tier): model for tier, model in models.items()}


def _from_log(store: str, asked: Asked) -> TrainedVerifier:
    from router.ledger import open_log
    from router.ledger.url import store_url
    from router.replay.training.verifier_from_log import train_on_log

    with progress(asked.as_json) as show, closing(open_log(store_url(store))) as log:
        show("reading the log", 0, 1)
        return train_on_log(log, seed=asked.seed)


def _render(data: Mapping[str, Any], console: Console) -> None:
    widen(console)
    console.print(f"[bold]{data['rows']:,} requests[/], {data['how']}, seed {data['seed']}")
    rows = table("tier", "AUC before", "by form", "verifier")
    for tier, said in data["auc"].items():
        rows.add_row(tier, *(_auc(said[name]) for name in ("before", "structural", "learned")))
    console.print(rows)
    if data["chains"] is not None:
        levels = ("0.95", "0.98", "0.99", "1.00")
        rows = table("cost at quality, %", *levels)
        for name, of in (
            ("pre_call", "one call"),
            ("structural", "by form"),
            ("learned", "verifier"),
        ):
            cost = data["chains"][name]["cost_pct_at_quality"]
            rows.add_row(of, *("-" if cost[at] is None else f"{cost[at]:.1f}" for at in levels))
        console.print(rows)
    for note in data["notes"]:
        console.print(f"Note: {note}.")
    verdict(data, data["promoted"], console)
    if data["written"] is not None:
        console.print("In a policy: cascade: {gate: learned, verifier: {path: …, sha256: …}}")


def _auc(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "-"
    low, high = figure["interval"]
    return f"{figure['value']:.3f} [{low:.3f}, {high:.3f}]"
