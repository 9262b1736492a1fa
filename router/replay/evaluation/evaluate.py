"""`evaluate`: what a router would have cost on recorded outcomes, and how good it would have been.

Scores train on the training folds and judge in the report; no decision reads one. With a trained
model the decisions are the same whether or not the file has scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from router.errors import ConfigurationError, OutcomeFileError
from router.predict import Predictor
from router.prices.book import PriceBook
from router.replay.evaluation import comparisons
from router.replay.evaluation.cascading import OF_CASCADES, Cascading
from router.replay.evaluation.chains import paid
from router.replay.evaluation.costs import Expected, constant_prices, estimate_input
from router.replay.evaluation.figures import (
    NO_FIGURES,
    Measured,
    band,
    calibration_of,
    curve_points,
    measure,
)
from router.replay.evaluation.folds import CrossValidation, Decided, Learner
from router.replay.evaluation.honest import chosen_on_calibration
from router.replay.evaluation.sweep import Sweep, careful, choose_tiers, cost_weights
from router.replay.recorded.featurise import features_of
from router.replay.recorded.outcomes import Outcomes
from router.replay.recorded.prompts import last_user_text
from router.types import Prediction

if TYPE_CHECKING:
    from router.predict.embedder import TextEmbedder
    from router.replay.evaluation.by_form import Judge
    from router.replay.evaluation.chains import Called
    from router.types import Floats, Ints

Progress = Callable[[str, int, int], None]  # stage, done, total
DRAWS = 1000
SPLITS = 200
_FALLBACK = {
    True: "; decisions weighed tiers by usual price ratios",
    False: "; decisions weighed expected dollars",
}
_NEED_TRAINING = ("shuffled_labels", "task_table", "knn")


@dataclass(frozen=True)
class Evaluation:
    """What was decided, and what it came to.

    `fold` (N,); `prediction` and `expected` cost of every query before its decision; `weights`
    (F, L), the cost weights of each fold's sweep; `chosen` (L, N), positions among `TIERS`;
    `report`, JSON-ready; `called`, the chains of calls of a cascade.
    """

    outcomes: Outcomes
    fold: Ints
    prediction: Prediction
    expected: Expected
    weights: Floats
    chosen: Ints
    report: dict[str, Any]
    called: Called | None = None


def evaluate(
    outcomes: Outcomes,
    *,
    folds: int = 5,
    sweep: int = 101,
    seed: int = 0,
    learner: Learner | None = None,
    model: Predictor | None = None,
    embedder: TextEmbedder | None = None,
    compare: Sequence[str] = comparisons.NAMES,
    max_steps: int = 1,
    verifier: Judge | None = None,
    draws: int = DRAWS,
    splits: int = SPLITS,
    book: PriceBook | None = None,
    now: float = 0.0,
    progress: Progress = lambda stage, done, total: None,
) -> Evaluation:
    """Decide every query at every cost weight of a sweep, and measure the decisions.

    Parameters
    ----------
    outcomes
        Queries that every tier of a ladder answered.
    folds, learner
        Cross-validation by groups: `learner(examples, seed=seed)` (by default
        `router.predict.training.fit`) trains on the other folds of each query.
    embedder
        Adds its vectors to what the default learner reads.
    model
        A trained predictor instead: nothing is trained, scores are not needed, expected cost
        comes from the price book at `now` (unix seconds) or from one price of each model, and
        queries unlike anything in its training are decided with the care of live ones.
    sweep
        Number of cost weights, at least 2. The grid depends on expected costs alone.
    compare
        Which of `comparisons.NAMES` to run; those that train are left out with `model`.
    max_steps
        The most calls of a query: above 1, recorded answers are looked at, by a verifier that is
        trained on the other folds. Of an answer nothing is read before its call is made.
    verifier
        A trained one, which `model` needs above one step.
    draws, splits
        Bootstrap resamples of the intervals, and splits of the figures with a chosen cost weight.
    progress
        Called with a stage's name, how much of it is done, and of how much.

    Raises
    ------
    OutcomeFileError
        If there is no score and no model, or too little to train on; above one step, no response.
    ConfigurationError
        Above one step, with `model` and no `verifier`, or fewer than three folds.
    """
    notes = [figures.words(tier) for tier, figures in outcomes.votes.items()]
    if outcomes.votes and (model is not None or max_steps > 1):
        raise ConfigurationError(
            "votes are held on what a model of single answers neither learnt nor looked at; leave "
            "out the trained model and the cascade, or the votes"
        )
    if max_steps > 1 and model is not None and verifier is None:
        raise ConfigurationError("a cascade with a trained model needs a trained gate (--gate)")
    cascading = Cascading(outcomes, sweep, max_steps, verifier) if max_steps > 1 else None
    if model is None:
        if not outcomes.has_score:
            raise OutcomeFileError(
                outcomes.path,
                "it has no query with a score of every tier, so nothing can be learnt; give a "
                "trained model (--model), which needs no scores",
            )
        decided = _cross_validated(
            outcomes, folds, sweep, seed, learner, embedder, compare, progress, cascading
        )
    else:
        decided = _with_model(outcomes, model, sweep, book, now, compare, progress, cascading)
        if outcomes.has_score:
            notes.append(
                "if the model was trained on these queries, its figures show memory, not skill"
            )
        if any(name in compare for name in _NEED_TRAINING):
            notes.append("nothing is trained with a model: no " + ", ".join(_NEED_TRAINING))
    router = decided.sweeps["router"]
    sweeps = {"router": router, **_other_sweeps(outcomes, decided, compare, sweep, progress)}
    truth = Measured(outcomes, draws, seed)
    report = _about(outcomes, decided, seed, sweep, None if model else folds, notes)
    report["model"] = None if model is None else model.name
    report |= {**NO_FIGURES, "intervals": {}, "calibration": {}, "honest": {}, "comparisons": {}}
    report["band"] = None
    if len(truth.rows):
        figures = measure(sweeps, truth, lambda done: progress("intervals", done, len(sweeps)))
        report |= figures.pop("router")
        report["calibration"] = calibration_of(decided.prediction.quality, truth)
        report["honest"] = _honest(router, truth, splits, seed)
        report["comparisons"] = {
            name: {"about": sweeps[name].about, **found, "curve": curve_points(sweeps[name], truth)}
            for name, found in figures.items()
        }
        report["judged"] = len(truth.rows)
        report["band"] = band(router, truth)
    else:
        notes.append("no scores: decisions and expected costs only")
    report["curve"] = _curve(router, decided, outcomes, truth)
    if not outcomes.has_cost:
        notes.append(
            "the cost of most queries is unknown, and with it cost at quality, AIQ and the closed "
            "gap" + _FALLBACK[decided.expected.relative]
        )
    return Evaluation(
        outcomes,
        decided.fold,
        decided.prediction,
        decided.expected,
        decided.weights,
        router.chosen,
        report,
        router.called,
    )


def _cross_validated(
    outcomes: Outcomes,
    folds: int,
    sweep: int,
    seed: int,
    learner: Learner | None,
    embedder: TextEmbedder | None,
    compare: Sequence[str],
    progress: Progress,
    cascading: Cascading | None,
) -> Decided:
    run = CrossValidation(
        outcomes,
        None,
        learner or _default_learner(embedder),
        folds,
        sweep,
        seed,
        compare,
        lambda done: progress("folds", done, 4 * folds),
        cascading,
    )
    _ = run.fold  # what cannot be dealt is refused before the long work
    progress("features", 0, 1)
    run.features = features_of(outcomes, embedder)
    return run.run()


def _default_learner(embedder: TextEmbedder | None) -> Learner:
    from router.predict.training import fit  # scikit-learn loads with it

    return partial(fit, embedder=embedder)


def _with_model(
    outcomes: Outcomes,
    model: Predictor,
    points: int,
    book: PriceBook | None,
    now: float,
    compare: Sequence[str],
    progress: Progress,
    cascading: Cascading | None,
) -> Decided:
    n, columns = len(outcomes), outcomes.columns
    progress("features", 0, 1)
    prediction = model.batch(features_of(outcomes, model.embedder))
    for tier, column in zip(outcomes.ladder, columns, strict=True):
        if np.isnan(prediction.quality[:, column]).any():
            raise ConfigurationError(
                f"model {model.name} never learnt tier {tier}; train one with it, or leave the "
                "tier out of the ladder"
            )
    expected = constant_prices(
        outcomes, prediction.output_tokens, estimate_input(outcomes), book, now
    )
    grid = cost_weights(expected.usd[:, columns], points)
    gain = prediction.quality[:, columns[-1]] - prediction.quality[:, columns[0]]
    quality = careful(prediction, columns)
    chosen = choose_tiers(quality, expected.usd, grid, columns)
    sweeps = {"router": Sweep(chosen, gain, f"the router with {model.name}")}
    if cascading is not None:
        assert cascading.verifier is not None
        cascading.decide(np.arange(n), cascading.verifier, quality, expected.usd, grid)
        sweeps |= cascading.sweeps(sweeps["router"])
    if "length" in compare:
        lengths = np.array([len(last_user_text(m)) for m in outcomes.messages], dtype=np.float64)
        everyone = np.arange(n)
        sweeps["length"] = comparisons.length(lengths, everyone, everyone, columns, points)
    return Decided(np.zeros(n, dtype=np.int64), prediction, expected, grid[None, :], sweeps)


def _other_sweeps(
    outcomes: Outcomes,
    decided: Decided,
    compare: Sequence[str],
    points: int,
    progress: Progress,
) -> dict[str, Sweep]:
    """Every comparison, in the order of `comparisons.NAMES`; those without scores to read last."""
    found = {name: decided.sweeps[name] for name in OF_CASCADES if name in decided.sweeps}
    n = len(outcomes)
    for name in (name for name in comparisons.NAMES if name in compare):
        if name == "singles":
            found |= comparisons.singles(outcomes)
        elif name == "random_mix":
            found[name] = comparisons.random_mix(outcomes)
        elif name == "litellm_heuristic":
            found[name] = comparisons.litellm_heuristic(
                outcomes, lambda done: progress("litellm's heuristic", done, n)
            )
        elif name == "oracle" and outcomes.has_score:
            found[name] = comparisons.oracle(outcomes, points)
        elif name in decided.sweeps:
            found[name] = decided.sweeps[name]
    return found


def _about(
    outcomes: Outcomes,
    decided: Decided,
    seed: int,
    sweep: int,
    folds: int | None,
    notes: list[str],
) -> dict[str, Any]:
    return {
        "outcomes": outcomes.path,
        "ladder": dict(outcomes.ladder),
        "seed": seed,
        "folds": folds,
        "sweep": sweep,
        "rows": outcomes.rows,
        "queries": len(outcomes),
        "questions": len(set(outcomes.group.tolist())),
        "judged": 0,
        "dropped": dict(outcomes.dropped),
        "cost_source": dict(outcomes.cost_source),
        "votes": {tier: asdict(figures) for tier, figures in outcomes.votes.items()},
        "expected_cost": decided.expected.how,
        "predicted_cost_unit": "relative" if decided.expected.relative else "usd",
        "notes": notes,
    }


def _honest(router: Sweep, truth: Measured, splits: int, seed: int) -> dict[str, Any]:
    cost, quality = truth.routed(router)
    top = truth.columns[-1]
    levels = chosen_on_calibration(
        cost,
        quality,
        None if truth.cost is None else truth.cost[:, top],
        truth.score[:, top],
        truth.group,
        splits=splits,
        seed=seed,
    )
    return {"splits": splits, "levels": levels}


def _curve(
    router: Sweep, decided: Decided, outcomes: Outcomes, truth: Measured
) -> list[dict[str, Any]]:
    """Each sweep point: its cost weight (the mean over folds), shares of tiers, cost, quality."""
    n = np.arange(len(outcomes))
    known = curve_points(router, truth) if len(truth.rows) else {}
    points = []
    for at, chosen in enumerate(router.chosen):
        cost, quality = known.get("cost_pct"), known.get("quality")
        points.append(
            {
                "sweep_point": at,
                "cost_weight": float(decided.weights[:, at].mean()),
                "share": {
                    tier: float(np.mean(chosen == column))
                    for tier, column in zip(outcomes.ladder, outcomes.columns, strict=True)
                },
                "expected_usd": None
                if decided.expected.relative
                else float(_expected_usd(router, decided, at).mean()),
                "predicted_quality": float(decided.prediction.quality[n, chosen].mean()),
                "cost_pct": None if cost is None else cost[at],
                "quality": None if quality is None else quality[at],
            }
        )
    return points


def _expected_usd(router: Sweep, decided: Decided, point: int) -> Floats:
    """What each query's calls were expected to cost, (N,)."""
    usd = decided.expected.usd
    steps = router.chosen[point : point + 1, :, None]
    if router.called is not None:
        steps = router.called.steps[point : point + 1].astype(np.int64)
    found: Floats = paid(steps, usd)[0]
    return found
