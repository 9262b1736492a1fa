"""Do intervals hold for policies that look at answers? Recorded outcomes as logs of a cascade.

    python benchmarks/off_policy_chains.py [--outcomes DIR] [--only NAME …] [--resamplings N]
                                           [--seeds N …] [--processes N]

Every query of a source was answered by every tier, so what any chain of calls would have cost and
achieved is known. A verifier is trained on one half of the questions. On the other half logs are
made: queries are drawn, a cascading policy decides by the functions of live requests, with known
chances of doing otherwise before the call and after each look, and only the calls that it made are
billed, only the answer that it handed out is labelled, and that of half of the requests. Each
target policy, most of them cascades, is then estimated from the log alone. The truth comes from
`router.replay.evaluation.chains`, which knows every answer. A simulation of logging; answers,
scores and bills are recorded ones. All of that is done for every seed anew: which half of the
questions is judged, with the few dear answers in it, moves how often intervals of cost hold as much
as anything. Writes benchmarks/results/off_policy_chains.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from off_policy import judged
from predictor_data import LADDERS, outcomes_of
from stamp import ROOT, commit, machine, rounded

from router.decide import (
    UNLIMITED,
    Bar,
    Exploration,
    Look,
    Objective,
    Options,
    after_look,
    best_answer,
    choose,
    dearer,
)
from router.gates.verifier import NAMES, Verifier, load_verifier
from router.money import NANO_PER_USD
from router.planning.ladder import Ladder
from router.policy import load_policy
from router.predict.effort import Efforts
from router.predict.model_file import save_model
from router.prices import load_book
from router.replay.evaluation.chains import call_chains, paid
from router.replay.evaluation.evaluate import evaluate
from router.replay.evaluation.verifier_training import train_verifier
from router.replay.off_policy.batch import LogBatch, LoggedArm
from router.replay.off_policy.estimate import Estimates, estimate
from router.replay.off_policy.facts import Facts
from router.replay.off_policy.looks import STOP, Looks, nothing
from router.replay.off_policy.path import Path as Path_
from router.replay.off_policy.path import add_policy, path_of
from router.replay.off_policy.sums import LOGGED, PolicySums, Tally, add_logged, rows_of
from router.replay.off_policy.support import refusals, spread_of
from router.replay.off_policy.target import of_policy
from router.replay.recorded.answers import Answers, read_answers
from router.types import TIERS

RESULTS = ROOT / "benchmarks/results/off_policy_chains.json"
SOURCES = ("zeroeval", "mmlu_pro_a")
ESTIMATORS = ("ips", "snips", "doubly_robust", "switch")
ROWS = 20_000  # requests of a log
RANDOM = 0.4  # of the first calls go to any arm, all alike
ONWARD = 0.3  # of the decisions after a look are not the best, by the shipped rule of exploring
LABELLED = 0.5  # of the answers, at random
STEPS = 3  # calls of a chain, in the log


@dataclass(frozen=True)
class Population:
    """N queries with what decisions see, (N, 4) by tier, and what each tier's answer came to; costs
    in nano-USD. `verifier`, a folder, is of other queries."""

    source: str
    columns: list[int]
    quality: Any
    expected: Any
    score: Any
    cost: Any
    answers: Answers
    verifier: str

    @property
    def scale(self) -> float:
        """One over what the dearest tier's answer costs on average, in USD."""
        return 1 / float(self.cost[:, self.columns[-1]].mean() / NANO_PER_USD)


