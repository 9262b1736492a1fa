"""Do intervals of off-policy estimates hold? Recorded outcomes as logs of a known random policy.

    python benchmarks/off_policy.py [--outcomes DIR] [--resamplings N] [--seed N]

Every query of a source was answered by every tier, so what any policy would have cost and achieved
is known. A log is made by drawing queries, and for each an arm by known chances; only that arm's
label and bill are shown. Each target policy is then estimated from the log alone. A simulation of
logging; answers, scores and bills are recorded ones. Writes benchmarks/results/off_policy.json.

The variance of doubly robust estimates is held against that of plain inverse weighting, by the
known chances of arm and label. The truth is the mean over all queries, so a part of every
estimate's variance is which queries a log has. No estimator changes that part (`of the draw`); what
doubly robust spares of the rest is `given the requests`. Of no policy can it spare all: answers are
not told by what a log knows beforehand. `least` is what a direct model would leave that had been
fitted to all answers, the hidden ones too, by all predictions that the log has.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from predictor_data import LADDERS, outcomes_of
from stamp import ROOT, commit, machine, rounded

from router.decide import UNLIMITED, Objective, Options, choose
from router.money import NANO_PER_USD
from router.replay.evaluation.costs import recover_prices
from router.replay.evaluation.evaluate import evaluate
from router.replay.off_policy.batch import LogBatch, LoggedArm
from router.replay.off_policy.estimate import ESTIMATORS, estimate
from router.replay.off_policy.path import add_policy, as_logged
from router.replay.off_policy.sums import LOGGED, PolicySums, Tally, add_logged, rows_of
from router.types import TIERS

RESULTS = ROOT / "benchmarks/results/off_policy.json"
SOURCES = ("zeroeval", "mmlu_pro_a", "paretobandit_val")
ROWS = 20_000  # requests of a log
RANDOM = 0.4  # of the requests go to any arm, all alike; the others to the best one
LABELLED = 0.5  # of the answers, at random


@dataclass(frozen=True)
class Population:
    """Recorded queries with held-out predictions: (N, A) each, costs in nano-USD."""

    arms: tuple[LoggedArm, ...]
    quality: Any
    expected: Any
    score: Any
    cost: Any
    tokens: Any  # output tokens of each arm's answer
    input_tokens: Any
    frontier_price: tuple[float, float]  # nano-USD a token, in and out

    def options(self) -> Options:
        """The arms of every query, as decisions see them."""
        tier = np.array([arm.rank for arm in self.arms])
        return Options(
            self.quality, self.expected, 2 * self.expected,
            np.zeros(self.quality.shape, np.uint8), tier, int(tier[-1]),
        )  # fmt: skip

    def chosen(self, weight: float) -> Any:
        """What a cost weight decides for every query."""
        room = np.full(len(self.quality), UNLIMITED)
        return choose(self.options(), Objective(cost_weight=weight), room, priced=True).arm


def population(folder: Path, source: str, seed: int) -> Population:
    """Held-out predictions of a source's queries, with what was recorded of them."""
    outcomes = outcomes_of(folder, source, "", LADDERS[source])
    found = evaluate(outcomes, seed=seed, compare=(), draws=2, splits=2)
    columns = outcomes.columns
    known = np.isfinite(outcomes.score[:, columns]).all(axis=1)
    known &= np.isfinite(outcomes.cost_usd[:, columns]).all(axis=1)
    top = columns[-1]
    prices = recover_prices(
        outcomes.input_tokens[:, top], outcomes.output_tokens[:, top], outcomes.cost_usd[:, top]
    )
    return Population(
        arms=tuple(LoggedArm(f"{TIERS[c]}/0:m", TIERS[c], "m") for c in columns),
        quality=found.prediction.quality[known][:, columns],
        expected=np.rint(found.expected.usd[known][:, columns] * NANO_PER_USD).astype(np.int64),
        score=outcomes.score[known][:, columns],
        cost=outcomes.cost_usd[known][:, columns] * NANO_PER_USD,
        tokens=outcomes.output_tokens[known][:, columns],
        input_tokens=outcomes.input_tokens[known][:, top],
        frontier_price=tuple(p * NANO_PER_USD for p in prices) if prices else (np.nan, np.nan),
    )


