"""Train the predictor that is shipped, and measure it on questions it was not trained on.

    python benchmarks/train_predictor.py [--outcomes DIR] [--seed N] [--out DIR] [--skip-evaluation]

Writes the model folder and benchmarks/results/predictor.json. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import curves
import numpy as np
from numpy.typing import NDArray
from predictor_data import BELIEFS, LADDERS, Rows, fold_of, load, load_beliefs
from predictor_fit import fit, predictor_of

from router.demo.simulation import prompts
from router.predict import extract
from router.predict.model_file import ModelFile, save_model
from router.types import TIERS, Prediction, Request

ROOT = Path(__file__).resolve().parents[1]
FOLDS = 5
EVALUATED = ("zeroeval", "mmlu_pro_a")
Floats = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outcomes", type=Path, default=ROOT / "../shared/outcomes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "router/predict/default_model")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results")
    parser.add_argument("--skip-evaluation", action="store_true", help="only train and save")
    options = parser.parse_args()
    started = time.perf_counter()
    rows = load(options.outcomes)
    beliefs = load_beliefs(ROOT / "benchmarks/beliefs.jsonl")
    print(f"{len(rows)} questions, features in {time.perf_counter() - started:.0f} s")
    pool = without_repeats(rows)
    started = time.perf_counter()
    model = fit(pool, options.seed, beliefs=beliefs)
    seconds = time.perf_counter() - started
    if options.skip_evaluation:
        print(f"saved {save(model, options.out, {})}, {seconds:.0f} s")
        return
    results = {
        "protocol": {
            "seed": options.seed,
            "commit": commit(),
            "machine": machine(),
            "folds": FOLDS,
            "questions": len(rows),
            "questions_in_pool": len(pool),
            "beliefs": len(beliefs),
            "training_seconds": round(seconds, 1),
            "ladders": LADDERS,
        },
        "trained_on_own_folds": {s: own_folds(rows, s, options.seed) for s in EVALUATED},
        "trained_on_pool_less_fold": pool_folds(pool, beliefs, options.seed),
        "leave_one_source_out": {s: left_out(rows, beliefs, s, options.seed) for s in LADDERS},
        "beliefs": {
            "folds_of_beliefs": belief_folds(pool, beliefs, options.seed),
            "demo_prompts": demo_prompts(model),
        },
    }
    name = save(model, options.out, headline(results))
    results["protocol"]["model"] = name
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / "predictor.json"
    path.write_text(json.dumps(rounded(results), indent=1) + "\n")
    print(f"saved {name} and {path.name}")


def without_repeats(rows: Rows) -> Rows:
    """Drop routellm's rows whose question stands in a source with more tiers."""
    elsewhere = set(rows.key[rows.source != "routellm"].tolist())
    pairs = zip(rows.source, rows.key, strict=True)
    return rows.take(np.array([s != "routellm" or k not in elsewhere for s, k in pairs]))


def folds_of(rows: Rows, seed: int) -> NDArray[np.int64]:
    return np.array([fold_of(key, seed, FOLDS) for key in rows.key])


def own_folds(rows: Rows, source: str, seed: int) -> dict[str, Any]:
    """Train on four folds of the source itself, predict the fifth."""
    mine = complete(rows.take(rows.source == source))
    return cross_validate(mine, mine, source, seed)[source]


def pool_folds(pool: Rows, beliefs: Rows, seed: int) -> dict[str, Any]:
    """Train on the whole pool less a fold (in which equal questions fall together)."""
    return cross_validate(pool, pool, None, seed, beliefs)


