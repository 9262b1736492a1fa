"""What looking at answers gains: cascades against the same predictions alone, by cross-validation.

    python benchmarks/cascade.py [--outcomes DIR] [--only NAME …] [--steps N …] [--seed N]
                                 [--again N …] [--cache DIR] [--save DIR]

Writes benchmarks/results/cascade.json: for each source and each number of steps the cost at shares
of always-frontier's quality, beside that of single calls and of the naive cascade that escalates
whatever two cheap tiers disagree on; and the most calls once more with the folds dealt by other
seeds (`--again`), since a figure moves by as much as that; and the chains of a gate that has learnt
nothing, by form and agreement. `--cache` keeps trained predictors
between runs; `--save` trains one verifier on all answers of the (only) source named and keeps it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from predictor_data import LADDERS, outcomes_of
from stamp import ROOT, commit, machine, rounded

from router.gates.verifier import NAMES
from router.predict.examples import Examples
from router.predict.model_file import ModelFile, load_model, save_model
from router.predict.training import fit
from router.replay.evaluation.by_form import ByForm
from router.replay.evaluation.cascading import Cascading, outer_predictions
from router.replay.evaluation.costs import estimate_input
from router.replay.evaluation.evaluate import evaluate
from router.replay.evaluation.folds import deal_folds
from router.replay.evaluation.verifier_training import train_verifier
from router.replay.recorded.featurise import examples_of, features_of

RESULTS = ROOT / "benchmarks/results/cascade.json"
SOURCES = ("mmlu_pro_a", "zeroeval")
LEAST_DRAWS = 20  # of intervals that are not kept
FIGURES = ("cost_pct_at_quality", "peak_quality_ratio", "aiq", "oracle_gap_closed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outcomes", type=Path, default=ROOT / "../shared/outcomes")
    parser.add_argument("--only", action="append", choices=SOURCES)
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--sweep", type=int, default=101)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    learner = Learner(options.cache)
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    for source in options.only or SOURCES:
        outcomes = outcomes_of(options.outcomes, source, "", LADDERS[source])
        if options.save:
            print(save(outcomes, options.save, learner, options.seed))
        found: dict[str, Any] = {}
        for steps in options.steps:
            started = time.perf_counter()
            report = evaluate(
                outcomes,
                seed=options.seed,
                sweep=options.sweep,
                learner=learner,
                max_steps=steps,
                draws=options.draws,
                compare=("oracle",),
            ).report
            found[f"up_to_{steps}_calls"] = figures(report)
            for name in ("pre_call", "disagreement"):
                found[name] = figures(report["comparisons"][name])
            shown = {n: rounded(f["cost_pct_at_quality"]) for n, f in found.items()}
            print(source, steps, json.dumps(shown, indent=1), flush=True)
            print(f"{time.perf_counter() - started:.0f} s", flush=True)
        report = evaluate(
            outcomes,
            seed=options.seed,
            sweep=options.sweep,
            learner=learner,
            max_steps=max(options.steps),
            verifier=ByForm(),
            draws=options.draws,
        ).report
        found["by_form"] = figures(report)
        shown = rounded(found["by_form"]["cost_pct_at_quality"])
        print(source, "with nothing trained but predictions", json.dumps(shown), flush=True)
        again = {}
        for seed in options.again:
            report = evaluate(
                outcomes,
                seed=seed,
                sweep=options.sweep,
                learner=learner,
                max_steps=max(options.steps),
                draws=LEAST_DRAWS,
            ).report
            again[str(seed)] = {name: report[name] for name in FIGURES}
            print(source, "dealt by seed", seed, json.dumps(rounded(again[str(seed)])), flush=True)
        results[source] = rounded(
            {
                "ladder": LADDERS[source],
                "queries": len(outcomes),
                "folds": 5,
                "seed": options.seed,
                "commit": commit(),
                "machine": machine(),
                **found,
                "dealt_again": again,
            }
        )
        options.out.write_text(json.dumps(results, indent=1) + "\n")


def figures(report: dict[str, Any]) -> dict[str, Any]:
    found = {name: report[name] for name in FIGURES}
    found["intervals"] = {name: report["intervals"].get(name) for name in FIGURES}
    if "honest" in report:
        found["chosen_on_other_half"] = {
            level: {key: one[key] for key in ("cost_pct", "quality_ratio", "share_below")}
            for level, one in report["honest"]["levels"].items()
        }
    return found


class Learner:
    """The predictor's training, remembered in a folder if one is given."""

    def __init__(self, folder: Path | None):
        self.folder = folder

    def __call__(self, examples: Examples, seed: int = 0) -> ModelFile:
        if self.folder is None:
            return fit(examples, seed)
        text = f"{seed}\n" + "\n".join(examples.group.tolist())
        said = hashlib.sha256(text.encode() + np.nan_to_num(examples.score).tobytes()).hexdigest()
        place = self.folder / said[:24]
        if not (place / "model.json").exists():
            model = fit(examples, seed)
            save_model(place, model.name, model.arrays, model.facts)
        return load_model(place)


def save(outcomes: Any, folder: Path, learner: Learner, seed: int) -> str:
    """Train a verifier on all answers, on priors of predictors that did not see them."""
    features = features_of(outcomes, None)
    predict = outer_predictions(
        learner, examples_of(outcomes, features, estimate_input(outcomes)), features, seed
    )
    fold = deal_folds(outcomes.group, 5, seed)
    prior = np.full((len(outcomes), 4), np.nan)
    for number in range(5):
        at = np.flatnonzero(fold == number)
        prior[at] = predict(np.flatnonzero(fold != number), at)
    answers = Cascading(outcomes, 1, 2).answers
    arrays = train_verifier(prior, outcomes.score, answers, outcomes.columns)
    facts = {"inputs": list(NAMES), "seed": seed, "trained_on": [Path(outcomes.path).name]}
    return save_model(folder, "verifier", arrays, facts)


if __name__ == "__main__":
    main()
