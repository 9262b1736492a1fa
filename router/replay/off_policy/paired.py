"""Two policies on the same log: their difference, request by request, is surer than either.

What both decide alike cancels out of the difference, noise and all; its interval comes from the
requests that they decide differently.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from router.money import NANO_PER_USD
from router.replay.off_policy.batch import LogBatch
from router.replay.off_policy.estimate import Estimates, Replicates, estimate
from router.replay.off_policy.measure import Sums
from router.replay.off_policy.path import Path, onward_of, path_of
from router.replay.off_policy.replay import shown
from router.replay.off_policy.support import (
    BEST,
    MOST_UNSUPPORTED,
    few_calls,
    no_cost,
    no_quality,
    refusals,
    refuse_log,
)
from router.replay.off_policy.target import known_costs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.types import Floats, Ints

_REFUSED, _STOPPED = "(refused)", "(stop)"
_ANYTHING = (-math.inf, math.inf)


@dataclass(slots=True)
class Moves:
    """The requests that two policies decide differently, counted as a log is read.

    `by_arms`: requests by the arms from and to; `lost` and `lost_cost`: moved requests of which one
    of the two arms had no chance in the log, and the nano-USD that these were predicted to cost;
    `examples`: the `keep` of them with the least hash, so that any two readings show the same.
    """

    old: str
    new: str
    keep: int = 0
    rows: int = 0
    by_arms: Counter[tuple[str, str]] = field(default_factory=Counter)
    lost: int = 0
    lost_cost: float = 0.0
    _kept: list[tuple[int, int, dict[str, Any]]] = field(default_factory=list)

    def watch(self, batch: LogBatch, decided: Mapping[str, Ints | Path]) -> None:
        """Count the moves of a batch; what `measure` calls."""
        self.add(batch, decided[self.old], decided[self.new])

    def add(self, batch: LogBatch, one: Ints | Path, other: Ints | Path) -> None:
        """Count the moves from one decision to the other.

        Of chains, the first decisions count, and of those alike in these, the first after a look
        that differs.
        """
        self.rows += len(batch)
        paths = path_of(one), path_of(other)
        old, new = paths[0].first, paths[1].first
        self._count(batch, np.flatnonzero(old != new), old, new)
        if batch.looks is None or (paths[0].onward is None and paths[1].onward is None):
            return
        on = [onward_of(path, batch) for path in paths]
        alike = (old == new) & (old == batch.chosen)
        for step in range(on[0].shape[1]):
            alike &= batch.looks.there[:, step]
            mine, yours = on[0][:, step], on[1][:, step]
            self._count(batch, np.flatnonzero(alike & (mine != yours)), mine, yours, step)
            alike &= (mine == yours) & (mine == batch.looks.chosen[:, step])

    def _count(
        self, batch: LogBatch, at: Ints, old: Ints, new: Ints, step: int | None = None
    ) -> None:
        none = _REFUSED if step is None else _STOPPED
        names = [*(arm.name for arm in batch.arms), none]  # -1 is the last
        pairs, counts = np.unique(np.stack([old[at], new[at]]), axis=1, return_counts=True)
        for (one, other), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
            self.by_arms[names[one], names[other]] += count
        chances = batch.propensity if step is None else None
        if chances is None:
            assert batch.looks is not None
            chances = batch.looks.chances[:, step]
        for arm in (old, new):
            refuses = (arm[at] < 0) & (step is None)
            lost = at[~refuses & ~(chances[at, arm[at]] > 0)]  # -1, to stop, has the last chance
            self.lost += len(lost)
            self.lost_cost += float(np.nansum(known_costs(batch.take(lost), arm[lost])))
        if self.keep:
            self._sample(batch, at, old, new, names)

    def _sample(
        self, batch: LogBatch, at: NDArray[np.int64], old: Ints, new: Ints, names: list[str]
    ) -> None:
        for row in at[np.argsort(batch.request_hash[at], kind="stable")][: self.keep].tolist():
            # Ties cannot happen within a log: a row that stands twice is counted once.
            held = (-int(batch.request_hash[row]), -self.rows - row)
            if len(self._kept) == self.keep and held < self._kept[0][:2]:
                return
            shown = {
                "request_id": None if batch.request_id is None else str(batch.request_id[row]),
                "from": _seen(batch, row, int(old[row]), names),
                "to": _seen(batch, row, int(new[row]), names),
            }
            push = heapq.heappush if len(self._kept) < self.keep else heapq.heapreplace
            push(self._kept, (*held, shown))

    @property
    def moved(self) -> int:
        """How many requests are decided differently."""
        return sum(self.by_arms.values())

    @property
    def refusals(self) -> int:
        """How many requests one policy sends somewhere and the other nowhere."""
        return sum(count for arms, count in self.by_arms.items() if _REFUSED in arms)

    @property
    def examples(self) -> list[dict[str, Any]]:
        """The sample, in the order of the hashes."""
        return [shown for *_, shown in sorted(self._kept, key=lambda kept: kept[:2], reverse=True)]

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "requests": self.moved,
            "share": self.moved / self.rows if self.rows else 0.0,
            "table": [
                {"from": one, "to": other, "requests": count, "share": count / self.rows}
                for (one, other), count in sorted(
                    self.by_arms.items(), key=lambda each: (-each[1], each[0])
                )
            ],
            "examples": self.examples,
        }


def _seen(batch: LogBatch, row: int, arm: int, names: list[str]) -> dict[str, Any]:
    """What the log predicted of one arm of one request; cost in US dollars."""
    if arm < 0:
        return {"arm": _REFUSED, "quality": None, "cost_usd": None}
    cost = float(known_costs(batch.take(np.array([row])), np.array([arm]))[0])
    return {
        "arm": names[arm],
        "quality": float(batch.quality[row, arm]),
        "cost_usd": None if math.isnan(cost) else cost / NANO_PER_USD,
    }


@dataclass(frozen=True, slots=True)
class Paired:
    """NEW - OLD, each figure with its 95% interval as {value, low, high, error}.

    `cost`: US dollars a request; `cost_pct`: the same in percent of what OLD costs; `quality`: a
    share of good answers; None where it cannot be said, `why_no_quality` and `why_no_cost` then say
    why. `old`, `new`: cost and quality of each. `refused`: why nothing is estimated at all.
    """

    rows: int
    cost: dict[str, float] | None
    cost_pct: dict[str, float] | None
    quality: dict[str, float] | None
    value: dict[str, float] | None
    why_no_quality: str | None
    old: dict[str, Any]
    new: dict[str, Any]
    refused: tuple[str, ...]
    warnings: tuple[str, ...]
    why_no_cost: str | None = None

    @property
    def why_not(self) -> str | None:
        """Why it is not known of one of cost and quality; None where both are."""
        return "; ".join(filter(None, (self.why_no_cost, self.why_no_quality))) or None

    @property
    def served(self) -> int:
        """How many requests of the log NEW does not refuse; OLD's are the same but for a few."""
        return self.rows - int(self.new["refused_requests"])

    @property
    def over_log(self) -> dict[str, float] | None:
        """The difference in US dollars over all requests of the log that are served."""
        return None if self.cost is None else {k: v * self.served for k, v in self.cost.items()}