def cross_validate(
    train: Rows, test: Rows, source: str | None, seed: int, beliefs: Rows | None = None
) -> dict[str, Any]:
    train_fold, test_fold = folds_of(train, seed), folds_of(test, seed)
    predictions = empty(len(test))
    cost = np.full((len(test), len(TIERS)), np.nan)
    for fold in range(FOLDS):
        held = np.flatnonzero(test_fold == fold)
        rest = train.take(train_fold != fold)
        found = predictor_of(fit(rest, seed, beliefs=beliefs)).batch(test.take(held).features)
        fill(predictions, held, found)
        for name in set(test.source[held].tolist()):
            mine = held[test.source[held] == name]
            cost[mine] = predicted_cost(
                rest.take(rest.source == name), test.take(mine), predictions.output_tokens[mine]
            )
    figures = {}
    for name in [source] if source else EVALUATED:
        mine = (test.source == name) & np.isfinite(test.cost).all(axis=1)
        label = "own folds" if source else "pool less fold"
        figures[name] = report(f"{name} ({label})", test, predictions, cost, mine, seed)
    return figures


def left_out(rows: Rows, beliefs: Rows, source: str, seed: int) -> dict[str, Any]:
    """Train on every other source, less the questions they share with this one."""
    test = rows.take(rows.source == source)
    shared = set(test.key.tolist())
    keep = np.array(
        [s != source and k not in shared for s, k in zip(rows.source, rows.key, strict=True)]
    )
    model = fit(without_repeats(rows.take(keep)), seed, beliefs=beliefs)
    predictions = predictor_of(model).batch(test.features)
    # Prices are known before any label is: here they are read off the source's own dollars.
    cost = predicted_cost(test, test, predictions.output_tokens)
    everything = np.ones(len(test), dtype=bool)
    return report(f"{source} (left out)", test, predictions, cost, everything, seed)


def belief_folds(pool: Rows, beliefs: Rows, seed: int) -> dict[str, Any]:
    """Train on the pool and four folds of the beliefs, predict the fifth."""
    deal = folds_of(beliefs, seed)
    predicted = np.full((len(beliefs), len(TIERS)), np.nan)
    for fold in range(FOLDS):
        held = deal == fold
        model = fit(pool, seed, beliefs=beliefs.take(~held))
        predicted[held] = predictor_of(model).batch(beliefs.take(held).features).quality
    regret = beliefs.score[:, -1:] - beliefs.score
    figures = {
        f"{TIERS[tier]}_to_frontier": correlation(predicted, tier, regret[:, tier])
        for tier in range(len(TIERS) - 1)
    }
    print(f"{BELIEFS} (fold left out): correlation of regret {rounded(figures)}", flush=True)
    return {"prompts": len(beliefs), **figures}


def demo_prompts(model: ModelFile) -> dict[str, Any]:
    """Correlate predicted regret with the difficulty that the demo's authors gave its prompts.

    A held-out check: nothing is fitted or chosen on it.
    """
    found = prompts()
    features = [
        extract(Request("", p.messages, {"tools": p.tools} if p.tools else {}, now=0.0))
        for p in found
    ]
    quality = predictor_of(model).batch(features).quality
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


def complete(rows: Rows) -> Rows:
    return rows.take(np.isfinite(rows.score).all(axis=1) & np.isfinite(rows.cost).all(axis=1))


def empty(n: int) -> Prediction:
    return Prediction(*(np.full((n, len(TIERS)), np.nan) for _ in range(4)))


def fill(whole: Prediction, index: NDArray[np.int64], part: Prediction) -> None:
    for name in ("quality", "quality_std", "output_tokens", "output_tokens_p95"):
        getattr(whole, name)[index] = getattr(part, name)


def predicted_cost(priced: Rows, test: Rows, output_tokens: Floats) -> Floats:
    """Price the predicted tokens; where dollars come without tokens, the tier's mean cost.

    Prices per token are recovered from the dollars and tokens of `priced`, exactly.
    """
    cost = np.full((len(test), len(TIERS)), np.nan)
    for tier in range(len(TIERS)):
        tokens = np.column_stack([priced.input_tokens, priced.tokens[:, tier]])
        has_cost = np.isfinite(priced.cost[:, tier])
        known = np.isfinite(tokens).all(axis=1) & has_cost
        if has_cost.any():
            cost[:, tier] = priced.cost[has_cost, tier].mean()
        if known.any():
            prices, *_ = np.linalg.lstsq(tokens[known], priced.cost[known, tier], rcond=None)
            cost[:, tier] = np.column_stack([test.input_tokens, output_tokens[:, tier]]) @ prices
    return cost


