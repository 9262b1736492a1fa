"""Measure what a predictor knows of a source that it was never trained on.

    python benchmarks/cold_start.py [--outcomes DIR] [--seed N] [--results DIR]

Each source is left out in turn, with every question that another source shares with it. All
choices (which features, which penalties, how far to trust the result) are made on the sources left
in, by leaving each of them out once more. Writes benchmarks/results/cold_start.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from cold_start_study import (
    COUNTED,
    GRID,
    LEAST_QUESTIONS,
    TRAINED_ON,
    Floats,
    Integers,
    Recipe,
    Regret,
    Source,
    Study,
    apgr_resampled,
    read,
)
from stamp import ROOT, commit, machine, rounded

from router.predict.features import DENSE_NAMES
from router.replay.evaluation.curves import Singles, summarise, upper_hull
from router.replay.evaluation.sweep import cost_weights
from router.types import TIERS

METHODS = ("random", "length", "plain ridge", "recipe")
SWEEP = 501  # predicted gains differ by less than the usual hundred weights resolve
BOOTSTRAPS = 1000
AREA_BOOTSTRAPS = 200
SHUFFLES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outcomes", type=Path, default=ROOT / "../shared/outcomes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results")
    options = parser.parse_args()
    study = Study(read(options.outcomes))
    results: dict[str, Any] = {
        "protocol": {
            "seed": options.seed,
            "commit": commit(),
            "machine": machine(),
            "counted": COUNTED,
            "trained_on": TRAINED_ON,
            "grid": len(GRID),
        },
        "left_out": {},
    }
    draws: dict[str, dict[str, Floats]] = {}
    for name in (*TRAINED_ON, "routerarena"):
        figures, draws[name] = leave_out(study, name, options.seed)
        results["left_out"][name] = figures
        report(name, figures)
    results["average"] = average(results["left_out"], draws, options.seed)
    for method, figures in results["average"].items():
        print(f"average, {method}: {rounded(figures)}", flush=True)
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / "cold_start.json"
    path.write_text(json.dumps(rounded(results), indent=1) + "\n", encoding="utf-8")


def leave_out(study: Study, name: str, seed: int) -> tuple[dict[str, Any], dict[str, Floats]]:
    outside = frozenset({name})
    train = [other for other in TRAINED_ON if other != name]
    source = study.sources[name]
    recipe = study.choose(name)
    direction = study.direction(recipe, train, outside).of(source.dense)
    regret = study.regret(recipe, name)
    length = source.dense[:, DENSE_NAMES.index("log_turn_characters")]
    by_length = Recipe("length", 1.0, 300.0)
    short = study.direction(by_length, train, outside).of(source.dense)
    plain = study.plain(name)
    methods = {
        "random": np.zeros(len(length)),
        "length": length,
        "plain ridge": plain,
        "recipe": direction,
    }
    predicted = {
        "random": np.tile(regret.level, (len(length), 1)),
        "length": regrets(study.regret(by_length, name), short),
        "plain ridge": regret.level + (plain - plain.mean())[:, None],
        "recipe": regrets(regret, direction),
    }
    draws = resampled(source, methods, seed)
    figures: dict[str, Any] = {
        "questions": len(length),
        "pairs": [TIERS[t] for t in source.pairs],
        "chosen": vars(recipe),
        "level": regret.level.tolist(),
        "trust": regret.trust.tolist(),
        "methods": {
            method: {
                "apgr": study.apgr(name, methods[method]),
                "interval_95": interval(draws[method]),
                **areas(source, predicted[method], seed),
            }
            for method in METHODS
        },
    }
    return figures, draws


def regrets(regret: Regret, direction: Floats) -> Floats:
    return regret.level + regret.trust * direction[:, None]


def interval(values: Floats) -> list[float]:
    return [float(v) for v in np.percentile(values, [2.5, 97.5])]


def resampled(source: Source, methods: dict[str, Floats], seed: int) -> dict[str, Floats]:
    """APGR of each method over the same resamples of a source's questions: (BOOTSTRAPS,) each."""
    n = len(source.rows)
    rng = np.random.default_rng(seed)
    found: dict[str, list[Floats]] = {name: [] for name in methods}
    for _ in range(BOOTSTRAPS // 50):
        weight = rng.multinomial(n, np.full(n, 1 / n), size=50).astype(np.float64)
        for name, predicted in methods.items():
            parts = []
            for tier in source.pairs:
                finite = np.isfinite(source.gain[:, tier])
                parts.append(
                    apgr_resampled(predicted[finite], source.gain[finite, tier], weight[:, finite])
                )
            found[name].append(np.mean(parts, axis=0))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def areas(source: Source, regret: Floats, seed: int) -> dict[str, Any]:
    """Area above the hull: of the cheapest tier and the frontier, and of the whole ladder.

    A tier's expected cost is its mean on the source: prices are known before any label is. The
    first area does not depend on the regrets' levels, the second does; both are 0 where no tier
    may trust the direction. `area_above_hull` joins the
    best points of the sweep, which flatters: `along` joins all of them, in order of their cost,
    and `shuffled` gives mean and 95% quantile of the area when the predictions are dealt to other
    questions. Empty where costs are unknown, or where the frontier is not the dearer one.
    """
    recorded = source.rows.examples.score
    tiers = [t for t in range(4) if np.isfinite(recorded[:, t]).sum() >= LEAST_QUESTIONS]
    if not np.isfinite(source.rows.cost[:, tiers]).any(axis=0).all():
        return {}
    cheapest = min(tiers, key=lambda t: float(np.nanmean(source.rows.cost[:, t])))
    if cheapest == tiers[-1]:
        return {}
    quality = -np.column_stack([regret, np.zeros(len(regret))])
    found = {}
    for label, used in {"two tiers": [cheapest, 3], "ladder": tiers}.items():
        cost, score = source.rows.cost[:, used], recorded[:, used]
        whole = np.isfinite(cost).all(axis=1) & np.isfinite(score).all(axis=1)
        cost, score, predicted = cost[whole], score[whole], quality[whole][:, used]
        n = len(score)
        rng = np.random.default_rng(seed)
        draws = rng.multinomial(n, np.full(n, 1 / n), size=AREA_BOOTSTRAPS) / n
        even = np.full((1, n), 1 / n)
        chosen = sweep(predicted, cost)
        shuffled = [
            above_hull(sweep(rng.permutation(predicted), cost), score, cost, even)[0]
            for _ in range(SHUFFLES)
        ]
        found[label] = {
            "area_above_hull": float(above_hull(chosen, score, cost, even)[0]),
            "interval_95": interval(above_hull(chosen, score, cost, draws)),
            "along": along(chosen, score, cost),
            "shuffled": [float(np.mean(shuffled)), float(np.quantile(shuffled, 0.95))],
        }
    return found


def sweep(quality: Floats, cost: Floats) -> Integers:
    """The distinct choices, (L, N), that are best at some cost weight by each tier's mean cost."""
    expected = np.tile(cost.mean(axis=0), (len(cost), 1))
    weights = cost_weights(expected, SWEEP)
    chosen = np.stack([np.argmax(quality - w * expected, axis=1) for w in weights])
    return chosen[np.concatenate([[True], (chosen[1:] != chosen[:-1]).any(axis=1)])]


def above_hull(chosen: Integers, score: Floats, cost: Floats, weight: Floats) -> Floats:
    """The area above the hull of single models, (R,); `weight` (R, N), rows of sum 1.

    The mean, over spends from the cheapest model's to the frontier's, of the routed quality less
    that of the best random mix of single models; the hull is drawn anew for each resample.
    """
    index = np.arange(len(score))
    routed_cost, routed_score = weight @ cost[index, chosen].T, weight @ score[index, chosen].T
    found = []
    for x, y, c, q in zip(routed_cost, routed_score, weight @ cost, weight @ score, strict=True):
        area = summarise(x, y, Singles(c, q)).aiq_above_random_mix
        found.append(np.nan if area is None else area)
    return np.array(found)


def along(chosen: Integers, score: Floats, cost: Floats) -> float:
    index = np.arange(len(score))
    x, y = cost[index, chosen].mean(axis=1), score[index, chosen].mean(axis=1)
    hull_x, hull_y = upper_hull(cost.mean(axis=0), score.mean(axis=0))
    spends = np.linspace(cost.mean(axis=0).min(), cost[:, -1].mean(), 1001)
    mixed = np.interp(spends, hull_x, hull_y)
    order = np.argsort(x, kind="stable")
    routed = np.interp(spends, x[order], y[order])
    return float(np.mean(np.where(spends < x.min(), 0.0, routed - mixed)))


def report(name: str, figures: dict[str, Any]) -> None:
    print(f"{name}: {figures['chosen']}, trust {rounded(figures['trust'])}", flush=True)
    for method, one in figures["methods"].items():
        low, high = one["interval_95"]
        line = f"  {method:12} APGR {one['apgr']:.3f} [{low:.3f}, {high:.3f}]"
        for label in ("two tiers", "ladder"):
            if label in one:
                area, (low, high) = one[label]["area_above_hull"], one[label]["interval_95"]
                line += f"  {label} {100 * area:+.2f} pt [{100 * low:+.2f}, {100 * high:+.2f}]"
                line += f" (along {100 * one[label]['along']:+.2f},"
                line += f" shuffled {100 * one[label]['shuffled'][0]:+.2f})"
        print(line, flush=True)


def average(
    left_out: dict[str, Any], draws: dict[str, dict[str, Floats]], seed: int
) -> dict[str, Any]:
    """Mean over the counted sources; questions resampled, and sources resampled as well."""
    pick = np.random.default_rng(seed).integers(len(COUNTED), size=(BOOTSTRAPS, len(COUNTED)))
    found = {}
    for method in METHODS:
        table = np.column_stack([draws[name][method] for name in COUNTED])
        mean = np.mean([left_out[name]["methods"][method]["apgr"] for name in COUNTED])
        found[method] = {
            "apgr": float(mean),
            "interval_95_questions": interval(table.mean(axis=1)),
            "interval_95_sources_too": interval(
                np.take_along_axis(table, pick, axis=1).mean(axis=1)
            ),
        }
    return found


if __name__ == "__main__":
    main()
