"""What a policy would have done on logged requests, decision by decision, and what that sums up to.

A chain's estimate telescopes: each decision adds what its model expects (of a call, its cost and
the quality in the end; of stopping, the quality of the answer in hand) weighted by the chance that
the log would have come so far with it, and takes off what the decision before had expected. So
every model error is corrected by what was seen next, and no model has to be right (doubly robust
estimates of sequences of decisions: Jiang and Li, arXiv:1511.03722).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from router.decide import UNKNOWN
from router.replay.off_policy.batch import LogBatch
from router.replay.off_policy.sums import CUTS, Calls, PolicySums, Rows, calls_of
from router.walk.looks import STOP

if TYPE_CHECKING:
    from router.types import Floats, Ints


@dataclass(frozen=True, slots=True)
class Path:
    """What a policy does on N logged requests.

    `first` (N,): the arm of its first call, -1 where it refuses; `onward` (N, S): after each of the
    log's looks the arm of its next call, or `STOP`; None where it always stops. `hoped` (N,) and
    `hoped_onward` (N, S): P(good answer in the end) that it expects of each, None for the arm's.
    `later` (N,) and `later_onward` (N, S): nano-USD that it expects of calls after these, None for
    none. `unseen` (N,): requests whose answers it would look at and the log did not; None for none.
    """

    first: Ints
    onward: Ints | None = None
    hoped: Floats | None = None
    hoped_onward: Floats | None = None
    later: Floats | None = None
    later_onward: Floats | None = None
    unseen: NDArray[np.bool_] | None = None


def path_of(decided: Ints | Path) -> Path:
    """A decision as a path."""
    return decided if isinstance(decided, Path) else Path(decided)


def as_logged(batch: LogBatch) -> Path:
    """What the log itself did."""
    looks = batch.looks
    return Path(batch.chosen) if looks is None else Path(batch.chosen, looks.chosen)


def onward_of(path: Path, batch: LogBatch) -> Ints:
    """What a policy does after each look (N, S); where it says nothing it stops."""
    assert batch.looks is not None
    stops = np.full(batch.looks.answered.shape, STOP, dtype=np.int64)
    return stops if path.onward is None else path.onward


def add_policy(sums: PolicySums, batch: LogBatch, rows: Rows, target: Ints | Path) -> None:
    """Add what a policy would have done to its sums: its `Path`, or the arms (N,) of a policy that
    makes one call."""
    path = path_of(target)
    sums.chained |= path.onward is not None or batch.looks is not None
    some = np.flatnonzero(path.first >= 0)
    sums.refused += len(batch) - len(some)
    arm = path.first[some]
    sums.moved += int((arm != batch.propensity[some].argmax(axis=1)).sum())
    weight = rows.weight[some, arm]
    if path.unseen is not None:
        weight = np.where(path.unseen[some], 0.0, weight)
        sums.unseen += int(path.unseen[some].sum())
    hoped = rows.predicted["quality"][some, arm] if path.hoped is None else path.hoped[some]
    walk = _Walk(sums, batch, rows)
    agrees = batch.chosen[some] == arm
    none, once = np.zeros(len(some), bool), np.ones(len(some))
    later = np.zeros(len(some)) if path.later is None else path.later[some]
    walk.decide(_Step(some, arm, once, weight, agrees, hoped, later, none, first=True))
    looks = batch.looks
    calls = list(calls_of(batch))
    walk.call(calls[0])
    if looks is None:
        walk.end(np.arange(len(batch)))
        return
    there = looks.there
    walk.end(np.flatnonzero(~there.any(axis=1)))
    onward, best = onward_of(path, batch), looks.best()
    for step in range(there.shape[1]):
        at = np.flatnonzero(there[:, step] & (walk.weight > 0))
        if not len(at):
            continue
        walk.leave(at)
        wanted = np.where(looks.final[at, step], STOP, onward[at, step])
        stop = wanted == STOP
        mine = np.where(stop, best[at, step], wanted)
        held = looks.quality[at, step, mine]
        if path.hoped_onward is not None:
            held = np.where(stop, held, path.hoped_onward[at, step])
        later = np.zeros(len(at))
        if path.later_onward is not None:
            later = np.where(stop, 0.0, path.later_onward[at, step])
        assert rows.onward is not None
        weight = rows.onward[at, step, wanted]  # STOP, -1, is the last
        same = looks.chosen[at, step] == wanted
        walk.decide(_Step(at, mine, walk.weight[at], weight, same, held, later, stop))
        walk.call(calls[1 + step])
        last = step + 1 == there.shape[1]
        over = np.ones(len(at), bool) if last else ~there[at, step + 1]
        walk.end(at[over & same & stop])
        failed = at[over & same & ~stop]
        if len(failed):  # the next call gave no answer: the best one so far was handed out
            walk.leave(failed)
            kept = best[failed, step]
            held = looks.quality[failed, step, kept]
            once = np.ones(len(failed))
            sure, nothing = np.ones(len(failed), bool), np.zeros(len(failed))
            walk.decide(_Step(failed, kept, walk.weight[failed], once, sure, held, nothing, sure))
            walk.end(failed)


@dataclass(frozen=True, slots=True)
class _Step:
    """A decision on the requests `at` (M,): the `arm` called, or handed out where it is to `stop`;
    `before`, the weight of the way so far; `inverse`, of this decision's chance, 0 without one;
    `agrees`, whether the log did the same; `hoped`, P(good answer in the end); `later`,
    nano-USD of the calls that may follow."""

    at: Ints
    arm: Ints
    before: Floats
    inverse: Floats
    agrees: NDArray[np.bool_]
    hoped: Floats
    later: Floats
    stop: NDArray[np.bool_]
    first: bool = False


class _Walk:
    """One policy's way through a batch; `weight` (N,), of the requests on which the log has agreed
    so far."""

    def __init__(self, sums: PolicySums, batch: LogBatch, rows: Rows):
        self._sums, self._batch, self._rows = sums, batch, rows
        n = len(batch)
        self.weight = np.zeros(n)
        self._unseen = np.ones(n, bool)
        if batch.looks is not None:
            self._unseen &= ~batch.looks.there.any(axis=1)
        self._arm, self._hoped, self._later = np.zeros(n, dtype=np.int64), np.zeros(n), np.zeros(n)

    def decide(self, step: _Step) -> None:
        """A decision: what is expected of it, and how far the log still agrees after it."""
        rows, at, arm, before = self._rows, step.at, step.arm, step.before
        call = before * ~step.stop
        lost = (step.inverse == 0).astype(np.float64)
        held = (1 - lost) * call
        cost = rows.predicted["cost"][at, arm]
        columns: dict[str, Floats | None] = {
            "n": before,
            "calls": call,
            "handed": before * (step.stop | self._unseen[at]),
            "unsupported": lost * before,
            "unsupported.cost": lost * call * cost,
            "supported": held,
            "supported.v": held * (before * step.inverse - 1),
            "supported.cost": held * cost,
            "quality.x": before * step.hoped,
            "cost.x": call * (cost + step.later),
        }
        unpriced = self._batch.expected[at, arm] == UNKNOWN
        if unpriced.any():
            columns["unpriced"] = call * unpriced
        if step.first:
            columns["requests"] = None
        self._sums.decided.add(self._batch.arms, rows.group[at], arm, columns)
        self.weight[at] = before * step.inverse * step.agrees
        self._arm[at], self._hoped[at], self._later[at] = arm, step.hoped, step.later

    def leave(self, at: Ints) -> None:
        """Take off what the latest decision expected of later ones: another is made after it."""
        weight = self.weight[at]
        self._sums.decided.add(
            self._batch.arms,
            self._rows.group[at],
            self._arm[at],
            {
                "n": -weight,
                "quality.x": -weight * self._hoped[at],
                "cost.x": -weight * self._later[at],
            },
        )

    def call(self, call: Calls) -> None:
        """What the log's calls of this step cost, where log and policy agree on them."""
        agreed = (self.weight[call.at] > 0) & (self._arm[call.at] == call.arm)
        at, arm = call.at[agreed], call.arm[agreed]
        weight = self.weight[at]
        columns: dict[str, Floats | None] = {}
        for name, values in (("cost", call.cost[agreed]), ("latency", call.latency[agreed])):
            self._weighted(columns, name, weight, np.isfinite(values).astype(np.float64),
                           self._rows.predicted[name][at, arm], np.nan_to_num(values))  # fmt: skip
        self._sums.agreed.add(self._batch.arms, self._rows.group[at], arm, columns)

    def end(self, at: Ints) -> None:
        """The answers that were handed out, where log and policy have agreed to the end."""
        at = at[self.weight[at] > 0]
        rows, weight, arm = self._rows, self.weight[at], self._arm[at]
        self._sums.went_on += int((self._unseen[at] & (self._batch.step[at] > 0)).sum())
        known: dict[str, Any] = {"quality": rows.known["quality"]}
        if rows.sampled is not None:
            known |= {"drawn": rows.sampled > 0, "sampled": rows.sampled}
        columns: dict[str, Floats | None] = {"n": None, "w": weight, "ww": weight**2}
        for name, mine in known.items():
            self._weighted(
                columns, name, weight, mine[at], self._hoped[at], rows.value["quality"][at]
            )
        self._sums.agreed.add(self._batch.arms, rows.group[at], arm, columns)
        largest = float(weight.max(initial=0.0))
        self._sums.largest_weight = max(self._sums.largest_weight, largest)

    @staticmethod
    def _weighted(
        columns: dict[str, Floats | None],
        name: str,
        weight: Floats,
        known: Floats,
        predicted: Floats,
        value: Floats,
    ) -> None:
        w = weight * known
        wx, wy = w * predicted, w * value
        columns |= {f"{name}.w": w, f"{name}.wx": wx, f"{name}.wy": wy}
        for cut in CUTS:
            within = weight <= cut
            columns |= {f"{name}.w@{cut:g}": w * within, f"{name}.wx@{cut:g}": wx * within}
            columns[f"{name}.wy@{cut:g}"] = wy * within
