"""Train the predictor that is shipped, and hold it against judgements it was not trained on.

    python benchmarks/train_predictor.py [--outcomes DIR] [--seed N] [--out DIR] [--skip-checks]

Writes the model folder and benchmarks/results/predictor.json. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from predictor_data import BELIEFS, LADDERS, Rows, Wordings, load, load_beliefs, load_wordings
from predictor_fit import fit
from stamp import ROOT, commit, machine, rounded

from router.demo.simulation import prompts
from router.predict import extract_many
from router.predict.examples import folds_of
from router.predict.model_file import ModelFile, save_model
from router.predict.scorer import Predictor
from router.types import TIERS, Request

FOLDS = 5
Floats = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outcomes", type=Path, default=ROOT / "../shared/outcomes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "router/predict/default_model")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results")
    parser.add_argument("--skip-checks", action="store_true", help="only train and save")
    options = parser.parse_args()
    trained_at = commit()  # the model that is written below would make the tree dirty
    pool = without_repeats(load(options.outcomes))
    beliefs = load_beliefs(ROOT / "benchmarks/beliefs.jsonl")
    wordings = load_wordings(ROOT / "benchmarks/wordings.jsonl")
    started = time.perf_counter()
    model = fit(pool, beliefs, wordings, options.seed)
    seconds = time.perf_counter() - started
    digest = save_model(options.out, model.name, model.arrays, dict(model.facts))
    size = sum(file.stat().st_size for file in options.out.glob("*.npy"))
    print(f"saved {model.name}@{digest[:12]}, {seconds:.0f} s, {size / 1e6:.1f} MB")
    if options.skip_checks:
        return
    results = {
        "protocol": {
            "seed": options.seed,
            "commit": trained_at,
            "machine": machine(),
            "model": f"{model.name}@{digest[:12]}",
            "bytes": size,
            "questions": len(pool),
            "beliefs": len(beliefs),
            "wordings": len(wordings.group),
            "training_seconds": round(seconds, 1),
            "ladders": LADDERS,
        },
        "folds_of_beliefs": belief_folds(pool, beliefs, wordings, options.seed),
        "demo_prompts": demo_prompts(model),
    }
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / "predictor.json"
    path.write_text(json.dumps(rounded(results), indent=1) + "\n")


def without_repeats(rows: Rows) -> Rows:
    """Drop routellm's rows whose question stands in a source with more tiers."""
    elsewhere = set(rows.key[rows.source != "routellm"].tolist())
    pairs = zip(rows.source, rows.key, strict=True)
    return rows.take(np.array([s != "routellm" or k not in elsewhere for s, k in pairs]))


def belief_folds(pool: Rows, beliefs: Rows, wordings: Wordings, seed: int) -> dict[str, Any]:
    """Train on the pool and four folds of the beliefs, predict the fifth."""
    deal = folds_of(beliefs.key, FOLDS, seed)
    predicted = np.full((len(beliefs), len(TIERS)), np.nan)
    for fold in range(FOLDS):
        held = deal == fold
        model = fit(pool, beliefs.take(~held), wordings, seed)
        predicted[held] = Predictor(model).batch(beliefs.examples.features[held]).quality
    score = beliefs.examples.score
    figures = {
        f"{TIERS[tier]}_to_frontier": correlation(predicted, tier, score[:, -1] - score[:, tier])
        for tier in range(len(TIERS) - 1)
    }
    print(f"{BELIEFS} (fold left out): correlation of regret {rounded(figures)}", flush=True)
    return {"prompts": len(beliefs), **figures}


def demo_prompts(model: ModelFile) -> dict[str, Any]:
    """Correlate predicted regret with the difficulty that the demo's authors gave its prompts.

    A held-out check: nothing is fitted or chosen on it.
    """
    found = prompts()
    features = extract_many(
        [Request("", p.messages, {"tools": p.tools} if p.tools else {}, now=0.0) for p in found]
    )
    quality = Predictor(model).batch(features).quality
    difficulty = np.array([p.difficulty for p in found])
    language = np.array([p.language for p in found])
    parts = {"all": language == language}
    parts |= {name: language == name for name in sorted(set(language.tolist()))}
    figures = {
        name: {
            "prompts": int(mine.sum()),
            **{
                f"{TIERS[t]}_to_frontier": correlation(quality[mine], t, difficulty[mine])
                for t in (0, 1)
            },
        }
        for name, mine in parts.items()
    }
    print(f"demo prompts: correlation of regret with difficulty {rounded(figures)}", flush=True)
    return figures


def correlation(quality: Floats, tier: int, label: Floats) -> float:
    return float(np.corrcoef(quality[:, -1] - quality[:, tier], label)[0, 1])


if __name__ == "__main__":
    main()
