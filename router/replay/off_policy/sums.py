"""All that estimates need of a log: sums, over groups of conversations, for each arm.

Every estimator here is a function of sums, so a log is read once, in parts of any size, on one
machine or many, and the parts' sums are added. Conversations are dealt into `GROUPS` groups: what
varies from group to group tells how sure an estimate is (random groups; Wolter, Introduction to
Variance Estimation, 2007, chapter 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from router.decide import UNKNOWN
from router.replay.off_policy.batch import LogBatch, LoggedArm

if TYPE_CHECKING:
    from router.types import Floats, Ints

GROUPS = 400
OUTCOMES = ("quality", "cost", "latency")
# Weights above which the switch estimator relies on the model (Wang et al., arXiv:1612.01205).
CUTS = (5.0, 20.0, 100.0)

# Of a decision's logged arm: how many rows, and for each outcome how many have it known (m), with
# the sums of its prediction x, of its value y, and of their products.
# `told.m`: labels that nobody drew; `sampled.*`: labels that were drawn by a known rate, with the
# sum of its inverse (m) and what that sum varies by (v).
LOGGED = (
    "n",
    *(f"{o}.{c}" for o in OUTCOMES for c in ("m", "x", "y", "xx", "xy")),
    "told.m",
    "sampled.n",
    "sampled.m",
    "sampled.v",
)
# Of the arm that a policy decides on: rows, those that the log could never have sent there, and
# the sums of predictions.
DECIDED = ("n", "unsupported", "unsupported.cost", *(f"{o}.x" for o in OUTCOMES))
# What is weighted: each outcome, and of quality the labels that nobody drew and those that were
# drawn by a known rate apart, the latter by the inverse of that rate too.
WEIGHTED = (*OUTCOMES, "told", "sampled")
# Of the rows where log and policy agree, weighted by the inverse of the propensity; again for the
# rows of weights up to each cut.
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
    went_on: int = 0  # rows that agree, after whose answer the log made another call

    def merge(self, other: PolicySums) -> None:
        """Add the sums of another part."""
        self.decided.merge(other.decided)
        self.agreed.merge(other.agreed)
        self.refused += other.refused
        self.moved += other.moved
        self.went_on += other.went_on
        self.largest_weight = max(self.largest_weight, other.largest_weight)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a batch as sums need them. `value` and `predicted`: outcome → (N,) and (N, A)."""

    group: Ints
    weight: Floats  # (N, A): 1 / propensity, 0 where an arm had no chance
    sampled: Floats | None  # (N,): 1 / rate of a label that was drawn, else 0; None: no label was
    known: Mapping[str, NDArray[np.bool_]]
    value: Mapping[str, Floats]
    predicted: Mapping[str, Floats]


def rows_of(batch: LogBatch, *, as_logged: bool = False) -> Rows:
    """Prepare a batch, with propensities of 1 for what was chosen where it is taken `as_logged`."""
    expected = np.where(batch.expected == UNKNOWN, 0, batch.expected).astype(np.float64)
    if as_logged:
        weight = (batch.chosen[:, None] == np.arange(len(batch.arms))).astype(np.float64)
    else:
        chance = np.nan_to_num(batch.propensity)
        weight = np.divide(1.0, chance, out=np.zeros_like(chance), where=chance > 0)
    sampled = None
    if batch.label_rate is not None and np.isfinite(batch.label_rate).any():
        drawn = np.isfinite(batch.label) & (batch.label_rate > 0)
        sampled = np.divide(1.0, batch.label_rate, out=np.zeros(len(batch)), where=drawn)
    value = {"quality": batch.label, "cost": batch.cost, "latency": batch.latency}
    return Rows(
        group=(batch.cluster % GROUPS).astype(np.int64),
        weight=weight,
        sampled=sampled,
        known={name: np.isfinite(values) for name, values in value.items()},
        value={name: np.nan_to_num(values) for name, values in value.items()},
        predicted={
            "quality": batch.quality,
            "cost": expected,
            "latency": np.zeros_like(expected),
        },
    )


def add_logged(tally: Tally, batch: LogBatch, rows: Rows) -> None:
    """Add what the log's own arms came to."""
    at = np.arange(len(batch))
    columns: dict[str, Floats | None] = {"n": None}
    for name in OUTCOMES:
        known, y = rows.known[name].astype(np.float64), rows.value[name]
        x = rows.predicted[name][at, batch.chosen]
        y = y * known
        columns |= {f"{name}.m": known, f"{name}.x": x * known, f"{name}.y": y}
        columns |= {f"{name}.xx": x * x * known, f"{name}.xy": x * y}
    if rows.sampled is not None:
        drawn = (rows.sampled > 0).astype(np.float64)
        columns |= {"told.m": rows.known["quality"] - drawn, "sampled.n": drawn}
        columns |= {"sampled.m": rows.sampled, "sampled.v": rows.sampled * (rows.sampled - drawn)}
    tally.add(batch.arms, rows.group, batch.chosen, columns)


def add_policy(sums: PolicySums, batch: LogBatch, rows: Rows, target: Ints) -> None:
    """Add what a policy would have done. `target`: (N,) positions of arms, -1 where it refuses."""
    some = np.flatnonzero(target >= 0)
    sums.refused += len(batch) - len(some)
    arm, group = target[some], rows.group[some]
    weight = rows.weight[some, arm]
    lost = (weight == 0).astype(np.float64)
    decided: dict[str, Floats | None] = {"n": None, "unsupported": lost}
    for name in OUTCOMES:
        decided[f"{name}.x"] = rows.predicted[name][some, arm]
    decided["unsupported.cost"] = lost * rows.predicted["cost"][some, arm]
    sums.decided.add(batch.arms, group, arm, decided)
    sums.moved += int((arm != batch.propensity[some].argmax(axis=1)).sum())

    same = np.flatnonzero((batch.chosen[some] == arm) & (weight > 0))
    agreed, weight, arm = some[same], weight[same], arm[same]
    sums.went_on += int((batch.step[agreed] > 0).sum())
    columns: dict[str, Floats | None] = {"n": None, "w": weight, "ww": weight**2}
    known: dict[str, Any] = dict(rows.known)
    if rows.sampled is not None:
        known |= {"told": known["quality"] & (rows.sampled == 0), "sampled": rows.sampled}
    for name, mine in known.items():
        outcome = name if name in OUTCOMES else "quality"
        w = weight * mine[agreed]
        wx, wy = w * rows.predicted[outcome][agreed, arm], w * rows.value[outcome][agreed]
        columns |= {f"{name}.w": w, f"{name}.wx": wx, f"{name}.wy": wy}
        for cut in CUTS:
            within = weight <= cut
            columns |= {f"{name}.w@{cut:g}": w * within, f"{name}.wx@{cut:g}": wx * within}
            columns[f"{name}.wy@{cut:g}"] = wy * within
    sums.agreed.add(batch.arms, group[same], arm, columns)
    sums.largest_weight = max(sums.largest_weight, float(weight.max(initial=0.0)))
