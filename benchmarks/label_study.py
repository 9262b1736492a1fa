"""Do means over penalties, or labels drawn to their task's mean, route RouteLLM's MMLU better?

    python benchmarks/label_study.py [--outcomes DIR] [--seed N]

APGR of logistic heads on holdouts inside each training part, where a choice may be made, and on the
folds of `routing_quality.py`, where it is judged. Nothing of it is in the router: see the README.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from predictor_data import LADDERS, outcomes_of
from routing_quality import FEW_LABELS
from stamp import ROOT, commit, machine, rounded

from router.predict.design import DENSE_SHARE, Design, text_matrix
from router.predict.examples import Examples, folds_of
from router.predict.learners import Penalties, log_odds, neighbours_of
from router.predict.scorer import DENSE_LIMIT
from router.replay.evaluation.costs import estimate_input
from router.replay.evaluation.curves import two_tiers
from router.replay.evaluation.folds import deal_folds
from router.replay.recorded.featurise import examples_of, features_of

Floats = NDArray[np.float64]
RESULTS = ROOT / "benchmarks/results/label_study.json"
FOLDS, INNER = 5, 4
PLAIN = tuple(Penalties(c, share) for c in (0.3, 0.6) for share in (0.0, DENSE_SHARE))
DRAWN = tuple(Penalties(1.2, share) for share in (0.0, DENSE_SHARE))
_SHARE, _PRIOR_ROWS = 0.5, 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outcomes", type=Path, default=ROOT / "../shared/outcomes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcomes = outcomes_of(options.outcomes, "routellm", "mmlu", LADDERS["routellm"])
    examples = examples_of(outcomes, features_of(outcomes, None), estimate_input(outcomes))
    columns, fold = outcomes.columns, deal_folds(outcomes.group, FOLDS, options.seed)
    results: dict[str, Any] = {"seed": options.seed, "commit": commit(), "machine": machine()}
    for labels in (None, FEW_LABELS):
        for where in ("inner", "outer"):
            found: dict[str, list[float]] = {}
            for train, test in parts(examples, fold, where, options.seed):
                rows = train
                if labels:
                    drawn = np.random.default_rng(options.seed).permutation(len(train))
                    rows = train[drawn[:labels]]
                weak, strong = examples.score[test][:, columns].T
                for name, gain in gains(examples.take(rows), examples.take(test), columns).items():
                    figures = two_tiers(gain, weak, strong)[0]
                    assert figures is not None
                    found.setdefault(name, []).append(figures.apgr)
            means = {name: float(np.mean(each)) for name, each in found.items()}
            results[f"{labels or 'all'} labels, {where}"] = means
            print(labels, where, rounded(means), flush=True)
    RESULTS.write_text(json.dumps(rounded(results), indent=1) + "\n")


def parts(
    examples: Examples, fold: NDArray[np.int64], where: str, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Training and test rows: of each fold, or of a holdout in each fold's training part."""
    for number in range(FOLDS):
        train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        if where == "inner":
            deal = folds_of(examples.group[train], INNER, 77 + number + 1000 * seed)
            train, test = train[deal != 0], train[deal == 0]
        yield train, test


def gains(train: Examples, test: Examples, columns: list[int]) -> dict[str, Floats]:
    """Predicted gain of the dearer tier, by method."""
    design, score = Design.of(train), train.score[:, columns]
    near = neighbours_of(design, score, 0)
    dense = (test.features.dense - design.mean) / design.scale
    text = text_matrix(design.vocabulary, test.features)
    new = Design(
        *(test, design.vocabulary, design.mean, design.scale, text),
        np.clip(dense, -DENSE_LIMIT, DENSE_LIMIT),
    )
    of: dict[str, list[Floats]] = {"plain": [], "drawn": []}
    found = {}
    for kind, grid, label in (
        ("plain", PLAIN, score),
        ("drawn", DRAWN, towards_tasks(score, train.task)),
    ):
        for each in grid:
            odds = np.asarray(log_odds(design, label, each, near).predict(new.both))
            of[kind].append(np.log(odds) - np.log1p(-odds))
            found[f"{kind}, C {each.C}, dense {each.dense_share}"] = odds
    found |= {f"mean of {kind}": _chance(np.mean(odds, axis=0)) for kind, odds in of.items()}
    halves = [np.mean(odds, axis=0) for odds in of.values()]
    found["mean of both"] = _chance(np.mean(halves, axis=0))
    found["neighbours"] = near.predict(text)
    return {name: quality[:, 1] - quality[:, 0] for name, quality in found.items()}


def towards_tasks(score: Floats, task: NDArray[np.str_]) -> Floats:
    """Labels (N, T) half way to the mean of the others of their task, that shrunk to all's mean."""
    _, of = np.unique(task, return_inverse=True)
    sums = np.zeros((of.max() + 1, score.shape[1]))
    np.add.at(sums, of, score)
    count = np.bincount(of)[of][:, None]
    others = (sums[of] - score + _PRIOR_ROWS * score.mean(axis=0)) / (count - 1 + _PRIOR_ROWS)
    drawn: Floats = score + _SHARE * (others - score)
    return drawn


def _chance(odds: Floats) -> Floats:
    chance: Floats = 1 / (1 + np.exp(-odds))
    return chance


if __name__ == "__main__":
    main()
