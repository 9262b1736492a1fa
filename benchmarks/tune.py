"""Does `router tune` find better policies, and say so only where it is true? Recorded outcomes as
logs of a known random policy.

    python benchmarks/tune.py [--outcomes DIR] [--seeds N] [--trials N] [--only SOURCE …]

A simulation of logging, as in off_policy.py: answers, scores and bills are recorded ones, and the
recorded models stand in for the arms of policies/default.yaml. For each seed the queries are cut
into those of "training days" and those of "held-out days"; on both a log is drawn by an exploring
policy, in which each request shows one arm's bill and, half the time, its label. `tune` sees the
logs alone; what base and tuned policy truly cost and achieve is then read off every held-out
query, where every arm's answer is recorded. Predictions are held out by cross-validation over all
queries. Writes benchmarks/results/tune.json.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from off_policy import LABELLED, RANDOM, Population, logged, population
from stamp import ROOT, commit, machine, rounded

from router.money import NANO_PER_USD
from router.replay.off_policy.batch import LogBatch, LoggedArm
from router.replay.tuning.pick import Rule
from router.replay.tuning.space import Base
from router.replay.tuning.stretch import DAY, InMemory, cut
from router.replay.tuning.tune import Found, Options, find

RESULTS = ROOT / "benchmarks/results/tune.json"
SOURCES = ("zeroeval", "mmlu_pro_a")
TRAINING, HELD_OUT = (7, 16_000), (3, 8000)  # days, and requests of all of them
SHARE = 0.7  # of the queries are those of training days
MONDAY = 1_799_625_600.0  # 2027-01-11 00:00 UTC


@dataclass(frozen=True)
class Truth:
    """What a policy truly costs (US dollars a request) and achieves on the held-out queries."""

    cost: float
    quality: float


def rules(cost_weight: float | None) -> dict[str, Rule]:
    """The rules that are tried."""
    return {
        "cheapest, no loss": Rule("cheapest", 0.0, 0.0, cost_weight),
        "cheapest, 0.02 less": Rule("cheapest", 0.02, 0.0, cost_weight),
        "cheapest, 0.05 less": Rule("cheapest", 0.05, 0.0, cost_weight),
        "best": Rule("best", 0.0, 0.0, cost_weight),
        "value": Rule("value", 0.0, 0.0, cost_weight),
    }


def as_arms(people: Population, base: Base) -> Population:
    """The same recorded answers under the names of a policy's arms."""
    arms = tuple(LoggedArm(arm.name, arm.tier, arm.model) for arm in base.policy.arms())
    if [arm.tier for arm in arms] != [arm.tier for arm in people.arms]:
        raise SystemExit("the policy's tiers are not those of the recorded ladder")
    return replace(people, arms=arms)


def some(people: Population, rows: Any) -> Population:
    """Some of the queries."""
    parts = ("quality", "expected", "score", "cost", "tokens", "input_tokens")
    return replace(people, **{name: getattr(people, name)[rows] for name in parts})


def every_query(people: Population) -> LogBatch:
    """All queries once, for decisions, which read nothing of what a log shows of an arm."""
    n, width = people.quality.shape
    batch, _ = logged(people, np.full((n, width), 1 / width), n, np.random.default_rng(0))
    found: LogBatch = replace(
        batch, quality=people.quality, expected=people.expected, upper=2 * people.expected,
        input_tokens=people.input_tokens,
    )  # fmt: skip
    return found


def days(people: Population, base: Base, length: tuple[int, int], first: int, rng: Any) -> LogBatch:
    """A log of some days by the exploring policy."""
    n, width = people.quality.shape
    mine = base.target(base.policy)(every_query(people))
    chances = np.full((n, width), RANDOM / width)
    chances[np.arange(n), mine] += 1 - RANDOM
    batch, query = logged(people, chances, length[1], rng)
    # A query that is drawn again is no new evidence: its draws vary together.
    mixed = (query.astype(np.uint64) + np.uint64(first << 20)) * np.uint64(0x9E3779B1)
    return replace(
        batch,
        time=MONDAY + DAY * (first + length[0] * np.sort(rng.random(length[1]))),
        cluster=(mixed & np.uint64(0xFFFFFFFF)).astype(np.uint32),
        request_hash=np.arange(length[1], dtype=np.uint64) + np.uint64(first << 32),
    )


def truth_of(people: Population, base: Base, policy: Any) -> Truth:
    """What a policy comes to on every query."""
    arm = base.target(policy)(every_query(people))
    at = (np.arange(len(arm)), arm)
    return Truth(float(people.cost[at].mean()) / NANO_PER_USD, float(people.score[at].mean()))


