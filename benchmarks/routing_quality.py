"""Cost and quality of learned routing on recorded outcomes, by cross-validation.

    python benchmarks/routing_quality.py [--outcomes DIR] [--only NAME …] [--seed N]

What `router evaluate` prints, for the ladders of benchmarks/README.md; writes
benchmarks/results/routing_quality.json. The figures with a cost weight that was chosen on other
queries than it is judged on stand beside those that are read off the curve. Which questions share a
fold moves the APGR of a two-tier ladder by more than most changes of a learner do, so it is also
given as a mean over several deals of the folds.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from predictor_data import LADDERS, outcomes_of
from stamp import ROOT, commit, machine, rounded

from router.predict.embedder import TextEmbedder
from router.predict.examples import Examples
from router.predict.model_file import ModelFile
from router.predict.training import fit
from router.replay.evaluation import comparisons
from router.replay.evaluation.curves import two_tiers
from router.replay.evaluation.evaluate import Evaluation, evaluate

RESULTS = ROOT / "benchmarks/results/routing_quality.json"
FEW_LABELS = 1500
DEALS = 5
# name → source, beginning of the task, labelled rows of each training part (None for all)
SETTINGS: dict[str, tuple[str, str, int | None]] = {
    "routellm_mmlu": ("routellm", "mmlu", None),
    "routellm_gsm8k": ("routellm", "gsm8k", None),
    "routellm_mmlu_1500_labels": ("routellm", "mmlu", FEW_LABELS),
    "mmlu_pro_a": ("mmlu_pro_a", "", None),
    "zeroeval": ("zeroeval", "", None),
    "paretobandit_val": ("paretobandit_val", "", None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outcomes", type=Path, default=ROOT / "../shared/outcomes")
    parser.add_argument("--only", action="append", choices=sorted(SETTINGS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks/results/routing_quality.json"
    )
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name in options.only or SETTINGS:
        started = time.perf_counter()
        report = measured(name, options.outcomes, options.seed, options.draws)
        report |= {
            "seconds": time.perf_counter() - started,
            "commit": commit(),
            "machine": machine(),
        }
        results[name] = rounded(report)
        options.out.write_text(json.dumps(results, indent=1) + "\n")
        shown = {
            key: report[key] for key in ("cost_pct_at_quality", "peak_quality_ratio", "aiq", "apgr")
        } | {"apgr_of_folds": report["apgr_of_folds"]}
        print(name, rounded(shown), f"{report['seconds']:.0f} s", flush=True)


def measured(name: str, folder: Path, seed: int, draws: int) -> dict[str, Any]:
    """Evaluate one setting; curves are left out of what is kept."""
    source, task, labels = SETTINGS[name]
    outcomes = outcomes_of(folder, source, task, LADDERS[source])
    learner = partial(learn, labels=labels)
    compare = comparisons.NAMES if labels is None else ()
    evaluation = evaluate(outcomes, seed=seed, learner=learner, draws=draws, compare=compare)
    found = evaluation.report
    first = apgr_of_folds(evaluation)
    found["apgr_of_folds"] = first
    if first is not None:
        others = [
            apgr_of_folds(evaluate(outcomes, seed=each, learner=learner, draws=0, compare=()))
            for each in range(seed + 1, seed + DEALS)
        ]
        found["apgr_of_deals"] = spread_of([each["mean"] for each in (first, *others) if each])
    found["outcomes"] = source
    kept = ("outcomes", "ladder", "seed", "folds", "queries", "dropped", "cost_pct_at_quality",
            "peak_quality_ratio", "aiq", "aiq_above_random_mix", "apgr", "apgr_of_folds",
            "apgr_of_deals", "cpt50", "cpt80", "oracle_gap_closed", "intervals", "calibration",
            "honest")  # fmt: skip
    figures = ("cost_pct_at_quality", "peak_quality_ratio", "aiq", "apgr", "oracle_gap_closed")
    others = {
        name: {key: other[key] for key in figures if key in other}
        for name, other in found["comparisons"].items()
    }
    return {**{key: found[key] for key in kept if key in found}, "comparisons": others}


def learn(
    examples: Examples, seed: int, *, labels: int | None, embedder: TextEmbedder | None = None
) -> ModelFile:
    """Fit to so many of the examples, drawn at random; to all for None."""
    if labels is not None:
        examples = examples.take(np.random.default_rng(seed).permutation(len(examples))[:labels])
    return fit(examples, seed, embedder=embedder)


def apgr_of_folds(evaluation: Evaluation) -> dict[str, float] | None:
    """APGR of each fold's own router on its own fold: mean and standard deviation.

    The pooled figure ranks the folds' gains against each other, though each has its own router.
    """
    columns = evaluation.outcomes.columns
    if len(columns) != 2:
        return None
    quality, score = evaluation.prediction.quality, evaluation.outcomes.score
    found = []
    for fold in np.unique(evaluation.fold):
        mine = evaluation.fold == fold
        weak, strong = score[mine][:, columns].T
        figures = two_tiers(quality[mine, columns[1]] - quality[mine, columns[0]], weak, strong)[0]
        if figures is not None:
            found.append(figures.apgr)
    return spread_of(found)


def spread_of(found: list[float]) -> dict[str, float]:
    """Mean and standard deviation."""
    return {"mean": float(np.mean(found)), "std": float(np.std(found, ddof=1))}


if __name__ == "__main__":
    main()
