"""Do intervals of quality hold where a judge draws dear answers more often than others?

    python benchmarks/label_rates.py [--outcomes DIR] [--resamplings N] [--seed N]

Logs as those of `off_policy.py`, but their labels are drawn by a rate that goes with the bill: the
dearest fifth of each arm's answers is judged `OFTEN`, the others `SELDOM`. Every target policy is
estimated with these rates, and as if labels were missing at random. A simulation of logging and of
drawing; answers, scores and bills are recorded ones. Writes benchmarks/results/label_rates.json.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from off_policy import RANDOM, ROWS, Population, judged, logged, population
from stamp import ROOT, commit, machine, rounded

from router.replay.off_policy.estimate import estimate
from router.replay.off_policy.path import add_policy
from router.replay.off_policy.sums import LOGGED, PolicySums, Tally, add_logged, rows_of

RESULTS = ROOT / "benchmarks/results/label_rates.json"
SOURCES = ("zeroeval", "mmlu_pro_a")
OFTEN, SELDOM = 0.8, 0.15  # of the answers
DEAR = 0.8  # quantile of an arm's bills, from which they are judged often
WEIGHTS = (0.0, 0.05, 0.2, 1.0, 5.0)


def study(people: Population, resamplings: int, seed: int) -> dict[str, Any]:
    """Estimate every target from every log, with the rates and without."""
    n, width = people.quality.shape
    everyone = np.arange(n)
    scale = 1 / float(people.cost[:, -1].mean() / 1e9)
    chances = np.full((n, width), RANDOM / width)
    chances[everyone, people.chosen(0.1 * scale)] += 1 - RANDOM
    targets = {f"cost weight {w:g}": people.chosen(w * scale) for w in WEIGHTS}
    targets |= {f"always {arm.tier}": np.full(n, at) for at, arm in enumerate(people.arms)}
    rates = np.where(people.cost >= np.quantile(people.cost, DEAR, axis=0), OFTEN, SELDOM)
    rng = np.random.default_rng(seed)
    found: dict[tuple[str, str], list[Any]] = {}
    for _ in range(resamplings):
        batch, query = logged(people, chances, ROWS, rng)
        at = (query, batch.chosen)
        drawn = rng.random(ROWS) < rates[at]
        batch = replace(
            batch,
            label=np.where(drawn, people.score[at], np.nan),
            label_rate=np.where(drawn, rates[at], np.nan),
        )
        for kind, seen in (("by rates", batch), ("at random", replace(batch, label_rate=None))):
            rows, tally = rows_of(seen), Tally(LOGGED)
            add_logged(tally, seen, rows)
            for name, arm in targets.items():
                sums = PolicySums()
                add_policy(sums, seen, rows, arm[query])
                one = estimate(tally, sums).by_outcome["quality"]["doubly_robust"].estimate()
                found.setdefault((name, kind), []).append((one.value, one.low, one.high))
    report: dict[str, Any] = {"queries": n, "rows_of_a_log": ROWS, "targets": {}, "coverage": {}}
    for name, arm in targets.items():
        truth = float(people.score[everyone, arm].mean())
        report["targets"][name] = {"truth": truth} | {
            kind: judged(np.array(found[name, kind]), truth) for kind in ("by rates", "at random")
        }
    for kind in ("by rates", "at random"):
        covered = [each[kind]["covered"] for each in report["targets"].values()]
        report["coverage"][kind] = {"mean": float(np.mean(covered)), "least": min(covered),
                                    "most": max(covered)}  # fmt: skip
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outcomes", type=Path, default=ROOT / "../shared/outcomes")
    parser.add_argument("--resamplings", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    results = {}
    for source in SOURCES:
        began = time.perf_counter()
        people = population(options.outcomes, source, options.seed)
        report = study(people, options.resamplings, options.seed)
        report |= {"resamplings": options.resamplings, "seed": options.seed, "commit": commit(),
                   "machine": machine(), "seconds": time.perf_counter() - began}  # fmt: skip
        results[source] = rounded(report)
        options.out.write_text(json.dumps(results, indent=1) + "\n")
        print(source, json.dumps(results[source]["coverage"]))


if __name__ == "__main__":
    main()