def report(
    label: str,
    rows: Rows,
    predictions: Prediction,
    cost: Floats,
    mine: NDArray[np.bool_],
    seed: int,
) -> dict[str, Any]:
    """Measure curve, calibration and token coverage on the chosen rows, and print a line."""
    tiers = np.isfinite(rows.score[mine]).any(axis=0)
    mine = mine & np.isfinite(rows.score[:, tiers]).all(axis=1)
    has_cost = bool(np.isfinite(rows.cost[mine][:, tiers]).all())
    figures: dict[str, Any] = {"questions": int(mine.sum())}
    figures["tiers"] = [tier for tier, known in zip(TIERS, tiers, strict=True) if known]
    if has_cost:
        quality, expected = predictions.quality[mine][:, tiers], cost[mine][:, tiers]
        score, true_cost = rows.score[mine][:, tiers], rows.cost[mine][:, tiers]
        chosen = curves.choices(quality, expected, curves.cost_weights(expected))
        figures |= curves.measure(chosen, score, true_cost)
        figures["interval_95"] = curves.bootstrap(chosen, score, true_cost, seed)
        area, (low, high) = figures["area_above_hull"], figures["interval_95"]["area_above_hull"]
        at = {
            k: None if v is None else round(v, 1) for k, v in figures["cost_pct_at_quality"].items()
        }
        print(
            f"{label}: area above hull {100 * area:+.2f} pt [{100 * low:+.2f}, {100 * high:+.2f}], "
            f"APGR {figures['apgr']:.3f} (hull {figures['apgr_of_hull']:.3f}), "
            f"peak {100 * figures['peak_quality_ratio']:.1f}%, cost % at quality {at}",
            flush=True,
        )
    figures["by_tier"] = {}
    for tier in np.flatnonzero(tiers):
        found = curves.calibration(predictions.quality[mine, tier], rows.score[mine, tier])
        tokens = rows.tokens[mine, tier]
        known = np.isfinite(tokens)
        if known.any():
            expected_tokens = predictions.output_tokens[mine, tier][known]
            bound = predictions.output_tokens_p95[mine, tier][known]
            found["tokens_within_p95"] = float(np.mean(tokens[known] <= bound))
            found["tokens_bias"] = float(expected_tokens.mean() / tokens[known].mean() - 1)
        figures["by_tier"][TIERS[tier]] = found
    errors = " ".join(f"{tier} {found['ece']:.3f}" for tier, found in figures["by_tier"].items())
    print(f"{label}: ECE {errors}", flush=True)
    return figures


def headline(results: dict[str, Any]) -> dict[str, Any]:
    """The few figures that travel with the model file."""
    pooled = results["trained_on_pool_less_fold"]
    return {
        source: {
            name: round(float(figures[name]), 4)
            for name in ("area_above_hull", "apgr", "peak_quality_ratio")
        }
        for source, figures in pooled.items()
    }


def save(model: ModelFile, folder: Path, metrics: dict[str, Any]) -> str:
    digest = save_model(folder, model.name, model.arrays, {**model.facts, "metrics": metrics})
    return f"{model.name}@{digest[:12]}"


def commit() -> str:
    """The commit, marked "-dirty" where the working tree differs from it."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return found.stdout.strip() if found.returncode == 0 else "uncommitted"


def machine() -> str:
    versions = f"Python {platform.python_version()}, numpy {np.__version__}"
    return f"{platform.machine()}, {os.cpu_count()} cores, {versions}"


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value


if __name__ == "__main__":
    main()