def pair(sums: Sums, old: str, new: str, moves: Moves) -> Paired:
    """The difference between two policies that `sums` has, and of which `moves` tells the moves.

    Raises `ReplayError` where the log itself cannot be used.
    """
    refuse_log(sums.facts)
    found = {name: estimate(sums.logged, sums.policies[name]) for name in (old, new)}
    return difference(sums, found, old, new, moves)


def difference(
    sums: Sums,
    found: Mapping[str, Estimates],
    old: str,
    new: str,
    moves: Moves,
    cost_weight: float | None = None,
) -> Paired:
    """The same from the estimates of both, of a log that can be used.

    `cost_weight`: how much quality a US dollar is worth, for `value`, the difference in quality
    less what it costs.
    """
    facts = sums.facts
    before, after = found[old], found[new]
    refused = _both(
        (name, reason) for name in (old, new) for reason in refusals(found[name], facts)
    )
    warnings = [
        f"{name} would have refused {count:,} requests; they are in no figure"
        for name in (old, new)
        if (count := sums.policies[name].refused)
    ]
    unpriced = _both((name, why) for name in (old, new) if (why := no_cost(found[name])))
    if not unpriced:
        warnings += [f"{name}: {few_calls(found[name])}" for name in (old, new) if found[name].thin]
    if moves.refusals > MOST_UNSUPPORTED * moves.rows:
        refused.append(
            f"{moves.refusals:,} requests are refused by one policy alone: the figures of the two "
            "would be of different requests"
        )
    sides = {name: _side(sums, name, found[name]) for name in (old, new)}
    if refused:
        return Paired(
            facts.rows, None, None, None, None, None, sides[old], sides[new], tuple(refused),
            tuple(warnings),
        )  # fmt: skip
    lost, lost_cost = moves.lost / moves.rows, moves.lost_cost / moves.rows
    # Of calls of which there are too few, both may have the same.
    lost_cost += abs(_thin(after) - _thin(before))
    dearer = _minus(after, before, "cost")
    was = before.by_outcome["cost"][BEST].values
    cost = cost_pct = quality = value = None
    if not unpriced:
        cost = shown(dearer, NANO_PER_USD, lost_cost, _ANYTHING)
        share = Replicates(100 * dearer.values / np.where(was == 0, np.nan, was))
        if was[0]:
            cost_pct = shown(share, 1, 100 * lost_cost / float(was[0]), _ANYTHING)
    blind = _both((name, why) for name in (old, new) if (why := no_quality(found[name], facts)))
    if not blind:
        better = _minus(after, before, "quality")
        quality = shown(better, 1, lost, _ANYTHING)
        if cost_weight is not None and not unpriced:
            weight = cost_weight / NANO_PER_USD
            worth = Replicates(better.values - weight * dearer.values)
            value = shown(worth, 1, lost + weight * lost_cost, _ANYTHING)
    return Paired(
        rows=facts.rows,
        cost=cost,
        cost_pct=cost_pct,
        quality=quality,
        value=value,
        why_no_quality="; ".join(blind) or None,
        old=sides[old],
        new=sides[new],
        refused=(),
        warnings=tuple(warnings),
        why_no_cost="; ".join(unpriced) or None,
    )


