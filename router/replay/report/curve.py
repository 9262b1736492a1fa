"""What other cost weights would have chosen on a sample of a log, by the log's own predictions."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from router.decide import UNKNOWN, UNLIMITED, Bar, Objective, Options, choose
from router.decide.choose import leaders_of
from router.decide.explain import able
from router.decide.pacing import ONLY_COST, spend_curve
from router.money import NANO_PER_USD
from router.policy.arms import arm_named, rungs_of
from router.types import TIERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.types import Floats, Ints

SAMPLE = 4000  # requests; at most so many are held, however long the log is
STEPS = 40  # cost weights of a curve


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Predicted mean P(good) and cost per request, in nano-USD, of one way to choose."""

    quality: float
    cost: float
    cost_weight: float | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """Predicted cost and quality of other choices on a sample of the log's requests.

    `points`, from dear to cheap, at rising cost weights; `operating`: the log's own choices;
    `always`: each tier for every request that it can take, else the next tier that can. `requests`
    are in the sample, of `answered`; `left_out` have no known prediction or price.
    """

    requests: int
    answered: int
    left_out: int
    points: tuple[CurvePoint, ...]
    operating: CurvePoint
    always: Mapping[str, CurvePoint]


@dataclass(frozen=True, slots=True)
class _Row:
    """One request's arms, in the order of their tiers."""

    arms: tuple[tuple[str, int], ...]  # name and place of its tier
    quality: tuple[float, ...]
    expected: tuple[int, ...]
    free: tuple[bool, ...]
    chosen: int


class Sample:
    """A uniform sample of the requests of a log that is read once (Vitter's algorithm R, 1985)."""

    def __init__(self, size: int = SAMPLE, seed: int = 0):
        self._size, self._chance = size, random.Random(seed)
        self._rows: list[_Row] = []
        self._answered = self._left_out = 0

    def add(self, decision: Sequence[Mapping[str, Any]], chosen: str) -> None:
        """Count an answered request, and keep it if chance wants it."""
        self._answered += 1
        row = _row(decision, chosen)
        if row is None:
            self._left_out += 1
            return
        if len(self._rows) < self._size:
            self._rows.append(row)
            return
        place = self._chance.randrange(self._answered - self._left_out)
        if place < self._size:
            self._rows[place] = row

    def curve(self) -> Curve | None:
        """Sweep the cost weight over the sample; None where nothing can be said."""
        groups: dict[tuple[tuple[str, int], ...], list[_Row]] = {}
        for row in self._rows:
            groups.setdefault(row.arms, []).append(row)
        parts = [_Group(arms, rows) for arms, rows in groups.items()]
        if not parts:
            return None
        points: list[CurvePoint] = []
        for weight in _weights(parts):
            point = _mean([part.choose(weight) for part in parts], weight)
            if not points or (point.quality, point.cost) != (points[-1].quality, points[-1].cost):
                points.append(point)
        seen = {tier for part in parts for tier in part.tier.tolist()}
        return Curve(
            requests=len(self._rows),
            answered=self._answered,
            left_out=self._left_out,
            points=tuple(points),
            operating=_mean([part.own() for part in parts]),
            always={
                TIERS[tier]: _mean([part.always(tier) for part in parts]) for tier in sorted(seen)
            },
        )


class _Group:
    """The requests of a sample that had the same arms to choose from, as arrays."""

    def __init__(self, arms: tuple[tuple[str, int], ...], rows: list[_Row]):
        expected = np.array([row.expected for row in rows], dtype=np.int64)
        free = np.array([row.free for row in rows])
        tier = np.array([place for _, place in arms], dtype=np.int64)
        rung = np.array(rungs_of([arm_named(name, TIERS[place]) for name, place in arms]))
        self.options = Options(
            quality=np.array([row.quality for row in rows]),
            expected=expected,
            upper=expected,  # no budget is in the way here: only whether it is known counts
            barred=np.where(free, Bar.FREE, Bar.RULE).astype(np.uint8),
            rung=rung,
            baseline=int(rung[tier.tolist().index(tier[-1])]),
        )
        self.tier = tier
        self._leaders = leaders_of(free, rung)
        self._chosen = np.array([row.chosen for row in rows])
        self._room = np.full(len(rows), UNLIMITED)

    def weights(self) -> list[float]:
        """The cost weights at which a request changes its arm."""
        found = spend_curve(self.options.quality, self.options.expected, self._leaders)
        return [] if found is None else list(found.weights)

    def choose(self, weight: float) -> tuple[Floats, Ints]:
        """Quality and expected cost of each request at a cost weight."""
        chosen = choose(self.options, Objective(cost_weight=weight), self._room, priced=True)
        return self._of(chosen.arm)

    def own(self) -> tuple[Floats, Ints]:
        return self._of(self._chosen)

    def always(self, tier: int) -> tuple[Floats, Ints]:
        # Preferred: the tier itself, then those above it from below, then those beneath it.
        rank = np.where(self.tier >= tier, 0, 2 * len(TIERS)) + np.abs(self.tier - tier)
        return self._of(np.where(self._leaders, rank[None, :], 4 * len(TIERS)).argmin(axis=1))

    def _of(self, arm: NDArray[np.int64]) -> tuple[Floats, Ints]:
        row = np.arange(len(arm))
        return self.options.quality[row, arm], self.options.expected[row, arm]


def _mean(parts: list[tuple[Floats, Ints]], weight: float | None = None) -> CurvePoint:
    quality = np.concatenate([each for each, _ in parts])
    cost = np.concatenate([each for _, each in parts])
    return CurvePoint(float(quality.mean()), float(cost.mean()), weight)


def _weights(parts: list[_Group]) -> list[float]:
    """Rising cost weights from 0, between those at which some request changes its arm."""
    steps = sorted({weight for part in parts for weight in part.weights()})
    if not steps:
        return [0.0]
    between = [math.sqrt(low * high) for low, high in pairwise(steps)]
    if len(between) > STEPS:
        between = [between[round(at)] for at in np.linspace(0, len(between) - 1, STEPS)]
    return [0.0, *between, min(2 * steps[-1], ONLY_COST)]


def _row(decision: Sequence[Mapping[str, Any]], chosen: str) -> _Row | None:
    views = [view for view in decision if view.get("tier") in TIERS]
    views.sort(key=lambda view: TIERS.index(view["tier"]))
    known = [_is_share(view.get("quality")) and _is_cost(view.get("expected")) for view in views]
    place = next((at for at, view in enumerate(views) if view.get("arm") == chosen), None)
    if place is None or not known[place]:
        return None
    return _Row(
        arms=tuple((str(view.get("arm")), TIERS.index(view["tier"])) for view in views),
        quality=tuple(
            float(view["quality"]) if fine else 0.0 for view, fine in zip(views, known, strict=True)
        ),
        expected=tuple(
            int(view["expected"]) if fine else UNKNOWN
            for view, fine in zip(views, known, strict=True)
        ),
        free=tuple(
            fine and (at == place or able(view.get("rejected")))
            for at, (view, fine) in enumerate(zip(views, known, strict=True))
        ),
        chosen=place,
    )


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_cost(value: object) -> bool:
    # A curve in doubles stays exact enough, and no sum overflows, far above any real bill.
    return isinstance(value, int) and 0 <= value <= 1_000_000 * NANO_PER_USD