def population(folder: Path, source: str, seed: int, place: str) -> Population:
    """Held-out predictions of one half of a source's queries, and a verifier of the other half."""
    outcomes = outcomes_of(folder, source, "", LADDERS[source])
    found = evaluate(outcomes, seed=seed, compare=(), draws=2, splits=2)
    columns = outcomes.columns
    known = np.isfinite(outcomes.score[:, columns]).all(axis=1)
    known &= np.isfinite(outcomes.cost_usd[:, columns]).all(axis=1)
    names, question = np.unique(outcomes.group, return_inverse=True)
    half = np.random.default_rng(seed).random(len(names)) < 0.5
    train, judge = (np.flatnonzero(known & (half[question] == side)) for side in (True, False))
    answers, prior = read_answers(outcomes), found.prediction.quality
    arrays = train_verifier(prior[train], outcomes.score[train], answers.take(train), columns)
    save_model(Path(place), "verifier", arrays, {"inputs": list(NAMES), "seed": seed})
    return Population(
        source, columns, prior[judge],
        np.rint(np.nan_to_num(found.expected.usd[judge]) * NANO_PER_USD).astype(np.int64),
        outcomes.score[judge], outcomes.cost_usd[judge] * NANO_PER_USD, answers.take(judge), place,
    )  # fmt: skip


class Ways:
    """P(good) of every tier after each way through a query's answers, looked up once."""

    def __init__(self, people: Population, judge: Verifier):
        self._people, self.judge = people, judge
        self._known: dict[tuple[int, ...], Any] = {(): people.quality}

    def after(self, path: tuple[int, ...]) -> Any:
        """(N, 4) after the answers of these tiers, in this order."""
        if path not in self._known:
            people = self._people
            self._known[path] = self.judge.after(
                people.quality, self.after(path[:-1]), people.answers, path
            )
        return self._known[path]


@cache
def arms_of(columns: tuple[int, ...]) -> tuple[LoggedArm, ...]:
    """The arms of the log."""
    return tuple(LoggedArm(f"{TIERS[c]}/0:openai/{TIERS[c]}", TIERS[c], f"openai/{TIERS[c]}")
                 for c in columns)  # fmt: skip


def logged(people: Population, ways: Ways, gate: str, rng: np.random.Generator) -> Any:
    """A log of `ROWS` requests by a cascading policy with known chances."""
    judge, columns = ways.judge, np.array(people.columns)
    n, width = ROWS, len(columns)
    query, every = rng.integers(0, len(people.quality), n), np.arange(n)
    expected = people.expected[query][:, columns]
    objective, signals = Objective(cost_weight=0.1 * people.scale), judge.signals(columns)
    room, may_follow = np.array([UNLIMITED]), dearer(expected, columns)

    def options(rows: Any, belief: Any, barred: Any) -> Options:
        return Options(belief, expected[rows], 2 * expected[rows], barred, columns,
                       int(columns[-1]))  # fmt: skip

    belief, barred = people.quality[query][:, columns], np.zeros((n, width), np.uint8)
    best = choose(options(every, belief, barred), objective, room, priced=False,
                  look=Look(signals, STEPS)).arm  # fmt: skip
    chances = np.full((n, width), RANDOM / width)
    chances[every, best] += 1 - RANDOM
    arm = np.minimum((chances.cumsum(axis=1) <= rng.random(n)[:, None]).sum(axis=1), width - 1)
    first, called = arm.copy(), np.zeros((n, width), bool)
    looks, path = nothing(n, width, STEPS), np.full((n, STEPS), -1)
    last, active = arm.copy(), every
    for step in range(STEPS):
        path[active, step] = columns[arm[active]]
        called[active, arm[active]], last[active] = True, arm[active]
        for way in np.unique(path[active, : step + 1], axis=0):
            mine = active[(path[active, : step + 1] == way).all(axis=1)]
            found = ways.after(tuple(way.tolist()))[query[mine]]
            belief[mine] = np.round(found[:, columns], 6)
        mine_follow = may_follow[active, arm[active]]
        barred[active] = np.where(mine_follow, barred[active], Bar.NOT_DEARER)
        barred[called] = Bar.ANSWERED
        looks.answered[active, step], looks.quality[active, step] = arm[active], belief[active]
        taken = np.full(len(active), width)
        chance = np.zeros((len(active), width + 1))
        chance[:, -1] = 1
        if step + 1 < STEPS:
            mine = options(active, belief[active], barred[active])
            look = Look(signals, STEPS - step - 1, called[active])
            choices = choose(mine, objective, room, priced=False, look=look)
            exploration = Exploration(ONWARD, 1.0, np.inf, draw=rng.random(len(active)))
            onward = after_look(mine, objective, choices, called[active], exploration)
            taken, chance = onward.taken, onward.chances
        looks.chances[active, step] = chance
        goes = taken < width
        looks.chosen[active[goes], step] = taken[goes]
        looks.cost[active[goes], step] = people.cost[query[active[goes]], columns[taken[goes]]]
        active = active[goes]
        arm[active] = taken[goes]
        if not len(active):
            break
    handed = best_answer(belief, called, last)
    everything = replace(looks, handed=handed)
    cost = paid(path[None], np.nan_to_num(people.cost)[query])[0]
    label = people.score[query, columns[handed]]
    label = np.where(rng.random(n) < LABELLED, label, np.nan)
    code = {path: at for at, path in enumerate(paths_of(people))}
    ended = [code[tuple(tier for tier in each if tier >= 0)] for each in path.tolist()]
    batch = as_batch(people, query, everything, gate)
    batch = replace(
        batch, step=(path >= 0).sum(axis=1) - 1, propensity=chances, chosen=first, cost=cost,
        label=label, cluster=rng.integers(0, 2**32, n, dtype=np.uint32),
    )  # fmt: skip
    return batch, np.array(ended) * len(people.quality) + query


