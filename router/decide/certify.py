"""A promise about quality that holds with a stated confidence, from recorded calibration queries.

Policies stand on a fixed path from "always the baseline" outwards to cheaper and cheaper ones. Each
is tested against the hypothesis that it breaks the promise; the last one before the first that
cannot be rejected is certified. Testing in an order fixed beforehand needs no correction for
multiple tests (fixed-sequence testing, Learn then Test, arXiv:2110.01052, section 4). The p-value
of each test comes from betting against the hypothesis (Waudby-Smith & Ramdas, arXiv:2010.09686),
so it is valid for any number of queries and any distribution, not only in the limit.

What is assumed: the calibration queries are drawn independently from the traffic that the promise
is about, and the predictor was not trained on them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from router.decide.betting import LARGEST_BET, fixed_sequence
from router.errors import CalibrationError

if TYPE_CHECKING:
    from router.types import Floats, Ints

PATH_RATIO = 1.01  # finer costs time, coarser gave up traffic (1.05: a point of 28%)
LEAST_MARGIN = 1e-3
LEAST_WEIGHT, LARGEST_WEIGHT = 1e-4, 1e7  # quality per USD: calls of 10 USD to 0.1 micro-USD
_CELLS_AT_ONCE = 2**18  # policies times queries


@dataclass(frozen=True, slots=True)
class Path:
    """Policies in the order in which they are tested: `margin` and `cost_weight`, both (P,).

    A policy takes the arm with the largest quality - cost_weight * expected USD, where the
    baseline's utility gets `margin` on top.
    """

    margin: Floats
    cost_weight: Floats

    def __len__(self) -> int:
        return len(self.margin)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What can be promised of which policy, and on what evidence.

    The promise: quality at least `keep` times the baseline's, or at most `epsilon` below it (one
    of the two is set), with probability `confidence` over the draw of the `queries` calibration
    queries. `margin` and `cost_weight` are the policy; where nothing could be certified it is
    "always the baseline", whose promise needs no evidence.

    `estimate` is the ratio of qualities (with `keep`) or the loss (with `epsilon`) on these
    queries; `bound` is the confidence bound of this one policy's ratio (lower) or loss (upper), as
    if it had been chosen beforehand; what the procedure as a whole promises is `keep` or `epsilon`.
    `share_moved`: share of queries that leave the baseline. `cost_ratio`: expected cost as a share
    of always-baseline's, nan where that is 0. `queries_needed`: roughly how many queries would take
    the certificate one step further, None where no number would, as far as these queries tell.
    """

    keep: float | None
    epsilon: float | None
    confidence: float
    queries: int
    margin: float
    cost_weight: float
    estimate: float
    bound: float
    share_moved: float
    cost_ratio: float
    queries_needed: int | None
    reason: str


# ── policies ───────────────────────────────────────────────────────────────────────────────────
def path(ratio: float = PATH_RATIO) -> Path:
    """Return the path: the margin falls from 1 to 0 at no cost weight, then the weight rises.

    The points are a geometric lattice that no data had a part in, not even the queries' predicted
    qualities and costs: a path laid through their quantiles would make the hypotheses depend on
    the sample they are tested on. Points between which no query changes its arm have equal
    p-values and cost no power.

    Parameters: `ratio`, between neighbouring points, above 1.
    """
    if not ratio > 1:
        raise ValueError(f"ratio must be above 1, not {ratio}")
    falling = ratio ** -np.arange(math.ceil(-math.log(LEAST_MARGIN) / math.log(ratio)) + 1)
    low, high = (math.log(w) / math.log(ratio) for w in (LEAST_WEIGHT, LARGEST_WEIGHT))
    rising = ratio ** np.arange(math.floor(low), math.ceil(high) + 1)
    return Path(
        margin=np.concatenate([falling, [0.0], np.zeros(len(rising))]),
        cost_weight=np.concatenate([np.zeros(len(falling)), [0.0], rising]),
    )


def argmax_utility(
    quality: Floats, cost: Floats, baseline: int, margin: Floats, weight: Floats
) -> Ints:
    """Choose each policy's arm for each request; the first of equals wins, as in `choose`.

    Parameters: `quality`, `cost` (N, A), cost in USD; `margin`, `weight` (P,). Returns (P, N).
    """
    shape = (len(margin), len(quality))
    best = np.full(shape, -np.inf)
    arm = np.zeros(shape, dtype=np.int64)
    for a in range(quality.shape[1]):
        utility = quality[:, a] - weight[:, None] * cost[:, a]
        if a == baseline:
            utility += margin[:, None]
        better = utility > best
        np.copyto(arm, a, where=better)
        np.copyto(best, utility, where=better)
    return arm