def once(people: Population, base: Base, rule: Rule, seed: int, trials: int) -> dict[str, Any]:
    """Tune on one cut of the queries; compare with the truth."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(people.quality))
    at = round(SHARE * len(shuffled))
    training, held_out = some(people, shuffled[:at]), some(people, shuffled[at:])
    batches = (
        days(training, base, TRAINING, 0, rng),
        days(held_out, base, HELD_OUT, TRAINING[0], rng),
    )
    log = InMemory(batches, sum(map(len, batches)))
    first, last, where = cut(log, days=HELD_OUT[0])
    assert not where.dropped
    found = find(base, first, last, Options(rule, trials=trials, seed=seed))
    was, now = (truth_of(held_out, base, policy) for policy in (base.policy, found.policy))
    weight = rule.cost_weight or 0.0
    true = {
        "cost_pct": 100 * (now.cost / was.cost - 1),
        "quality": now.quality - was.quality,
        "value": now.quality - was.quality - weight * (now.cost - was.cost),
    }
    return {
        "seed": seed,
        "claimed": found.beats,
        "truly": truly(rule, true) and found.held_out is not None,
        "truth": true,
        "settings": found.picked.settings.as_dict(),
        "held_out": estimated(found, true),
    }


def truly(rule: Rule, true: dict[str, float]) -> bool:
    """Whether a candidate beats the base by what is recorded, as the rule means it."""
    if rule.goal == "value":
        return true["value"] > 0
    if rule.goal == "best":
        return true["quality"] > 0 and true["cost_pct"] <= rule.cost_increase
    return true["cost_pct"] < 0 and true["quality"] >= -rule.quality_loss


def estimated(found: Found, true: dict[str, float]) -> dict[str, Any] | None:
    """The held-out estimates, and whether their intervals hold the truth."""
    if found.held_out is None or found.held_out.refused:
        return None
    said = {name: getattr(found.held_out, name) for name in ("cost_pct", "quality", "value")}
    return {
        name: {
            **{end: each[end] for end in ("value", "low", "high")},
            "holds": each["low"] <= true[name] <= each["high"],
        }
        for name, each in said.items()
        if each is not None
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What the runs of one rule come to."""
    claimed = [run for run in runs if run["claimed"]]
    judged = [run["held_out"] for run in runs if run["held_out"]]
    return {
        "seeds": len(runs),
        "nothing_but_the_base": sum(run["held_out"] is None for run in runs),
        "claimed_to_beat": len(claimed),
        "of_them_truly": sum(run["truly"] for run in claimed),
        "truly_without_claim": sum(run["truly"] for run in runs if not run["claimed"]),
        "truth_mean": {
            key: float(np.mean([run["truth"][key] for run in runs])) for key in runs[0]["truth"]
        },
        "truth_mean_where_claimed": {
            key: float(np.mean([run["truth"][key] for run in claimed])) if claimed else None
            for key in runs[0]["truth"]
        },
        "intervals_that_hold": {
            key: float(np.mean([each[key]["holds"] for each in judged])) if judged else None
            for key in runs[0]["truth"]
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outcomes", type=Path, default=ROOT / "../shared/outcomes")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--only", action="append", choices=SOURCES)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    base = Base.read("default", time.time())
    weight = base.settings.cost_weight
    for source in options.only or SOURCES:
        if not (options.outcomes / f"{source}.parquet").exists():
            print(f"{source}: skipped, {options.outcomes} has no such file")
            continue
        began = time.perf_counter()
        people = as_arms(population(options.outcomes, source, seed=0), base)
        report: dict[str, Any] = {
            "simulation": "recorded answers as a log of a known random policy",
            "base": "policies/default.yaml", "cost_weight": weight, "queries": len(people.quality),
            "random": RANDOM, "labelled": LABELLED, "trials": options.trials,
            "requests": {"training": TRAINING[1], "held_out": HELD_OUT[1]}, "rules": {},
        }  # fmt: skip
        for name, rule in rules(weight).items():
            runs = [once(people, base, rule, seed, options.trials) for seed in range(options.seeds)]
            report["rules"][name] = {**summary(runs), "runs": runs}
            print(source, name, json.dumps(rounded(summary(runs))), flush=True)
        report |= {"prediction_seed": 0, "seeds": options.seeds, "commit": commit(),
                   "machine": machine(), "seconds": time.perf_counter() - began}  # fmt: skip
        results[source] = rounded(report)
        options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
