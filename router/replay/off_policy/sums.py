"""All that estimates need of a log: sums, over groups of conversations, for each arm.

Every estimator here is a function of sums, so a log is read once, in parts of any size, on one
machine or many, and the parts' sums are added. Conversations are dealt into `GROUPS` groups: what
varies from group to group tells how sure an estimate is (random groups; Wolter, Introduction to
Variance Estimation, 2007, chapter 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from router.decide import UNKNOWN
from router.replay.off_policy.batch import LogBatch, LoggedArm
from router.replay.off_policy.looks import Looks
from router.walk.looks import STOP

if TYPE_CHECKING:
    from router.types import Floats, Ints

GROUPS = 400
OUTCOMES = ("quality", "cost", "latency")
# Weights above which the switch estimator relies on the model (Wang et al., arXiv:1612.01205).
CUTS = (5.0, 20.0, 100.0)

# Of an arm's answers that were handed out (n) and of its calls (calls), and for each outcome how
# many have it known (m), with the sums of its prediction x, of its value y, and of their products.
# Quality is of answers, cost and latency are of calls.
# `billed`: calls of which no cost was predicted and one is known.
# `sampled.*`: of these labels those that were drawn by a known rate, with the sum of its inverse
# (m) and what that sum varies by (v). The others are what nobody drew.
LOGGED = (
    "n",
    "calls",
    *(f"{o}.{c}" for o in OUTCOMES for c in ("m", "x", "y", "xx", "xy")),
    "billed",
    "sampled.n",
    "sampled.m",
    "sampled.v",
)
# Of what a policy decides: requests; decisions (n), those to call an arm (calls), those that the
# log had no chance of, those calls that it had one of (supported), what the sum of their weights
# varies by (v) and their predicted cost, those calls of which no cost is predicted (unpriced),
# answers that would be handed out; and the sums of predictions, where unpriced calls are 0.
DECIDED = (
    "requests",
    "n",
    "calls",
    "handed",
    "unsupported",
    "unsupported.cost",
    "supported",
    "supported.v",
    "supported.cost",
    "unpriced",
    *(f"{o}.x" for o in OUTCOMES),
)
# What is weighted: each outcome, and of quality the labels that were drawn by a known rate apart,
# as they are and by the inverse of that rate too.
WEIGHTED = (*OUTCOMES, "drawn", "sampled")
# Of the requests on which log and policy agree to the end, weighted by the inverse of the chance of
# that, and of their calls; again for those of weights up to each cut.
AGREED = (
    "n",
    "w",
    "ww",
    *(f"{o}.{c}" for o in WEIGHTED for c in ("w", "wx", "wy")),
    *(f"{o}.{c}@{cut:g}" for o in WEIGHTED for cut in CUTS for c in ("w", "wx", "wy")),
)


@dataclass(slots=True)
class Tally:
    """Sums by arm: `by_arm` maps an arm's key to (GROUPS, K), a column for each of `names`."""

    names: tuple[str, ...]
    by_arm: dict[tuple[str, str, str | None], Floats] = field(default_factory=dict)

    def add(
        self,
        arms: tuple[LoggedArm, ...],
        group: Ints,
        arm: Ints,
        columns: Mapping[str, Floats | None],
    ) -> None:
        """Add rows: their groups, the positions of their arms, the columns' values (None: 1).

        A column that is not among `columns` has only zeros.
        """
        size = GROUPS * len(arms)
        cell = group * len(arms) + arm
        for name, weights in columns.items():
            place = self.names.index(name)
            found = np.bincount(cell, weights=weights, minlength=size).reshape(GROUPS, len(arms))
            for at, each in enumerate(arms):
                self.of(each.key)[:, place] += found[:, at]

    def of(self, key: tuple[str, str, str | None]) -> Floats:
        """The sums of an arm, (GROUPS, K)."""
        if key not in self.by_arm:
            self.by_arm[key] = np.zeros((GROUPS, len(self.names)))
        return self.by_arm[key]

    def merge(self, other: Tally) -> None:
        """Add the sums of another part."""
        for key, sums in other.by_arm.items():
            self.of(key)[:] += sums

    def stacked(self, keys: Iterable[tuple[str, str, str | None]]) -> Floats:
        """(GROUPS, A, K) in the order of `keys`; an arm that has no sums has zeros."""
        zeros = np.zeros((GROUPS, len(self.names)))
        return np.stack([self.by_arm.get(key, zeros) for key in keys], axis=1)