# ── the certificate ────────────────────────────────────────────────────────────────────────────
def certify(
    quality: Floats,
    expected_cost: Floats,
    score: Floats,
    baseline: int,
    *,
    keep: float | None = None,
    epsilon: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    policies: Path | None = None,
) -> Certificate:
    """Choose the cheapest policy of the path whose quality can be promised.

    Parameters
    ----------
    quality, expected_cost
        (N, A): predicted P(good answer) and expected cost in USD of each arm.
    score
        (N, A): recorded scores in [0, 1] of the calibration queries; NaN where an arm was not
        recorded, which is an error once a tested policy chooses that arm.
    baseline
        Column of the arm that the promise is relative to.
    keep, epsilon
        Exactly one, above 0 and below 1: quality at least `keep` times the baseline's, or at most
        `epsilon` below it.
    confidence
        Probability, over the draw of the calibration queries, that the promise holds.
    policies
        A path of one's own, which must not have been chosen from these queries.

    Raises
    ------
    CalibrationError
        If arrays do not fit together, a prediction is not finite, or a score that is needed is
        missing or outside [0, 1].
    ValueError
        If the promise itself is out of range. A promise to lose nothing at all (`keep` 1) cannot be
        reached from always-baseline, which is never better than itself.
    """
    promise = _Promise(keep, epsilon, confidence)
    _check(quality, expected_cost, score, baseline)
    policies = path() if policies is None else policies
    n = len(score)
    walk = _Walk(quality, expected_cost, score, baseline, promise, policies)
    passed = fixed_sequence(walk.blocks(), promise.high, promise.delta, seed) if n else -1
    at = walk.last_point(passed)
    margin, weight = (1.0, 0.0) if at < 0 else (policies.margin[at], policies.cost_weight[at])
    arm = np.full(n, baseline) if passed < 0 else walk.arms[passed]
    rows = np.arange(n)
    reference, routed = score[:, baseline], score[rows, arm]
    estimate = promise.estimate(reference, routed)
    bound = estimate if passed < 0 else promise.bound(reference, routed, seed)
    spent, full = expected_cost[rows, arm].sum(), expected_cost[:, baseline].sum()
    share = float(np.mean(arm != baseline)) if n else 0.0
    needed, hopeless = walk.needed(passed)
    return Certificate(
        keep=keep,
        epsilon=epsilon,
        confidence=confidence,
        queries=n,
        margin=float(margin),
        cost_weight=float(weight),
        estimate=estimate,
        bound=bound,
        share_moved=share,
        cost_ratio=float(spent / full) if full > 0 else math.nan,
        queries_needed=needed,
        reason=_reason(promise, n, share, needed, hopeless),
    )


