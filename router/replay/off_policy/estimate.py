"""From sums to estimates: cost, quality and latency of a policy, each with a 95% interval.

The estimators, all for the mean over requests (Dudík, Langford and Li, arXiv:1103.4601):

- `direct`: a model of each arm's outcome (the logged prediction, recalibrated by what was seen),
  averaged over what the policy decides;
- `ips`, `snips`: outcomes where log and policy agree, weighted by the inverse of the propensity,
  divided by the number of requests, or by the sum of the weights;
- `doubly_robust`: the direct estimate, corrected by the weighted errors of its model;
- `switch`: doubly robust, without the correction where weights are above a cut that is chosen by
  its estimated error (Wang, Agarwal and Dudík, arXiv:1612.01205).

Models are fitted on other folds than they are used on, so that a row never judges itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from router.log import label_weights
from router.replay.off_policy.sums import (
    AGREED,
    CUTS,
    DECIDED,
    GROUPS,
    LOGGED,
    OUTCOMES,
    PolicySums,
    Tally,
    told_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.types import Floats, Ints

FOLDS = 5
# The effective number of an arm's calls below which what they cost is not known from the log: bills
# are skewed, and of so few the dear ones may well be missing.
LEAST_CALLS = 10
MOST_UNPRICED = 0.01  # of an arm's calls, whose cost may be unknown before the policy's is
ESTIMATORS = ("direct", "ips", "snips", "doubly_robust", "switch")
# The recalibration leans on the logged prediction as if so many more rows had agreed with it.
_PRIOR_LEVEL, _PRIOR_SLOPE = 0.5, 2.0
_L = {name: at for at, name in enumerate(LOGGED)}
_D = {name: at for at, name in enumerate(DECIDED)}
_A = {name: at for at, name in enumerate(AGREED)}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its standard error and the ends of its 95% interval."""

    value: float
    error: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Replicates:
    """An estimate (first), and what it is with each group of conversations left out: (1 + G,)."""

    values: Floats

    def estimate(
        self, spread: float = 0.0, least: float = -math.inf, most: float = math.inf
    ) -> Estimate:
        """By the jackknife over groups, widened by `spread` on both sides; all of it within bounds,
        which a corrected estimate may pass.

        A few dear calls make costs skewed, and a symmetric interval then too short on one side: its
        ends are moved by the skewness of the groups (Hall 1992, J. R. Statist. Soc. B 54, 221-228).
        And where a few groups make up most of the spread it is itself known as badly as
        by fewer groups (`degrees_of_freedom`).
        """
        value, rest = float(self.values[0]), self.values[1:]
        groups = len(rest)

        def within(end: float) -> float:
            return min(most, max(least, end))

        if groups < 2:
            return Estimate(within(value), math.inf, least, most)
        centred = rest.mean() - rest  # as the groups' own values lie around theirs
        variance = float((centred**2).mean())
        if variance == 0:
            return Estimate(within(value), 0.0, within(value - spread), within(value + spread))
        error, standard = math.sqrt((groups - 1) * variance), centred / math.sqrt(variance)
        skewness, kurtosis = float((standard**3).mean()), float((standard**4).mean())
        t = t_quantile(degrees_of_freedom(kurtosis, groups))
        low = value - error * unskewed(t, skewness, groups) - spread
        high = value - error * unskewed(-t, skewness, groups) + spread
        return Estimate(within(value), error, within(low), within(high))

    def minus(self, other: Replicates) -> Replicates:
        """The difference, group by group: what both share does not make it less sure."""
        return Replicates(self.values - other.values)


def unskewed(quantile: float, skewness: float, groups: int) -> float:
    """Where a studentised mean of `groups` skewed values has its quantile, by the inverse of Hall's
    transformation."""
    if abs(skewness) < 1e-9:
        return quantile
    root = math.sqrt(groups)
    inner = 1 + skewness * (quantile / root - skewness / (6 * groups))
    return 3 * root / skewness * (math.copysign(abs(inner) ** (1 / 3), inner) - 1)


def degrees_of_freedom(kurtosis: float, groups: int) -> float:
    """How many the variance of `groups` values has, by what a variance of that kurtosis varies by
    (Satterthwaite 1946, Biometrics Bulletin 2, 110-114); for normal values `groups` - 1."""
    most = groups - 1
    varies = (kurtosis - (groups - 3) / most) / groups
    return most if varies <= 2 / most else 2 / varies


