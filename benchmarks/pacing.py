"""Pacing on recorded streams: is the budget used up, never passed, and at what loss of quality?

    python benchmarks/pacing.py [--outcomes DIR] [--only SOURCE …] [--requests N] [--seed N]

Writes benchmarks/results/pacing.json. A stream is a day of requests, drawn with replacement from
questions that the predictor was not trained on; what a call costs and scores is as recorded. Each
request goes through the pacer that `Router` uses and `choose`; its upper bound is reserved, and its
recorded bill settled `LATENCY` seconds later. The cells of one source go through a real ledger
(SQLite) too, which must give the same to the nano-dollar. Compared with:

`best_fixed`: of 400 fixed cost weights, the best quality among those whose recorded bill for this
very stream is within the budget: known in hindsight alone, and never refusing. `regret` is its
quality less the pacer's; a refused request counts as quality 0.
`calibrated`: the fixed weight whose bill on earlier traffic fits the budget and the forecast.
`dual_ascent`: lambda follows an exponential moving average of bills, lambda += 0.05 * (mean bill /
target - 1), within 0 and 5, against the model's normalised log price, as ParetoBandit's pacer does
(arXiv:2604.00136; our own rendering, on our predictions). Both keep the hard budget, downgrading
as it ends.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from pacing_data import SOURCES, Floats, Ints, Traffic, load
from stamp import ROOT, commit, machine, rounded

from router.decide import Objective, Options, choose
from router.decide.traffic import BIN_SECONDS
from router.ledger import open_ledger
from router.money import NANO_PER_USD
from router.planning.pacing import SAMPLE, Pacer
from router.prices import Dated
from router.types import AttemptRow, Budget, BudgetState, RequestEnd, RequestRow, Reservation, Room

RESULTS = ROOT / "benchmarks/results/pacing.json"
DAY = 86_400.0
START = 1_799_971_200.0  # Friday 2027-01-15 00:00 UTC
LATENCY = 5.0  # seconds from a reservation to its bill
EARLIER_DAYS = 4  # of traffic in the log before the stream
LEVELS = (0.1, 0.3)  # of the budget to what always-frontier would cost
WEIGHTS = np.concatenate([[0.0], np.logspace(-2, 8, 399)])
BUDGET = "daily"
THROUGH_LEDGER = "paretobandit_val"

Rng = np.random.Generator


# ── scenarios ──────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Scenario:
    """How a day differs from a steady one.

    `times(rng, n)`: seconds of the day, sorted. `order`: of difficulty, the mean recorded score.
    `price`: what the frontier's price is multiplied by at noon. `limit`: what the budget is
    multiplied by at noon. `learnt`: how much the log's earlier days had of the real traffic.
    `stated`: the policy's expected requests, as a share of the real ones, without a log.
    """

    times: Callable[[Rng, int], Floats]
    order: str = ""
    price: float = 1.0
    limit: float = 1.0
    learnt: float | None = 1.0
    stated: float | None = None


def steady(rng: Rng, n: int) -> Floats:
    return np.sort(rng.random(n)) * DAY


def office_hours(rng: Rng, n: int) -> Floats:
    """Eight of ten requests between 9 and 17 o'clock."""
    busy = rng.random(n) < 0.8
    return np.sort(np.where(busy, 9 + 8 * rng.random(n), 24 * rng.random(n))) * 3600