def _both(found: Iterable[tuple[str, str]]) -> list[str]:
    """Reasons with the names of those that they hold for, each reason once."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in found:
        by_reason.setdefault(reason, []).append(name)
    return [f"{' and '.join(names)}: {reason}" for reason, names in by_reason.items()]


def _minus(after: Estimates, before: Estimates, outcome: str) -> Replicates:
    return after.by_outcome[outcome][BEST].minus(before.by_outcome[outcome][BEST])


def _thin(found: Estimates) -> float:
    """The nano-USD a request of calls of which the log shows too few."""
    return found.thin_cost * abs(float(found.by_outcome["cost"][BEST].values[0]))


def _side(sums: Sums, name: str, found: Estimates) -> dict[str, Any]:
    cost, quality = (found.by_outcome[outcome][BEST] for outcome in ("cost", "quality"))
    values: Floats = np.array([cost.values[0], quality.values[0]])
    return {
        "cost_per_request_usd": None if no_cost(found) else float(values[0]) / NANO_PER_USD,
        "quality": float(values[1]),
        "agreed": found.agreed,
        "effective": found.effective,
        "largest_weight": found.largest_weight,
        "unsupported": found.unsupported,
        "unsupported_cost": found.unsupported_cost,
        "thin_cost": found.thin_cost,
        "refused_requests": sums.policies[name].refused,
    }