def as_batch(people: Population, query: Any, looks: Looks, gate: str) -> LogBatch:
    """Rows for some queries with these looks, of which nothing else is known yet."""
    n, columns = len(query), np.array(people.columns)
    none, zero, width = np.zeros(n, np.int64), np.zeros(n), len(columns)
    same, expected = (none, [""]), people.expected[query][:, columns]
    return LogBatch(
        arms=arms_of(tuple(people.columns)), time=np.arange(n, dtype=float), step=none,
        cluster=np.zeros(n, np.uint32), request_hash=np.arange(n, dtype=np.uint64),
        quality=people.quality[query][:, columns], quality_std=np.zeros((n, width)),
        expected=expected, upper=2 * expected, propensity=np.zeros((n, width)),
        barred=np.zeros((n, width), np.uint8), chosen=none, cost=zero, baseline=zero,
        latency=np.ones(n), label=zero, billed_input=zero, billed_output=zero, input_tokens=zero,
        novel=np.zeros(n, bool), tags=same, needs=same, policy=same, predictor=same,
        price_book=same, looks=replace(looks, gate=(none, [gate])),
    )  # fmt: skip


def policy_of(people: Population, weight: float, steps: int) -> Any:
    """A policy over the source's tiers, with a cascade of so many calls, none for 1."""
    price = {"input": 1, "output": 1}  # decisions take the log's quotes
    tiers = {TIERS[c]: [{"model": f"openai/{TIERS[c]}", "price": price}] for c in people.columns}
    said: dict[str, Any] = {
        "version": 1, "name": f"{steps} calls", "tiers": tiers,
        "objective": {"cost_weight": weight}, "baseline": TIERS[people.columns[-1]],
    }  # fmt: skip
    if steps > 1:
        hashed = load_verifier(people.verifier).hash
        learned = {"path": people.verifier, "sha256": hashed}
        said["cascade"] = {"max_steps": steps, "gate": "learned", "verifier": learned}
    return load_policy(said)


def targets_of(people: Population) -> dict[str, tuple[float, int]]:
    """Policies by name: cost weight and the most calls."""
    wanted = [(0.0, 3), (0.02, 3), (0.1, 3), (0.5, 3), (0.02, 2), (0.1, 2), (0.5, 2), (0.1, 1)]
    return {
        f"up to {steps} calls, cost weight {weight:g}" if steps > 1 else f"1 call, {weight:g}": (
            weight * people.scale,
            steps,
        )
        for weight, steps in wanted
    }


