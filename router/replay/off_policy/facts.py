"""What a reader of estimates must know of a log: rows that stand twice, chances that cannot be
true, prices that changed, labels that say nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.decide import UNKNOWN
from router.log.judged import about_judged
from router.log.label_weights import carried
from router.money import NANO_PER_USD
from router.replay.off_policy.batch import LogBatch
from router.replay.off_policy.sums import LOGGED, Calls, Tally, calls_of, told_of

_DAY = 86_400.0
_ADDED = ("rows", "twice", "without_chances", "chains", "spent", "unpriced", "labelled", "judged",
          "naive", "naive_rows", "naive_spent", "predicted_baseline", "predicted_rows",
          "predicted_spent", "explored", "explored_extra")  # fmt: skip
_L = {name: at for at, name in enumerate(LOGGED)}
_IMPLAUSIBLE = 4.5  # standard errors; one honest log in 100,000 is as far off, for each arm
_RARE = 2 / 3 * math.log(100_000)  # largest single terms, by as much more where takes are few
_LEAST_CALLS = 30  # of an arm, in each half, before its bills are compared
_DRIFT = 0.1  # by which bills over quotes may differ between the halves of a log
_LEAST_LABELS = 100  # before labels are held against predictions


@dataclass(slots=True)
class ArmFacts:
    """Sums over the decisions in which an arm, or another action, had a chance, for the check of
    the chances themselves: how often it was taken, `weighted` by the inverse of its chance, and how
    often that should add up to; `variance` of the first; `largest`, what a single take adds to it
    at most, where it was left to chance."""

    weighted: float = 0.0
    rows: float = 0.0
    variance: float = 0.0
    largest: float = 0.0

    def merge(self, other: ArmFacts) -> None:
        """Add the sums of another part."""
        self.weighted += other.weighted
        self.rows += other.rows
        self.variance += other.variance
        self.largest = max(self.largest, other.largest)


def keys_of(batch: LogBatch) -> NDArray[np.uint64]:
    """What tells a decision from every other: a hash of its request and its step."""
    keys: NDArray[np.uint64] = batch.request_hash + batch.step.astype(np.uint64) * np.uint64(
        0x9E3779B97F4A7C15
    )
    return keys


@dataclass(slots=True)
class Facts:
    """Facts of a log, or of a part of it."""

    rows: int = 0
    twice: int = 0  # rows that stand twice, and count once
    without_chances: int = 0  # rows whose propensities are not known
    chains: int = 0  # requests that took more than one call of a cascade
    spent: float = 0.0  # nano-USD, where known
    unpriced: int = 0
    labelled: int = 0
    judged: int = 0  # of `labelled`, those by a judge
    naive: float = 0.0  # nano-USD of the chosen models' own tokens at the baseline's price
    naive_rows: int = 0
    naive_spent: float = 0.0  # nano-USD of these rows
    predicted_baseline: float = 0.0  # nano-USD, as it was logged, where the cost is known too
    predicted_rows: int = 0
    predicted_spent: float = 0.0  # nano-USD of these rows
    explored: int = 0  # rows whose arm was drawn, and not the best
    explored_extra: float = 0.0  # nano-USD that they were expected to cost beyond the best arm
    first: float = math.inf
    last: float = -math.inf
    arms: dict[str, ArmFacts] = field(default_factory=dict)
    books: Counter[str] = field(default_factory=Counter)
    predictors: Counter[str] = field(default_factory=Counter)
    policies: Counter[str] = field(default_factory=Counter)
    # (day, arm) → calls, their cost and their expected cost
    bills: dict[tuple[int, str], list[float]] = field(default_factory=dict)
    hashes: list[NDArray[np.uint64]] = field(default_factory=list)

    def add(self, batch: LogBatch) -> None:
        """Add a batch in which no row stands twice."""
        at = np.arange(len(batch))
        self.rows += len(batch)
        self.chains += int((batch.step > 0).sum())
        self.spent += float(np.nansum(batch.cost))
        self.unpriced += int(np.isnan(batch.cost).sum())
        labelled = np.isfinite(batch.label)
        self.labelled += int(labelled.sum())
        if batch.beside_baseline is not None:
            self.judged += int((labelled & batch.beside_baseline).sum())
        both = np.isfinite(batch.cost) & np.isfinite(batch.baseline)
        self.predicted_baseline += float(batch.baseline[both].sum())
        self.predicted_rows += int(both.sum())
        self.predicted_spent += float(batch.cost[both].sum())
        self.first = min(self.first, float(batch.time.min()))
        self.last = max(self.last, float(batch.time.max()))
        self.hashes.append(keys_of(batch))
        for counter, words in (
            (self.books, batch.price_book),
            (self.predictors, batch.predictor),
            (self.policies, batch.policy),
        ):
            codes, names = words
            found = np.bincount(codes, minlength=len(names))
            counter.update({name: int(n) for name, n in zip(names, found, strict=True) if n})
        mine = batch.propensity[at, batch.chosen]
        self.without_chances += int(np.isnan(mine).sum())
        self._check_chances(batch, mine)
        self._add_bills(batch)

    def _check_chances(self, batch: LogBatch, mine: NDArray[np.float64]) -> None:
        names = [arm.name for arm in batch.arms]
        self._check_taken(names, batch.propensity, batch.chosen)
        if batch.looks is not None:
            looks = batch.looks
            after = [f"{name}, after a look" for name in (*names, "stopping")]
            for step in range(looks.chosen.shape[1]):
                seen = looks.there[:, step]
                self._check_taken(after, looks.chances[seen, step], looks.taken[seen, step])
        best = np.nan_to_num(batch.propensity, nan=-1.0).argmax(axis=1)
        rows = np.arange(len(batch))
        drawn = mine < batch.propensity[rows, best]
        self.explored += int(drawn.sum())
        money = np.where(batch.expected == UNKNOWN, 0, batch.expected)
        self.explored_extra += float((money[rows, batch.chosen] - money[rows, best])[drawn].sum())
        impossible = np.isfinite(mine) & ~((mine > 0) & (mine <= 1 + 1e-9))
        if impossible.any():  # what was taken had no chance: as implausible as can be
            at = int(np.flatnonzero(impossible)[0])
            self.arms[batch.arms[int(batch.chosen[at])].name].weighted = math.inf

    def _check_taken(
        self, names: list[str], chances: NDArray[np.float64], taken: NDArray[np.int64]
    ) -> None:
        """Sum up how often each of some actions was taken, and how often it should have been."""
        for at, name in enumerate(names):
            had = np.isfinite(chances[:, at]) & (chances[:, at] > 0)
            chance = chances[had, at]
            facts = self.arms.setdefault(name, ArmFacts())
            facts.weighted += float(((taken[had] == at) / chance).sum())
            facts.rows += float(had.sum())
            facts.variance += float((1 / chance - 1).sum())
            left = chance[chance < 1]
            facts.largest = max(facts.largest, float((1 / left).max(initial=0.0)))

    def _add_bills(self, batch: LogBatch) -> None:
        for call in calls_of(batch):
            self._add_bills_of(batch, call)

    def _add_bills_of(self, batch: LogBatch, call: Calls) -> None:
        expected = batch.expected[call.at, call.arm]
        known = np.isfinite(call.cost) & (expected != UNKNOWN) & (expected > 0)
        day = (batch.time[call.at[known]] // _DAY).astype(np.int64)
        cell = day * len(batch.arms) + call.arm[known]
        cells, place = np.unique(cell, return_inverse=True)
        columns = (None, call.cost[known], expected[known].astype(np.float64))
        sums = [np.bincount(place, weights=column) for column in columns]
        for index, each in enumerate(cells.tolist()):
            key = (each // len(batch.arms), batch.arms[each % len(batch.arms)].name)
            held = self.bills.setdefault(key, [0.0, 0.0, 0.0])
            for column in range(3):
                held[column] += float(sums[column][index])

    def merge(self, other: Facts) -> None:
        """Add the facts of a later part."""
        for name in _ADDED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.first, self.last = min(self.first, other.first), max(self.last, other.last)
        for name, arm in other.arms.items():
            self.arms.setdefault(name, ArmFacts()).merge(arm)
        self.books.update(other.books)
        self.predictors.update(other.predictors)
        self.policies.update(other.policies)
        for key, sums in other.bills.items():
            held = self.bills.setdefault(key, [0.0, 0.0, 0.0])
            held[:] = [a + b for a, b in zip(held, sums, strict=True)]
        self.hashes += other.hashes

    def repeated(self) -> int:
        """Rows whose request stands in another part too."""
        every = np.sort(np.concatenate(self.hashes)) if self.hashes else np.zeros(0)
        return int((every[1:] == every[:-1]).sum())

    def implausible(self) -> list[str]:
        """Arms that were not taken as often as their chances say.

        The sum is not normal where few takes are expected: one take of a chance of 1 in 10,000 adds
        10,000. Bernstein's inequality allows for that (Boucheron, Lugosi and Massart, Concentration
        Inequalities, 2013, section 2.8).
        """
        found = []
        for name, arm in self.arms.items():
            error = math.sqrt(max(arm.variance, 0.0))
            off = abs(arm.weighted - arm.rows)
            if off > _IMPLAUSIBLE * error + _RARE * arm.largest + 1e-6 * arm.rows + 1e-9:
                found.append(f"{name} ({arm.weighted:,.0f} weighted takes of {arm.rows:,.0f})")
        return found

    def drifted(self) -> list[str]:
        """Arms whose bills, over what was quoted, differ between the halves of the log's days."""
        days = sorted({day for day, _ in self.bills})
        middle = days[len(days) // 2] if len(days) > 1 else None
        halves: dict[str, list[list[float]]] = {}
        for (day, arm), sums in sorted(self.bills.items()):
            half = int(middle is not None and day >= middle)
            held = halves.setdefault(arm, [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])[half]
            held[:] = [a + b for a, b in zip(held, sums, strict=True)]
        found = []
        for arm, (early, late) in halves.items():
            if min(early[0], late[0]) < _LEAST_CALLS:
                continue
            before, after = early[1] / early[2], late[1] / late[2]
            if abs(after - before) > _DRIFT * before:
                found.append(f"{arm} (bills over quotes {before:.2f}, then {after:.2f})")
        return found


def agreement(logged: Tally) -> tuple[float, int]:
    """How labels go with predictions within arms: correlation, and the number of labels."""
    n = covariance = spread_x = spread_y = 0.0
    for sums in logged.by_arm.values():
        m, x, y, xx, xy = (
            float(sums[:, _L[f"quality.{c}"]].sum()) for c in ("m", "x", "y", "xx", "xy")
        )
        if m < 2:
            continue
        n += m
        covariance += xy - x * y / m
        spread_x += xx - x * x / m
        spread_y += y - y * y / m  # of labels of 0 and 1; of others it is at most this
    if spread_x <= 1e-9 * n or spread_y <= 1e-9 * n:
        return 0.0, 0  # there is nothing to go together
    return covariance / math.sqrt(spread_x * spread_y), int(n)


def _about_labels(logged: Tally) -> list[str]:
    """What quality takes for granted of answers without a label."""
    sums = np.array([each.sum(axis=0) for each in logged.by_arm.values()]).reshape(-1, len(LOGGED))
    by_rate = carried(sums[:, _L["sampled.n"]], told_of(sums))
    drawn = sums[by_rate]
    weight, variance = (float(drawn[:, _L[f"sampled.{c}"]].sum()) for c in "mv")
    stood_for = float((drawn[:, _L["n"]] - told_of(drawn)).sum())
    found = []
    if abs(weight - stood_for) > _IMPLAUSIBLE * math.sqrt(variance) + 1e-6 * stood_for:
        found.append(
            f"drawn labels stand for {weight:,.0f} answers by their rates, of {stood_for:,.0f} "
            "that nobody else labelled: some could not be judged, or a draw was cut short; quality "
            "takes the others to be like them"
        )
    alone = sums[~by_rate & (sums[:, _L["quality.m"]] > 0)]
    unlabelled = float((alone[:, _L["n"]] - alone[:, _L["quality.m"]]).sum())
    if unlabelled:
        found.append(
            f"{unlabelled:,.0f} answers have no label, and too few of their arms' labels were "
            "drawn: quality takes them to be as good as labelled answers of the same arm; "
            "`router judge` draws"
        )
    return found


def warnings_of(facts: Facts, logged: Tally) -> list[str]:
    """What is odd about the log, whatever the policy."""
    found = []
    if facts.twice:
        found.append(f"{facts.twice:,} rows stand twice in the log and were counted once")
    if len(facts.books) > 1:
        found.append(
            f"prices changed within the log ({len(facts.books)} price books): every figure is at "
            "the prices of its day; use --since to look at today's alone"
        )
    if drifted := facts.drifted():
        found.append(
            f"what calls cost has drifted: {'; '.join(drifted)}; figures are a mean over the "
            "period and no forecast"
        )
    if len(facts.predictors) > 1:
        found.append(
            f"{len(facts.predictors)} predictors decided in this log; each row has its own"
        )
    if facts.unpriced:
        found.append(
            f"{facts.unpriced:,} requests have no known cost and are in no cost; their cost is "
            "taken to be as that of others of their arm"
        )
    correlation, labels = agreement(logged)
    if labels >= _LEAST_LABELS and correlation < 2 / math.sqrt(labels):
        found.append(
            f"labels do not follow the predictions (correlation {correlation:+.3f} over {labels:,} "
            "labels): they may be shuffled, joined to the wrong requests, or the predictor knows "
            "nothing of this traffic"
        )
    if facts.judged:
        found.append(about_judged(facts.judged, facts.labelled))
    return found + _about_labels(logged)


def as_dict(facts: Facts) -> Mapping[str, Any]:
    """The facts, ready for JSON."""
    return {
        "rows": facts.rows,
        "rows_twice": facts.twice,
        "labelled": facts.labelled,
        "judged": facts.judged,
        "chains": facts.chains,
        "explored": facts.explored,
        "explored_extra_usd": facts.explored_extra / NANO_PER_USD,
        "without_propensities": facts.without_chances,
        "unknown_costs": facts.unpriced,
        "since": facts.first if facts.rows else None,
        "until": facts.last if facts.rows else None,
        "policies": dict(facts.policies),
        "predictors": dict(facts.predictors),
        "price_books": dict(facts.books),
    }