@dataclass(frozen=True, slots=True)
class _Promise:
    """Turns scores into draws x whose mean is below 0 exactly where the promise holds."""

    keep: float | None
    epsilon: float | None
    confidence: float

    def __post_init__(self) -> None:
        if (self.keep is None) == (self.epsilon is None):
            raise ValueError("give either keep or epsilon")
        for name in ("keep", "epsilon", "confidence"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{name} must be above 0 and below 1, not {value}")

    @property
    def delta(self) -> float:
        return 1 - self.confidence

    @property
    def high(self) -> float:
        return self.keep if self.keep is not None else 1 - (self.epsilon or 0.0)

    def draws(self, reference: Floats, routed: Floats) -> Floats:
        if self.keep is not None:
            return self.keep * reference - routed
        return reference - routed - (self.epsilon or 0.0)

    def estimate(self, reference: Floats, routed: Floats) -> float:
        if self.keep is None:
            return float(np.mean(reference - routed)) if len(routed) else 0.0
        total = float(reference.sum())
        if np.array_equal(reference, routed):
            return 1.0
        return float(routed.sum()) / total if total > 0 else math.inf

    def bound(self, reference: Floats, routed: Floats, seed: int) -> float:
        """The strongest promise that the same test still rejects the breaking of, on a grid."""
        estimate = self.estimate(reference, routed)
        promised = self.epsilon if self.keep is None else self.keep
        assert promised is not None
        better = estimate < promised if self.keep is None else promised < estimate < math.inf
        if not better:  # the wealth reached its target and the rest of the queries were worse
            return promised
        grid = np.linspace(promised, estimate, 101)[:-1]
        if self.keep is None:
            x, high = (reference - routed) - grid[:, None], 1 - estimate
        else:
            x, high = grid[:, None] * reference - routed, estimate
        return float(grid[max(0, fixed_sequence([x], high, self.delta, seed))])

    def phrase(self, verb: int) -> str:
        """The promise in words, after "to" (`verb` 0) or after a subject (`verb` 1)."""
        if self.keep is not None:
            return f"keep{'s' * verb} at least {100 * self.keep:g}% of its quality"
        return f"lose{'s' * verb} at most {100 * (self.epsilon or 0.0):g} points of quality"


class _Walk:
    """The path's policies as these queries see them; neighbours with equal choices count once."""

    def __init__(
        self,
        quality: Floats,
        cost: Floats,
        score: Floats,
        baseline: int,
        promise: _Promise,
        policies: Path,
    ) -> None:
        self._quality, self._cost, self._score = quality, cost, score
        self._baseline, self._promise, self._policies = baseline, promise, policies
        self.arms: list[Ints] = []  # of each distinct policy drawn so far
        self._first: list[int] = []  # its first point on the path

    def blocks(self) -> Iterator[Floats]:
        """Yield draws (P, N) of the distinct policies along the path."""
        size = max(8, _CELLS_AT_ONCE // len(self._score))
        for start in range(0, len(self._policies), size):
            part = slice(start, start + size)
            arms = argmax_utility(
                self._quality,
                self._cost,
                self._baseline,
                self._policies.margin[part],
                self._policies.cost_weight[part],
            )
            before = self.arms[-1:] or [np.full(arms.shape[1], -1)]
            new = (np.concatenate([before, arms[:-1]]) != arms).any(axis=1)
            if new.any():
                self._first += (start + np.flatnonzero(new)).tolist()
                self.arms += list(arms[new])
                yield self._draws(arms[new])

    def _draws(self, arms: Ints) -> Floats:
        routed = self._score[np.arange(arms.shape[1]), arms]
        missing = np.isnan(routed)
        if missing.any():
            rows = np.flatnonzero(missing.any(axis=0))
            raise CalibrationError("no score is recorded for an arm that is chosen", rows.tolist())
        return self._promise.draws(self._score[:, self._baseline], routed)

    def last_point(self, passed: int) -> int:
        """The last point of the path that makes the choices of distinct policy `passed`."""
        if passed < 0:
            return -1
        more = passed + 1 < len(self._first)
        return self._first[passed + 1] - 1 if more else len(self._policies) - 1

    def needed(self, passed: int) -> tuple[int | None, bool]:
        """Roughly how many queries the next policy needs, and whether no number would do.

        log(1/delta) over the growth of the best constant bet on these queries: with that many the
        target is reached on average. A rough figure, since the next policy's growth is estimated
        from the few queries that differ.
        """
        n = len(self._score)
        if not n or passed + 1 >= len(self.arms):
            return None, False
        x = self._draws(self.arms[passed + 1][None])[0]
        bets = np.linspace(0.01, 1.0, 100) * LARGEST_BET / self._promise.high
        growth = float(np.log1p(-bets[:, None] * x).mean(axis=1).max())
        if growth <= 0:
            return None, True
        return max(n + 1, math.ceil(-math.log(self._promise.delta) / growth)), False


def _check(quality: Floats, cost: Floats, score: Floats, baseline: int) -> None:
    if quality.ndim != 2 or not quality.shape == cost.shape == score.shape:
        shapes = f"{quality.shape}, {cost.shape} and {score.shape}"
        raise CalibrationError(
            f"quality, expected_cost and score must have one shape, not {shapes}"
        )
    if not 0 <= baseline < score.shape[1]:
        raise CalibrationError(f"there is no arm {baseline}, the baseline")
    for what, bad in (
        ("a predicted quality is not within [0, 1]", ~((quality >= 0) & (quality <= 1))),
        ("an expected cost is not finite or below 0", ~(np.isfinite(cost) & (cost >= 0))),
        ("a score is not within [0, 1]", (score < 0) | (score > 1)),
        ("no score is recorded for the baseline", np.isnan(score[:, [baseline]])),
    ):
        if bad.any():
            raise CalibrationError(what, np.flatnonzero(bad.any(axis=1)).tolist())


def _reason(promise: _Promise, n: int, share: float, needed: int | None, hopeless: bool) -> str:
    sure = f"with {100 * promise.confidence:g}% confidence"
    queries = f"{n:,} calibration queries"
    if share > 0:
        moved = f"moving {100 * share:.1f}% of the traffic off the baseline"
        return f"{sure}, {moved} {promise.phrase(1)} ({queries})"
    nothing = f"nothing but always-baseline can be promised to {promise.phrase(0)} {sure}"
    reason = f"with {queries} {nothing}"
    if hopeless:
        return f"{reason}; cheaper policies lose more than that here, so more may not help"
    return reason if needed is None else f"{reason}; about {needed:,} would be needed"