@dataclass(slots=True)
class PolicySums:
    """What a part of a log says of one policy."""

    decided: Tally = field(default_factory=lambda: Tally(DECIDED))
    agreed: Tally = field(default_factory=lambda: Tally(AGREED))
    refused: int = 0  # rows that the policy would not have sent anywhere
    largest_weight: float = 0.0
    moved: int = 0  # rows whose arm the log did not think best
    went_on: int = 0  # rows that agree, after whose answer the log went on, nobody knows why
    unseen: int = 0  # rows whose answers it would look at, and the log did not
    chained: bool = False  # whether it, or the log, may make more than one call

    def merge(self, other: PolicySums) -> None:
        """Add the sums of another part."""
        self.decided.merge(other.decided)
        self.agreed.merge(other.agreed)
        self.refused += other.refused
        self.moved += other.moved
        self.went_on += other.went_on
        self.unseen += other.unseen
        self.chained |= other.chained
        self.largest_weight = max(self.largest_weight, other.largest_weight)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a batch as sums need them. `value` and `predicted`: outcome → (N,) and (N, A)."""

    group: Ints
    weight: Floats  # (N, A): 1 / propensity, 0 where an arm had no chance
    onward: Floats | None  # (N, S, A + 1): the same of what was done after each look
    sampled: Floats | None  # (N,): 1 / rate of a label that was drawn, else 0; None: no label was
    known: Mapping[str, NDArray[np.bool_]]
    value: Mapping[str, Floats]
    predicted: Mapping[str, Floats]


def rows_of(batch: LogBatch, *, as_logged: bool = False) -> Rows:
    """Prepare a batch, with chances of 1 for what was done where it is taken `as_logged`."""
    expected = np.where(batch.expected == UNKNOWN, 0, batch.expected).astype(np.float64)
    looks, arms = batch.looks, len(batch.arms)
    if as_logged:
        weight = (batch.chosen[:, None] == np.arange(arms)).astype(np.float64)
        onward = None if looks is None else _inverse(_done(looks))
    else:
        weight = _inverse(np.nan_to_num(batch.propensity))
        onward = None if looks is None else _inverse(looks.chances)
    sampled = None
    if batch.label_rate is not None and np.isfinite(batch.label_rate).any():
        drawn = np.isfinite(batch.label) & (batch.label_rate > 0)
        sampled = np.divide(1.0, batch.label_rate, out=np.zeros(len(batch)), where=drawn)
    value = {"quality": batch.label, "cost": batch.cost, "latency": batch.latency}
    return Rows(
        group=(batch.cluster % GROUPS).astype(np.int64),
        weight=weight,
        onward=onward,
        sampled=sampled,
        known={name: np.isfinite(values) for name, values in value.items()},
        value={name: np.nan_to_num(values) for name, values in value.items()},
        predicted={
            "quality": batch.quality,
            "cost": expected,
            "latency": np.zeros_like(expected),
        },
    )


def _inverse(chance: Floats) -> Floats:
    return np.divide(1.0, chance, out=np.zeros_like(chance), where=chance > 0)


def _done(looks: Looks) -> Floats:
    """(N, S, A + 1): 1 for what was done after each look."""
    actions = np.arange(looks.chances.shape[2])
    done: Floats = (looks.taken[..., None] == actions).astype(np.float64)
    return done


def told_of(sums: Floats) -> Floats:
    """How many labels nobody drew, of sums with the columns `LOGGED` in their last axis."""
    told: Floats = sums[..., LOGGED.index("quality.m")] - sums[..., LOGGED.index("sampled.n")]
    return told


def add_logged(tally: Tally, batch: LogBatch, rows: Rows) -> None:
    """Add what the log's own answers and calls came to."""
    for call in calls_of(batch):
        _add_calls(tally, batch, rows, call)
    known, y = rows.known["quality"].astype(np.float64), rows.value["quality"]
    arm, x = answers_of(batch)
    columns: dict[str, Floats | None] = {
        "n": None,
        "quality.m": known,
        "quality.x": x * known,
        "quality.y": y * known,
        "quality.xx": x * x * known,
        "quality.xy": x * y * known,
    }
    if rows.sampled is not None:
        drawn = (rows.sampled > 0).astype(np.float64)
        columns |= {"sampled.n": drawn, "sampled.m": rows.sampled}
        columns |= {"sampled.v": rows.sampled * (rows.sampled - drawn)}
    tally.add(batch.arms, rows.group, arm, columns)


def _add_calls(tally: Tally, batch: LogBatch, rows: Rows, call: Calls) -> None:
    columns: dict[str, Floats | None] = {"calls": None}
    for name, values in (("cost", call.cost), ("latency", call.latency)):
        known, y = np.isfinite(values).astype(np.float64), np.nan_to_num(values)
        x = rows.predicted[name][call.at, call.arm]
        columns |= {f"{name}.m": known, f"{name}.x": x * known, f"{name}.y": y}
        columns |= {f"{name}.xx": x * x * known, f"{name}.xy": x * y}
    unpriced = batch.expected[call.at, call.arm] == UNKNOWN
    if unpriced.any():
        columns["billed"] = (unpriced & np.isfinite(call.cost)).astype(np.float64)
    tally.add(batch.arms, rows.group[call.at], call.arm, columns)


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls of the requests `at` (M,): of which `arm`, and what they came to, NaN where unknown."""

    at: Ints
    arm: Ints
    cost: Floats
    latency: Floats


def calls_of(batch: LogBatch) -> Iterator[Calls]:
    """The log's calls: the first ones, then those after each look."""
    looks, every = batch.looks, np.arange(len(batch))
    cost, latency = batch.cost, batch.latency
    if looks is not None:  # a request's cost and latency are those of all its calls
        later = looks.chosen != STOP
        cost = cost - np.where(later, looks.cost, 0.0).sum(axis=1)
        latency = latency - np.where(later, looks.latency, 0.0).sum(axis=1)
    yield Calls(every, batch.chosen, cost, latency)
    if looks is not None:
        for step in range(looks.chosen.shape[1]):
            at = np.flatnonzero(later[:, step])
            yield Calls(at, looks.chosen[at, step], looks.cost[at, step], looks.latency[at, step])


def answers_of(batch: LogBatch) -> tuple[Ints, Floats]:
    """The arms whose answers were handed out (N,), and their P(good) as last known."""
    every = np.arange(len(batch))
    first = batch.quality[every, batch.chosen]
    looks = batch.looks
    if looks is None:
        return batch.chosen, first
    seen = looks.there.any(axis=1)
    last = np.maximum(looks.there.sum(axis=1) - 1, 0)
    arm = np.where(seen, looks.handed, batch.chosen)
    return arm, np.where(seen, looks.quality[every, last, arm], first)