def truth_of(people: Population, judge: Verifier, weight: float, steps: int) -> dict[str, float]:
    """What a policy comes to on every query, by the code that evaluates cascades."""
    every, expected = np.arange(len(people.quality)), people.expected / NANO_PER_USD
    cost = np.nan_to_num(people.cost)
    if steps == 1:
        columns = np.array(people.columns)
        options = Options(
            people.quality[:, columns], people.expected[:, columns], people.expected[:, columns],
            np.zeros((len(every), len(columns)), np.uint8), columns, int(columns[-1]),
        )  # fmt: skip
        room = np.array([UNLIMITED])
        arm = columns[choose(options, Objective(cost_weight=weight), room, priced=False).arm]
        return {"quality": people.score[every, arm].mean(), "cost": cost[every, arm].mean()}
    called = call_chains(
        people.quality, expected, np.array([weight]), people.columns, judge, people.answers, steps
    )
    return {
        "quality": float(people.score[every, called.chosen[0]].mean()),
        "cost": float(paid(called.steps, cost)[0].mean()),
    }


_READY: dict[str, tuple[Population, Ways, dict[str, Path_]]] = {}


def every_way(people: Population, ways: Ways, gate: str) -> LogBatch:
    """Every query after every way through its answers, a row each, in the order of `paths_of`."""
    paths, n, columns = paths_of(people), len(people.quality), np.array(people.columns)
    rows, width = n * len(paths), len(columns)
    looks = nothing(rows, width, STEPS)
    for at, path in enumerate(paths):
        mine = slice(at * n, (at + 1) * n)
        for step, tier in enumerate(path):
            looks.answered[mine, step] = people.columns.index(tier)
            looks.quality[mine, step] = np.round(ways.after(path[: step + 1])[:, columns], 6)
    query = np.tile(np.arange(n), len(paths))
    return as_batch(people, query, looks, gate)


def paths_of(people: Population) -> list[tuple[int, ...]]:
    """Every order in which up to `STEPS` tiers can answer."""
    return [path for n in range(1, STEPS + 1) for path in permutations(people.columns, n)]


def decisions(people: Population) -> tuple[Ways, dict[str, Path_]]:
    """What each target does on every query after every way: once for all logs."""
    judge, book = load_verifier(people.verifier), load_book()
    ways = Ways(people, judge)
    batch = every_way(people, ways, gate_of(judge))
    found = {}
    for name, settings in targets_of(people).items():
        target = of_policy(Ladder.of(policy_of(people, *settings), book, Efforts({})))
        found[name] = path_of(target(batch))
    return ways, found


def gate_of(judge: Verifier) -> str:
    """What the log says of the gate."""
    return f"verifier:{judge.hash[:12]}"


def one_log(source: str, seed: int) -> dict[str, Any]:
    """Every target's estimates from one log."""
    people, ways, decided = _READY[source]
    batch, row = logged(people, ways, gate_of(ways.judge), np.random.default_rng(seed))
    rows, tally = rows_of(batch), Tally(LOGGED)
    add_logged(tally, batch, rows)
    found: dict[str, Any] = {}
    for name, path in decided.items():
        sums = PolicySums()
        add_policy(sums, batch, rows, taken(path, row))
        estimates = estimate(tally, sums)
        found[name] = {"refused": bool(refusals(estimates, Facts())), **figures(estimates)}
    return found


def taken(path: Path_, row: Any) -> Path_:
    """The decisions of some rows."""
    values = {each.name: getattr(path, each.name) for each in fields(Path_)}
    return Path_(**{name: None if v is None else v[row] for name, v in values.items()})


def figures(found: Estimates) -> dict[str, Any]:
    """Value and interval of each outcome by each estimator, and what they rest on."""
    said: dict[str, Any] = {
        "effective": found.effective, "unsupported": found.unsupported, "thin": found.thin_cost
    }  # fmt: skip
    for outcome in ("quality", "cost"):
        spread = spread_of(outcome, found)
        for estimator in ESTIMATORS:
            one = found.by_outcome[outcome][estimator].estimate(spread)
            said[f"{outcome}.{estimator}"] = (one.value, one.low, one.high)
    return said


