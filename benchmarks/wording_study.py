"""What makes the shipped model steadier under other wordings, part by part.

    python benchmarks/wording_study.py [--outcomes DIR] [--seed N]

Flips of the 160 pairs that choices are made by (`paraphrases_dev.jsonl`), under four policies, with
each part of the recipe: differences between wordings as they were weighed before, wordings that
nobody judged, lengths that are alike for all wordings, the step from easy to hard. Beside them the
demo's prompts: expected share of good answers and expected dollars under its curves (a simulation),
at 8 USD^-1, and the correlation of regret with difficulty.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from predictor_data import load, load_beliefs, load_wordings
from predictor_fit import Recipe, fit
from stamp import ROOT, commit, machine, rounded
from train_predictor import correlation, without_repeats

from router import Router
from router.demo.simulation import PRICES, curves, prompts, success_probability
from router.predict import Predictor, extract_many
from router.predict.model_file import ModelFile
from router.types import TIERS, Prediction, Request

POLICIES = ("default", "frugal", "mixed", "quality")
BEFORE = Recipe(wording=200.0, frame=0.0, step=(0.3, 0.005, 1.0))
NO_TERM = replace(BEFORE, wording=0.0)
_COST_WEIGHT = 8.0  # the demo's
_LENGTHS = slice(2 * len(TIERS), None)  # of the heads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outcomes", type=Path, default=ROOT / "../shared/outcomes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pool = without_repeats(load(options.outcomes))
    beliefs = load_beliefs(ROOT / "benchmarks/beliefs.jsonl")
    wordings = load_wordings(ROOT / "benchmarks/wordings.jsonl")
    before, no_term, after = (
        fit(pool, beliefs, wordings, options.seed, recipe) for recipe in (BEFORE, NO_TERM, Recipe())
    )
    level = {"step": np.array([*Recipe.step[:2], 1.0], np.float32)}
    models = {
        "before": with_lengths(before, no_term),
        "steady lengths": with_lengths(before, after),
        "unjudged wordings": with_lengths(changed(after, level), no_term),
        "both": changed(after, level),
        "step": with_lengths(after, no_term),
        "all": after,
    }
    pairs = [
        json.loads(line)
        for line in (ROOT / "benchmarks/paraphrases_dev.jsonl").read_text("utf-8").splitlines()
    ]
    results: dict[str, Any] = {"seed": options.seed, "commit": commit(), "machine": machine()}
    for name, model in models.items():
        results[name] = rounded({"flips": flips(model, pairs), "demo": demo(model)})
        print(name, results[name], flush=True)
    path = ROOT / "benchmarks/results/wording_study.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def changed(model: ModelFile, arrays: Mapping[str, Any]) -> ModelFile:
    return replace(model, arrays={**model.arrays, **arrays})


def with_lengths(model: ModelFile, other: ModelFile) -> ModelFile:
    """The model with the other's output tokens."""
    arrays = {}
    for name in ("text_weights", "dense_weights", "intercept"):
        arrays[name] = model.arrays[name].copy()
        arrays[name][..., _LENGTHS] = other.arrays[name][..., _LENGTHS]
    return changed(model, {**arrays, "token_residuals": other.arrays["token_residuals"]})


def flips(model: ModelFile, pairs: list[dict[str, str]]) -> dict[str, float]:
    """The share of pairs whose tiers differ, by policy."""
    found = {}
    for policy in POLICIES:
        with Router(policy, store="sqlite://", predictor=Predictor(model)) as router:

            def tier(text: str, router: Router = router) -> str:
                return router.explain([{"role": "user", "content": text}]).arm.tier

            found[policy] = float(np.mean([tier(pair["a"]) != tier(pair["b"]) for pair in pairs]))
    return found


def demo(model: ModelFile) -> dict[str, Any]:
    """Route the demo's prompts by the rule at the demo's prices, and judge that by its curves."""
    found = prompts()
    requests = [
        Request("", p.messages, {"tools": p.tools} if p.tools else {}, now=0.0) for p in found
    ]
    said: Prediction = Predictor(model).batch(extract_many(requests))
    price = np.array([PRICES[tier][1] / 1e9 for tier in TIERS])
    chosen = (said.quality - _COST_WEIGHT * said.output_tokens * price).argmax(axis=1)
    good = dollars = 0.0
    for prompt, rank in zip(found, chosen.tolist(), strict=True):
        curve = curves()["tiers"][TIERS[rank]]
        length = curve["output_tokens"]
        logs = length["log_mean"] + length["log_slope"] * prompt.difficulty
        tokens = math.exp(logs + length["log_sigma"] ** 2 / 2)
        dollars += tokens * (1 + curve["reasoning_per_token"] * prompt.difficulty) * price[rank]
        good += success_probability(TIERS[rank], prompt.difficulty) / len(found)
    difficulty = np.array([p.difficulty for p in found])
    return {
        "good": good,
        "output_dollars": dollars,
        "regret_with_difficulty": correlation(said.quality, 0, difficulty),
        "requests": {TIERS[t]: int((chosen == t).sum()) for t in range(len(TIERS))},
    }


if __name__ == "__main__":
    main()