def t_quantile(degrees: float, confidence: float = 0.95) -> float:
    """The two-sided quantile of Student's t, by its Cornish-Fisher expansion (Abramowitz and
    Stegun 26.7.5); within 0.1% for 4 degrees of freedom and more, 0.7% for 2."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees ** (at + 1) for at, term in enumerate(terms))


@dataclass(frozen=True, slots=True)
class Estimates:
    """All estimates of one policy: outcome → estimator → replicates.

    `rows`: decisions; `agreed`: rows where log and policy agree; `effective`: their effective
    number (Kish); `labelled`: how many of them have a label, weighted alike; `unsupported` and
    `unsupported_cost`: the shares of requests and of predicted cost where the log had no chance of
    doing what the policy does; `thin_cost`: the share of predicted cost that is of calls of the
    arms `thin`, of which such a log shows too few (`LEAST_CALLS`); `blind`: arms that it uses and
    of which no label is known; `unpriced`: arms that it calls where no cost is predicted, and of
    which the log has no bill either; `went_on`: agreeing rows after whose answer the log made
    another call without keeping what the look found, so that what came of them is not what comes of
    a single call; `unseen`: rows whose answers it would look at, and the log did not; `groups` of
    conversations, from which intervals come; `known`: outcomes that the log has of any request.
    """

    by_outcome: Mapping[str, Mapping[str, Replicates]]
    rows: int
    agreed: int
    effective: float
    unsupported: float
    unsupported_cost: float
    thin: tuple[str, ...]
    thin_cost: float
    largest_weight: float
    cut: float | None
    blind: tuple[str, ...]
    unpriced: tuple[str, ...]
    went_on: int
    unseen: int
    groups: int
    known: frozenset[str]


def estimate(logged: Tally, sums: PolicySums) -> Estimates:
    """Estimate one policy from the sums of the log and of the policy."""
    keys = sorted({*logged.by_arm, *sums.decided.by_arm, *sums.agreed.by_arm}, key=str)
    log, decided, agreed = (tally.stacked(keys) for tally in (logged, sums.decided, sums.agreed))
    seen_in = log[:, :, _L["n"]].sum(axis=1) + decided[:, :, _D["requests"]].sum(axis=1)
    used = np.flatnonzero(seen_in)
    fold = np.arange(GROUPS) % FOLDS
    seen, want, have = (_replicate(each, fold, used) for each in (log, decided, agreed))
    requests = np.maximum(want[..., _D["requests"]].sum(axis=(1, 2)), 1)
    whole = log.sum(axis=0)
    drawn = label_weights.carried(whole[:, _L["sampled.n"]], told_of(whole))
    by_outcome: dict[str, dict[str, Replicates]] = {}
    cut: float | None = None
    for name in OUTCOMES:
        found, best = _outcome(name, seen, want, have, requests, drawn, chained=sums.chained)
        by_outcome[name] = {key: Replicates(values) for key, values in found.items()}
        if name == "quality":
            cut = best
    total, matched = decided.sum(axis=0), agreed.sum(axis=0)
    blind = [
        f"{key[0]}:{key[1]}"
        for at, key in enumerate(keys)
        if total[at, _D["handed"]] and not whole[at, _L["quality.m"]]
    ]
    # What is neither predicted nor billed counts as 0: of an arm with other bills, a few may.
    some = np.where(whole[:, _L["cost.m"]] > 0, MOST_UNPRICED * total[:, _D["calls"]], 0.0)
    unpriced = (total[:, _D["unpriced"]] > some) & (whole[:, _L["billed"]] == 0)
    calls, varies = total[:, _D["supported"]], total[:, _D["supported.v"]]
    few = calls**2 < LEAST_CALLS * varies
    n, weights = total[:, _D["requests"]].sum(), matched[:, _A["w"]].sum()
    cost = total[:, _D["cost.x"]].sum()
    return Estimates(
        by_outcome=by_outcome,
        rows=int(n),
        agreed=int(matched[:, _A["n"]].sum()),
        effective=float(weights**2 / max(matched[:, _A["ww"]].sum(), 1e-300)),
        unsupported=float(total[:, _D["unsupported"]].sum() / max(n, 1)),
        unsupported_cost=float(total[:, _D["unsupported.cost"]].sum() / max(cost, 1e-300)),
        thin=tuple(f"{key[0]}:{key[1]}" for at, key in enumerate(keys) if few[at]),
        thin_cost=float(total[few, _D["supported.cost"]].sum() / max(cost, 1e-300)),
        largest_weight=sums.largest_weight,
        cut=cut,
        blind=tuple(blind),
        unpriced=tuple(f"{key[0]}:{key[1]}" for at, key in enumerate(keys) if unpriced[at]),
        went_on=sums.went_on,
        unseen=sums.unseen,
        groups=len(used),
        known=frozenset(o for o in OUTCOMES if whole[:, _L[f"{o}.m"]].any()),
    )


def _replicate(sums: Floats, fold: Ints, used: Ints) -> Floats:
    """(1 + G', FOLDS, A, K): sums by fold, of all groups, then without each of those `used`."""
    by_fold = np.stack([sums[fold == each].sum(axis=0) for each in range(FOLDS)])
    found = np.repeat(by_fold[None], 1 + len(used), axis=0)
    found[np.arange(1, 1 + len(used)), fold[used]] -= sums[used]
    return found


def _outcome(
    name: str,
    seen: Floats,
    want: Floats,
    have: Floats,
    requests: Floats,
    drawn: NDArray[np.bool_],
    *,
    chained: bool,
) -> tuple[dict[str, Floats], float | None]:
    """Every estimator of one outcome, (R,) each, and the cut that `switch` chose.

    Where more than one call may be made (`chained`) there is no direct estimate: what is decided
    later depends on answers that only the log has.
    """
    level, slope = _model(name, seen)
    count = want[..., _D["n" if name == "quality" else "calls"]]
    direct = (level * count + slope * want[..., _D[f"{name}.x"]]).sum(axis=(1, 2))
    stand_for = _missing(name, seen, drawn)

    def weighted(suffix: str = "") -> tuple[Floats, Floats, Floats]:
        w, wx, wy = (
            sum(
                (each * have[..., _A[f"{part}.{c}{suffix}"]] for part, each in stand_for.items()),
                np.zeros(()),
            )
            for c in ("w", "wx", "wy")
        )
        return w, wy, wy - level * w - slope * wx

    weight, value, left = (each.sum(axis=(1, 2)) for each in weighted())
    # Of a chain's calls there are several a request: what its cost is divided by is requests.
    per = have[..., _A["w"]].sum(axis=(1, 2)) if chained and name != "quality" else weight
    found = {
        "direct": direct / requests,
        "ips": value / requests,
        "snips": value / np.where(per == 0, 1.0, per),
        "doubly_robust": (direct + left) / requests,
    }
    tried: list[tuple[float, float | None, Floats]] = [
        (_spread(found["doubly_robust"]), None, found["doubly_robust"])
    ]
    for cut in CUTS:
        w, _, kept = (each.sum(axis=(1, 2)) for each in weighted(f"@{cut:g}"))
        values = (direct + kept) / requests
        # What is left out may be biased by as much as the model errs there.
        bias = abs(float(left[0] - kept[0])) / float(requests[0])
        if weight[0] > w[0]:
            tried.append((_spread(values) + bias**2, cut, values))
    _, cut_chosen, found["switch"] = min(tried, key=lambda each: each[0])
    if chained:
        del found["direct"]
    return found, cut_chosen


def _missing(name: str, seen: Floats, drawn: NDArray[np.bool_]) -> dict[str, Floats]:
    """How many rows each known one stands for, (R, 1, A) for each kind of it: labels as
    `router.log.label_weights` says, other outcomes as if they were missing at random."""
    total = seen.sum(axis=1)[:, None, :]
    rows = total[..., _L["n" if name == "quality" else "calls"]]
    known = total[..., _L[f"{name}.m"]]
    by_rate = drawn if name == "quality" else np.zeros_like(drawn)
    told, inverse = told_of(total), total[..., _L["sampled.m"]]
    each, told_each, rated = label_weights.stand_for(rows, known, told, inverse, by_rate)
    if not by_rate.any():
        return {name: each}
    # Labels that nobody drew are all but those that somebody did.
    return {name: each + told_each, "drawn": -told_each, "sampled": rated}


def _spread(values: Floats) -> float:
    """The variance of an estimate, by its replicates."""
    return Replicates(values).estimate().error ** 2 if len(values) > 2 else math.inf


def _model(name: str, seen: Floats) -> tuple[Floats, Floats]:
    """Level and slope of each arm's outcome on its prediction, (R, FOLDS, A), fitted on the other
    folds: quality as level + slope * prediction, cost in proportion, latency as a mean."""
    others = seen.sum(axis=1, keepdims=True) - seen
    m, x, y, xx, xy = (others[..., _L[f"{name}.{c}"]] for c in ("m", "x", "y", "xx", "xy"))
    if name == "latency":
        overall = y.sum(axis=2, keepdims=True) / np.maximum(m.sum(axis=2, keepdims=True), 1)
        return np.where(m > 0, y / np.maximum(m, 1), overall), np.zeros_like(m)
    if name == "cost":
        usual, some = x / np.maximum(m, 1), x > 0
        return np.zeros_like(m), np.where(some, (y + usual) / np.where(some, x + usual, 1.0), 1.0)
    n, ss, dy, dxy = m + _PRIOR_LEVEL, xx + _PRIOR_SLOPE, y - x, xy - xx
    determinant = n * ss - x * x
    return (ss * dy - x * dxy) / determinant, 1 + (n * dxy - x * dy) / determinant