def logged(people: Population, chances: Any, rows: int, rng: np.random.Generator) -> Any:
    """A log of `rows` requests by known chances (N, A), and which queries they are."""
    query = rng.integers(0, len(people.quality), rows)
    chance = chances[query]
    arm = (chance.cumsum(axis=1) <= rng.random(rows)[:, None]).sum(axis=1)
    arm = np.minimum(arm, chance.shape[1] - 1)
    at = (query, arm)
    label = np.where(rng.random(rows) < LABELLED, people.score[at], np.nan)
    none, word = np.zeros(rows, np.int64), ([0] * rows, [""])
    same = (none, word[1])
    batch = LogBatch(
        arms=people.arms, time=np.arange(rows, dtype=float), step=none,
        cluster=rng.integers(0, 2**32, rows, dtype=np.uint32),
        request_hash=np.arange(rows, dtype=np.uint64),
        quality=people.quality[query], quality_std=np.zeros_like(chance),
        expected=people.expected[query], upper=2 * people.expected[query], propensity=chance,
        barred=np.zeros(chance.shape, np.uint8), chosen=arm, cost=people.cost[at],
        baseline=people.expected[query, -1].astype(float), latency=np.ones(rows), label=label,
        billed_input=people.input_tokens[query], billed_output=people.tokens[at],
        input_tokens=people.input_tokens[query], novel=np.zeros(rows, bool),
        tags=same, needs=same, policy=same, predictor=same, price_book=same,
    )  # fmt: skip
    return batch, query


def study(people: Population, resamplings: int, seed: int) -> dict[str, Any]:
    """Estimate every target from every log; compare with the truth."""
    n, width = people.quality.shape
    everyone = np.arange(n)
    scale = 1 / float(people.cost[:, -1].mean() / NANO_PER_USD)
    weights = [0.0, 0.01 * scale, 0.05 * scale, 0.2 * scale, scale, 5 * scale]
    mine = people.chosen(0.1 * scale)
    chances = np.full((n, width), RANDOM / width)
    chances[everyone, mine] += 1 - RANDOM
    targets = {f"cost weight {w / scale:g}": people.chosen(w) for w in weights}
    targets |= {f"always {arm.tier}": np.full(n, at) for at, arm in enumerate(people.arms)}
    truth = {
        name: {
            "quality": people.score[everyone, arm].mean(),
            "cost": people.cost[everyone, arm].mean(),
        }
        for name, arm in targets.items()
    }
    true_spent = float((chances * people.cost).sum(axis=1).mean())
    rng = np.random.default_rng(seed)
    found: dict[tuple[str, str, str], list[Any]] = {}
    plain: dict[tuple[str, str], list[float]] = {}
    had: dict[tuple[str, str], list[float]] = {}  # what a log's own requests would have come to
    honest, naive, holds = [], [], []
    for _ in range(resamplings):
        batch, query = logged(people, chances, ROWS, rng)
        rows = rows_of(batch)
        tally = Tally(LOGGED)
        add_logged(tally, batch, rows)
        for name, arm in targets.items():
            sums = PolicySums()
            add_policy(sums, batch, rows, arm[query])
            estimates = estimate(tally, sums)
            for outcome, values in (("quality", people.score), ("cost", people.cost)):
                own_truth = float(values[query, arm[query]].mean())
                had.setdefault((name, outcome), []).append(own_truth)
                plain.setdefault((name, outcome), []).append(plain_ips(batch, arm[query], outcome))
                for estimator in ESTIMATORS:
                    one = estimates.by_outcome[outcome][estimator].estimate()
                    found.setdefault((name, outcome, estimator), []).append(
                        (one.value, one.low, one.high)
                    )
            if name == "always frontier":
                frontier = estimates
        own = PolicySums()
        add_policy(own, batch, rows_of(batch, as_logged=True), as_logged(batch))
        saved = (
            frontier.by_outcome["cost"]["doubly_robust"]
            .minus(estimate(tally, own).by_outcome["cost"]["ips"])
            .estimate()
        )
        price_in, price_out = people.frontier_price
        at_frontier = price_in * batch.billed_input + price_out * batch.billed_output
        honest.append(saved.value)
        naive.append(float(at_frontier.mean() - batch.cost.mean()))
        true_saved = truth["always frontier"]["cost"] - true_spent
        holds.append(saved.low <= true_saved <= saved.high)
    report: dict[str, Any] = {"queries": n, "rows_of_a_log": ROWS, "targets": {}}
    for name, arm in targets.items():
        report["targets"][name] = {
            outcome: {
                "truth": truth[name][outcome],
                **{
                    estimator: judged(
                        np.array(found[name, outcome, estimator]), truth[name][outcome]
                    )
                    for estimator in ESTIMATORS
                },
                "variance_to_ips": variances(
                    np.array([value for value, _, _ in found[name, outcome, "doubly_robust"]]),
                    np.array(plain[name, outcome]),
                    np.array(had[name, outcome]),
                    least_variance(people, mine, chances, arm, outcome),
                ),
            }
            for outcome in ("quality", "cost")
        }
    report["coverage"] = {
        outcome: {
            estimator: float(
                np.mean(
                    [report["targets"][name][outcome][estimator]["covered"] for name in targets]
                )
            )
            for estimator in ESTIMATORS
        }
        for outcome in ("quality", "cost")
    }
    report["savings"] = {
        "truth": true_saved,
        "honest_mean": float(np.mean(honest)),
        "honest_off_pct": 100 * (float(np.mean(honest)) / true_saved - 1),
        "honest_covered": float(np.mean(holds)),
        **naive_figures(naive, true_saved),
    }
    return report