def study(people: Population, resamplings: int, seed: int, processes: int) -> dict[str, Any]:
    """Estimate every target from every log; compare with the truth."""
    _READY[people.source] = (people, *decisions(people))
    ways = _READY[people.source][1]
    logs = list(_run(people.source, resamplings, seed, processes))
    report: dict[str, Any] = {
        "queries": len(people.quality),
        "mean_calls_of_the_log": _mean_calls(people, ways, seed),
        "targets": {},
    }
    for name, settings in targets_of(people).items():
        truth = truth_of(people, ways.judge, *settings)
        mine = [each[name] for each in logs]
        used = [each for each in mine if not each["refused"]]
        report["targets"][name] = {
            "refused": len(mine) - len(used),
            "effective": float(np.mean([each["effective"] for each in mine])),
            "unsupported": float(np.mean([each["unsupported"] for each in mine])),
            "thin_cost": float(np.mean([each["thin"] for each in mine])),
        }
        if len(used) < 2:
            continue
        for outcome in ("quality", "cost"):
            report["targets"][name][outcome] = {
                "truth": truth[outcome],
                **{
                    e: judged(np.array([each[f"{outcome}.{e}"] for each in used]), truth[outcome])
                    for e in ESTIMATORS
                },
            }
    estimated = [each for each in report["targets"].values() if "cost" in each]
    report["coverage"] = {
        outcome: {e: float(np.mean([each[outcome][e]["covered"] for each in estimated]))
                  for e in ESTIMATORS}
        for outcome in ("quality", "cost")
    }  # fmt: skip
    return report


def _mean_calls(people: Population, ways: Ways, seed: int) -> float:
    batch, _ = logged(people, ways, "", np.random.default_rng(seed))
    return float(1 + (batch.looks.chosen != STOP).sum() / len(batch))


def _run(source: str, resamplings: int, seed: int, processes: int) -> Iterator[dict[str, Any]]:
    seeds = [1_000_000 * (seed + 1) + at for at in range(resamplings)]
    if processes == 1:
        yield from (one_log(source, each) for each in seeds)
        return
    with ProcessPoolExecutor(processes) as pool:  # forked: each has the population
        yield from pool.map(one_log, [source] * len(seeds), seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outcomes", type=Path, default=ROOT / "../shared/outcomes")
    parser.add_argument("--only", action="append", choices=SOURCES)
    parser.add_argument("--resamplings", type=int, default=100)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    for source in options.only or SOURCES:
        began, deals = time.perf_counter(), {}
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as place:
                people = population(options.outcomes, source, seed, f"{place}/verifier")
                deals[seed] = study(people, options.resamplings, seed, options.processes)
            show(f"{source}, seed {seed}", deals[seed])
        report = {
            "rows_of_a_log": ROWS, "resamplings": options.resamplings,
            "coverage": _mean_coverage([each["coverage"] for each in deals.values()]),
            "by_seed": deals, "commit": commit(), "machine": machine(),
            "seconds": time.perf_counter() - began,
        }  # fmt: skip
        print(source, json.dumps(rounded(report["coverage"])), f"{report['seconds']:.0f} s")
        results[source] = rounded(report)
        options.out.write_text(json.dumps(results, indent=1) + "\n")


def _mean_coverage(deals: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        outcome: {e: float(np.mean([each[outcome][e] for each in deals])) for e in ESTIMATORS}
        for outcome in ("quality", "cost")
    }


def show(name: str, report: dict[str, Any]) -> None:
    """A line for each target and outcome."""
    print(name, json.dumps(rounded(report["coverage"])))
    for name, found in report["targets"].items():
        print(f"  {name}: refused {found['refused']}, effective {found['effective']:.0f}")
        for outcome in ("quality", "cost"):
            if outcome not in found:
                continue
            one = found[outcome]
            covered = " ".join(f"{e} {one[e]['covered']:.3f}" for e in ESTIMATORS)
            ratio = (one["doubly_robust"]["std"] / max(one["ips"]["std"], 1e-12)) ** 2
            bias = one["doubly_robust"]["bias"] / max(abs(one["truth"]), 1e-12)
            print(f"    {outcome:8} covered: {covered}; var dr/ips {ratio:.3f}; bias {bias:+.4f}")


if __name__ == "__main__":
    main()