def bursts(rng: Rng, n: int) -> Floats:
    """Half of the requests in three bursts of a quarter of an hour, at random times."""
    at = rng.uniform(0.05, 0.95, 3)
    burst = at[rng.integers(0, 3, n // 2)] + rng.random(n // 2) / 96
    return np.sort(np.concatenate([rng.random(n - n // 2), burst])) * DAY


def burst_at_start(rng: Rng, n: int) -> Floats:
    """Three of ten requests in the first half hour."""
    early = rng.random(n * 3 // 10) / 48
    return np.sort(np.concatenate([rng.random(n - len(early)), early])) * DAY


SCENARIOS = {
    "steady": Scenario(steady),
    "office_hours": Scenario(office_hours),
    "easy_first": Scenario(steady, order="easy"),
    "hard_first": Scenario(steady, order="hard"),
    "bursts": Scenario(bursts),
    "burst_at_start": Scenario(burst_at_start),
    "frontier_price_halved": Scenario(steady, price=0.5),
    "frontier_price_doubled": Scenario(steady, price=2.0),
    "log_3x_too_high": Scenario(steady, learnt=3.0),
    "log_3x_too_low": Scenario(steady, learnt=1 / 3),
    "stated_3x_too_high": Scenario(steady, learnt=None, stated=3.0),
    "stated_3x_too_low": Scenario(steady, learnt=None, stated=1 / 3),
    "budget_raised_by_half": Scenario(steady, limit=1.5),
    "budget_lowered_by_a_quarter": Scenario(steady, limit=0.75),
    "nothing_known": Scenario(steady, learnt=None),
}


@dataclass(frozen=True)
class Stream:
    """One day: N requests with their times, and what was known when it began."""

    traffic: Traffic
    time: Floats
    limit: Ints  # (N,) nano-USD, as of each request
    unit_costs: Dated[Floats]
    counts: dict[int, int]  # earlier traffic by quarter of an hour
    sample: Traffic | None  # earlier requests
    stated: float | None
    forecast: float  # requests that a static weight is calibrated for


def make_stream(
    scenario: Scenario, earlier: Traffic, pool: Traffic, n: int, level: float, rng: Rng
) -> Stream:
    """Draw a day of `n` requests with a budget of `level` times always-frontier's bill."""
    rows = rng.integers(0, len(pool), n)
    if scenario.order:
        score = pool.score[rows].mean(axis=1)
        rows = rows[np.argsort(-score if scenario.order == "easy" else score, kind="stable")]
    times = START + scenario.times(rng, n)
    traffic = pool.take(rows)
    late = times >= START + DAY / 2
    arms = traffic.quality.shape[1]
    price = np.ones((n, arms))
    price[late, -1] = scenario.price
    traffic = replace(
        traffic,
        **{
            name: np.rint(getattr(traffic, name) * price).astype(np.int64)
            for name in ("expected", "upper", "cost")
        },
    )
    limit = np.full(n, level * traffic.cost[:, -1].sum())
    limit[late] *= scenario.limit
    usual = earlier.expected.mean(axis=0)
    changed = usual * np.append(np.ones(arms - 1), scenario.price)
    counts: dict[int, int] = {}
    if scenario.learnt is not None:
        for day in range(1, EARLIER_DAYS + 1):
            seen = START - day * DAY + scenario.times(rng, round(n * scenario.learnt))
            for number in (seen // BIN_SECONDS).astype(int).tolist():
                counts[number] = counts.get(number, 0) + 1
    wrong = scenario.learnt or scenario.stated or 1.0
    return Stream(
        traffic=traffic,
        time=times,
        limit=np.rint(limit).astype(np.int64),
        unit_costs=Dated((START - 1e6, START + DAY / 2), (usual, changed)),
        counts=counts,
        sample=None if scenario.learnt is None else earlier,
        stated=None if scenario.stated is None else n * scenario.stated,
        forecast=n * wrong,
    )


# ── where the money is ─────────────────────────────────────────────────────────────────────────
class Purse:
    """A budget's money by the ledger's arithmetic, without its store."""

    def __init__(self, budget: Budget):
        self.budget, self.settled, self.held = budget, 0, 0

    def change(self, limit: int) -> None:
        self.budget = replace(self.budget, limit=limit)

    def room(self, now: float) -> Room:
        ends = START + DAY
        return Room(
            (
                BudgetState(
                    self.budget,
                    "",
                    "day",
                    self.settled,
                    self.held,
                    0,
                    ends,
                    limit=self.budget.limit,
                ),
            )
        )

    def reserve(self, row: int, amount: int, now: float) -> None:
        assert self.budget.limit is not None
        assert self.settled + self.held + amount <= self.budget.limit
        self.held += amount

    def settle(self, row: int, amount: int, cost: int, now: float) -> None:
        self.held, self.settled = self.held - amount, self.settled + cost

    def spent(self) -> int:
        return self.settled


class LedgerPurse:
    """The same money in a real ledger."""

    def __init__(self, budget: Budget, url: str):
        self.budget, self.url = budget, url
        self.ledger = open_ledger(url, [budget], durability="normal")

    def change(self, limit: int) -> None:
        self.ledger.close()
        self.budget = replace(self.budget, limit=limit)
        self.ledger = open_ledger(self.url, [self.budget], durability="normal")

    def room(self, now: float) -> Room:
        return self.ledger.room({}, now)

    def reserve(self, row: int, amount: int, now: float) -> None:
        name = str(row)
        request = RequestRow(
            request_id=name, time=now, status="open", policy="", predictor="", price_book="",
            scopes={}, tags=(), conversation_id=None, stream=False, features={}, decision=(),
            chosen="", reason="", rule=None, baseline=None,
        )  # fmt: skip
        self.ledger.reserve(Reservation(
            name, amount, scopes={}, now=now, expires_at=now + 600,
            worst_case=attempt(name, now, amount), request=request,
        ))  # fmt: skip

    def settle(self, row: int, amount: int, cost: int, now: float) -> None:
        end = RequestEnd("answered", accepted=1, baseline=None)
        self.ledger.settle(str(row), attempt(str(row), now, cost), end, now)

    def spent(self) -> int:
        problems = self.ledger.verify()
        [state] = self.ledger.states(START + DAY - 1)
        self.ledger.close()
        assert problems == [], problems
        assert state.held == 0
        return state.settled


def attempt(name: str, now: float, cost: int) -> AttemptRow:
    return AttemptRow(
        request_id=name, number=1, time=now, step=0, arm="", tier="", model="", propensity=1.0,
        status="answered", reserved=cost, cost=cost, cost_source="computed", price_book="",
        latency=LATENCY,
    )  # fmt: skip


# ── the paced day ──────────────────────────────────────────────────────────────────────────────
def paced(stream: Stream, purse: Purse | LedgerPurse) -> dict[str, Any]:
    """Pace one day: every call is reserved at its upper bound, and settled at its bill."""
    traffic, n = stream.traffic, len(stream.traffic)
    tier = np.arange(traffic.quality.shape[1])
    names = [f"arm {index}" for index in tier]
    pacer = Pacer(BUDGET, names, tier, 0.0, stream.stated, stream.unit_costs)
    if stream.sample is not None:
        for row in range(min(SAMPLE, len(stream.sample))):
            pacer._sample.add(options_of(stream.sample, row))
    pacer.learn(stream.counts, START - EARLIER_DAYS * DAY, START)
    flying: deque[tuple[float, int, int, int]] = deque()
    quality, refused, worst, bill = 0.0, 0, -(2**63), 0
    taken = np.empty(n)
    for row, now in enumerate(stream.time.tolist()):
        while flying and flying[0][0] <= now:
            ends, *call = flying.popleft()
            purse.settle(*call, ends)
        if stream.limit[row] != purse.budget.limit:
            purse.change(int(stream.limit[row]))
        options, room = options_of(traffic, row), purse.room(now)
        began = time.perf_counter_ns()
        objective = pacer.objective(options, room, now)
        taken[row] = time.perf_counter_ns() - began
        assert objective is not None
        left = room.remaining() or 0
        arm = decide(options, objective, left)
        if arm < 0:
            refused += 1
            continue
        upper, cost = int(traffic.upper[row, arm]), int(traffic.cost[row, arm])
        purse.reserve(row, upper, now)
        worst = max(worst, upper - left)
        flying.append((now + LATENCY, row, upper, cost))
        quality += float(traffic.score[row, arm])
        bill += cost
    for ends, *call in flying:
        purse.settle(*call, ends)
    spent = purse.spent()
    assert spent == bill, "the ledger is not the recorded bill"
    return {
        "utilisation": spent / int(stream.limit[-1]),
        "spent_nano": spent,
        "overshoot_nano": max(0, worst),
        "quality": quality / n,
        "refused": refused,
        "pacer_median_us": float(np.median(taken)) / 1000,
    }


def decide(options: Options, objective: Objective, left: int) -> int:
    """As `decide` does: first keeping back what the pace asks for."""
    kept = objective.pace.kept if objective.pace else 0
    arm = int(choose(options, objective, np.array([left - kept]), priced=True).arm[0])
    if arm < 0 and kept:
        arm = int(choose(options, objective, np.array([left]), priced=True).arm[0])
    return arm


def options_of(traffic: Traffic, row: int) -> Options:
    arms = traffic.quality.shape[1]
    one = slice(row, row + 1)
    return Options(
        quality=traffic.quality[one],
        expected=traffic.expected[one],
        upper=traffic.upper[one],
        barred=np.zeros((1, arms), np.uint8),
        rung=np.arange(arms),
        baseline=arms - 1,
    )


# ── what it is compared with ───────────────────────────────────────────────────────────────────
def best_fixed(stream: Stream) -> tuple[float, float]:
    """Quality and utilisation of the best fixed weight in hindsight."""
    bills, scores = fixed(stream.traffic)
    fits = bills <= stream.limit[-1]
    at = np.flatnonzero(fits)[scores[fits].argmax()]
    return float(scores[at]), float(bills[at] / stream.limit[-1])


def fixed(traffic: Traffic) -> tuple[Floats, Floats]:
    """The recorded bill and mean score at each of `WEIGHTS`."""
    row, usd = np.arange(len(traffic)), traffic.expected / NANO_PER_USD
    bills, scores = [], []
    for weight in WEIGHTS:
        arm = (traffic.quality - weight * usd).argmax(axis=1)
        bills.append(float(traffic.cost[row, arm].sum()))
        scores.append(float(traffic.score[row, arm].mean()))
    return np.array(bills), np.array(scores)


def calibrated(stream: Stream, earlier: Traffic) -> dict[str, float]:
    """The fixed weight that would have spent the budget on earlier traffic, at its forecast."""
    bills, _ = fixed(earlier)
    target = stream.limit[0] / stream.forecast
    fits = np.flatnonzero(bills / len(earlier) <= target)
    weight = float(WEIGHTS[fits[0]]) if len(fits) else float(WEIGHTS[-1])
    expected = stream.traffic.expected / NANO_PER_USD
    utility = stream.traffic.quality - weight * expected
    return walked(stream, lambda row: utility[row], lambda cost: None)


def dual_ascent(stream: Stream) -> dict[str, float]:
    """Lambda follows the moving average of bills."""
    quality = stream.traffic.quality
    log = np.log(stream.unit_costs.values[0])
    price = (log - log.min()) / (log.max() - log.min())
    target = stream.limit[0] / stream.forecast
    state = {"lambda": 0.0, "mean": target}

    def utility(row: int) -> Floats:
        found: Floats = quality[row] - state["lambda"] * price
        return found

    def learn(cost: int) -> None:
        state["mean"] += 0.05 * (cost - state["mean"])
        state["lambda"] = min(5.0, max(0.0, state["lambda"] + 0.05 * (state["mean"] / target - 1)))

    return walked(stream, utility, learn)


def walked(
    stream: Stream, utility: Callable[[int], Floats], learn: Callable[[int], None]
) -> dict[str, float]:
    """Walk a day under the hard budget: the same arithmetic as the ledger's, without one."""
    traffic = stream.traffic
    settled = held = refused = 0
    quality = 0.0
    flying: deque[tuple[float, int, int]] = deque()
    for row, now in enumerate(stream.time.tolist()):
        while flying and flying[0][0] <= now:
            _, upper, cost = flying.popleft()
            held, settled = held - upper, settled + cost
            learn(cost)
        fits = traffic.upper[row] <= stream.limit[row] - settled - held
        if not fits.any():
            refused += 1
            continue
        arm = int(np.where(fits, utility(row), -np.inf).argmax())
        flying.append((now + LATENCY, int(traffic.upper[row, arm]), int(traffic.cost[row, arm])))
        held += flying[-1][1]
        quality += float(traffic.score[row, arm])
    settled += sum(cost for _, _, cost in flying)
    return {
        "utilisation": settled / int(stream.limit[-1]),
        "quality": quality / len(traffic),
        "refused": refused,
    }


# ── the report ─────────────────────────────────────────────────────────────────────────────────
def cell(stream: Stream, earlier: Traffic, through_ledger: bool) -> dict[str, Any]:
    budget = Budget(BUDGET, int(stream.limit[0]), "day", on_exceed="downgrade")
    found = paced(stream, Purse(budget))
    if through_ledger:
        with TemporaryDirectory() as folder:
            real = paced(stream, LedgerPurse(budget, f"sqlite:///{folder}/ledger.db"))
        same = [name for name in found if name != "pacer_median_us" and found[name] != real[name]]
        assert not same, f"a real ledger differs in {same}"
    found["through_ledger"] = through_ledger
    quality, used = best_fixed(stream)
    free_bill = fixed_bill_at_zero(stream.traffic)
    others = {"calibrated": calibrated(stream, earlier), "dual_ascent": dual_ascent(stream)}
    return {
        **found,
        "best_fixed": {"quality": quality, "utilisation": used},
        "regret": quality - found["quality"],
        "ample": bool(free_bill <= stream.limit[-1]),
        "largest_reservation_share": float(stream.traffic.upper.max() / stream.limit[-1]),
        **{name: {**other, "regret": quality - other["quality"]} for name, other in others.items()},
    }


def fixed_bill_at_zero(traffic: Traffic) -> float:
    """What would be spent if cost had no weight."""
    return float(traffic.cost[np.arange(len(traffic)), traffic.quality.argmax(axis=1)].sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outcomes", type=Path, default=ROOT / "../shared/outcomes")
    parser.add_argument("--only", action="append", choices=sorted(SOURCES))
    parser.add_argument("--scenario", action="append", choices=sorted(SCENARIOS))
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    for source in options.only or SOURCES:
        began = time.perf_counter()
        earlier, pool = load(options.outcomes, source, options.seed)
        cells: dict[str, Any] = {}
        for name in options.scenario or SCENARIOS:
            for level in LEVELS:
                through_ledger = source == THROUGH_LEDGER
                stream = make_stream(
                    SCENARIOS[name], earlier, pool, options.requests, level,
                    np.random.default_rng(options.seed),
                )  # fmt: skip
                found = cell(stream, earlier, through_ledger)
                cells.setdefault(name, {})[f"{level:g}"] = found
                show(source, name, level, found)
        results[source] = rounded(
            {
                "questions": len(pool), "earlier_questions": len(earlier),
                "requests": options.requests, "seed": options.seed, "commit": commit(),
                "machine": machine(), "seconds": time.perf_counter() - began, "cells": cells,
            }
        )  # fmt: skip
        options.out.write_text(json.dumps(results, indent=1) + "\n")


def show(source: str, name: str, level: float, found: dict[str, Any]) -> None:
    print(
        f"{source:16} {name:27} {level:.1f}  used {100 * found['utilisation']:6.2f}%  "
        f"over {found['overshoot_nano']}  refused {found['refused']:3}  "
        f"regret {found['regret']:+.4f}  "
        + "  ".join(
            f"{other} {100 * found[other]['utilisation']:.1f}% {found[other]['regret']:+.4f}"
            for other in ("calibrated", "dual_ascent")
        )
        + ("  (more than can be spent)" if found["ample"] else ""),
        flush=True,
    )


if __name__ == "__main__":
    main()