def naive_figures(naive: list[float], true_saved: float) -> dict[str, Any]:
    """The figure that others report, None where the source has no tokens."""
    mean = float(np.mean(naive))
    if np.isnan(mean):
        return {"naive_mean": None, "naive_off_pct": None}
    return {"naive_mean": mean, "naive_off_pct": 100 * (mean / true_saved - 1)}


def plain_ips(batch: LogBatch, arm: Any, outcome: str) -> float:
    """The textbook's estimate: outcomes where the log did what the policy does, by the inverse of
    the chance that it did so and that its label is there."""
    value, chance = (batch.label, LABELLED) if outcome == "quality" else (batch.cost, 1.0)
    agrees = (batch.chosen == arm) & np.isfinite(value)
    weight = 1 / (batch.propensity[np.arange(len(batch)), arm] * chance)
    return float(np.where(agrees, np.nan_to_num(value) * weight, 0.0).mean())


def least_variance(people: Population, mine: Any, chances: Any, arm: Any, outcome: str) -> float:
    """The least variance that a log's estimate can have, given its requests, with a direct model
    for each arm that is linear in all that the log knows before the answer: every arm's predicted
    quality and cost, and which arm it took to be best (`mine`)."""
    every = np.arange(len(arm))
    cost = people.expected / people.expected.mean(axis=0)
    best = mine[:, None] == np.arange(chances.shape[1] - 1)
    known = np.column_stack([np.ones(len(arm)), people.quality, cost, best])
    value = (people.score if outcome == "quality" else people.cost)[every, arm]
    seen = chances[every, arm] * (LABELLED if outcome == "quality" else 1.0)
    adds = (1 - seen) / seen  # what the square of a row's error adds to the variance
    left = np.empty(len(arm))
    for each in np.unique(arm):
        rows = arm == each
        root = np.sqrt(adds[rows])
        coef = np.linalg.lstsq(known[rows] * root[:, None], value[rows] * root, rcond=None)[0]
        left[rows] = value[rows] - known[rows] @ coef
    return float((adds * left**2).mean() / ROWS)


def variances(robust: Any, ips: Any, own: Any, least: float) -> dict[str, float]:
    """The variance of doubly robust as a share of that of IPS: of both as they are; around what
    each log's own requests would have come to (`own`); and what is left if that is known exactly.
    With the least that either share can be.
    """
    given = (ips - own).var()
    return {
        "doubly robust": float(robust.var() / ips.var()),
        "least": float((own.var() + least) / ips.var()),
        "given the requests": float((robust - own).var() / given),
        "least given the requests": float(least / given),
        "of the draw": float(own.var() / ips.var()),
    }


def judged(values: Any, truth: float) -> dict[str, float]:
    """How often the interval held the truth, and how far the estimates were from it."""
    value, low, high = values.T
    return {
        "covered": float(((low <= truth) & (truth <= high)).mean()),
        "bias": float(value.mean() - truth),
        "std": float(value.std(ddof=1)),
        "mean_width": float((high - low).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outcomes", type=Path, default=ROOT / "../shared/outcomes")
    parser.add_argument("--resamplings", type=int, default=500)
    parser.add_argument("--only", action="append", choices=SOURCES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    for source in options.only or SOURCES:
        began = time.perf_counter()
        people = population(options.outcomes, source, options.seed)
        report = study(people, options.resamplings, options.seed)
        report |= {"resamplings": options.resamplings, "seed": options.seed, "commit": commit(),
                   "machine": machine(), "seconds": time.perf_counter() - began}  # fmt: skip
        results[source] = rounded(report)
        options.out.write_text(json.dumps(results, indent=1) + "\n")
        print(
            source,
            json.dumps(
                rounded({k: report[k] for k in ("coverage", "savings", "seconds")}), indent=1
            ),
        )
        show(report)


def show(report: dict[str, Any]) -> None:
    """A line for each target and outcome."""
    for name, found in report["targets"].items():
        for outcome in ("quality", "cost"):
            one = found[outcome]
            covered = " ".join(f"{e} {one[e]['covered']:.3f}" for e in ESTIMATORS)
            shares = ", ".join(f"{k} {v:.2f}" for k, v in one["variance_to_ips"].items())
            print(f"  {name:18} {outcome:8} covered: {covered}; variance to ips: {shares}")


if __name__ == "__main__":
    main()
