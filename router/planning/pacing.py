"""Pacing: the cost weight that spends a budget by its window's end, found anew for each request.

A receding horizon: the weight is taken at which (expected spend per request, on a sample of earlier
requests) x (forecast of the requests still to come) = the money left. Pacing only steers. What
stops an overshoot is the reservation, which is the most that a call can cost; so some money is kept
back for which the cheapest arms can still be reserved.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from router.decide import UNKNOWN, UNLIMITED, Bar, Objective, Options
from router.decide.choose import leaders_of
from router.decide.pacing import ONLY_COST, Pace, SpendCurve, spend_curve
from router.decide.traffic import BIN_SECONDS, Forecast, WindowTraffic, weekly_profile
from router.ledger.windows import time_zone, window_start
from router.money import NANO_PER_USD

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.log.base import Log
    from router.prices import Dated
    from router.types import Budget, BudgetState, Floats, Ints, Room

SAMPLE = 1024  # requests on which expected spend is estimated
DRAW_EVERY = 32  # requests that join the sample before their spend curve is drawn anew
HISTORY_SECONDS = 8 * 7 * 86_400.0  # of traffic that the profile is learnt from
GUESS = 1000.0  # requests of a window of which nothing is known
# Standard deviations by which more requests may come than are forecast, and still be paid for: by
# the cheapest arms, since a request that is refused loses more than one that is sent to them.
SURGE = 1.0
MOST_KEPT = 0.02  # of a limit is kept back for reservations, so that a small one can be used at all
_WINDOW_SECONDS = {"hour": 3600.0, "day": 86_400.0, "week": 604_800.0, "month": 2_678_400.0}


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a sample would spend, by the arms whose reservations fit `room` nano-USD.

    `curve`: spend per request against the cost weight; `after`: how many requests had joined;
    `all_fit`: whether every arm's reservation fits; `settles_at`: what a call is expected to cost,
    as a share of what is reserved for it; `reserved`: nano-USD reserved for a call, on average;
    `cheapest`: nano-USD that the cheapest reservation of 19 requests in 20 does not exceed.
    """

    curve: SpendCurve
    after: int
    room: int
    all_fit: bool
    settles_at: float
    reserved: float
    cheapest: float

    def stale(self, count: int, room: int) -> bool:
        """Whether to draw anew when `count` requests have joined, and `room` nano-USD are left."""
        if count - self.after >= min(DRAW_EVERY, self.after):
            return True
        return room < 0.9 * self.room or (not self.all_fit and room > 1.1 * self.room)


class Sample:
    """`SAMPLE` requests as decisions saw them: a ring of rows over arms. `rung`: (A,)."""

    def __init__(self, rung: Ints):
        shape = (SAMPLE, len(rung))
        self._rung = rung
        self._quality: Floats = np.zeros(shape)
        self._expected: Ints = np.zeros(shape, dtype=np.int64)
        self._upper: Ints = np.zeros(shape, dtype=np.int64)
        self._barred: NDArray[np.uint8] = np.zeros(shape, dtype=np.uint8)
        self.count = 0  # requests that ever joined

    def add(self, options: Options) -> None:
        """Let one request join, the first row of `options`."""
        at = self.count % SAMPLE
        self._quality[at] = options.quality[0]
        self._expected[at] = options.expected[0]
        self._upper[at] = options.upper[0]
        self._barred[at] = options.barred[0]
        self.count += 1

    def reprice(self, factors: Floats) -> None:
        """Multiply what each arm is expected to cost and what is reserved by `factors`, (A,)."""
        for money in (self._expected, self._upper):
            np.copyto(money, np.rint(money * factors).astype(np.int64), where=money != UNKNOWN)

    def draw(self, room: int, weight: float) -> Drawn | None:
        """What the sample would spend where reservations must fit `room` nano-USD.

        `weight` is the cost weight at which the requests in flight were decided. None where no
        request has an arm that fits.
        """
        n = min(self.count, SAMPLE)
        quality, expected, upper = self._quality[:n], self._expected[:n], self._upper[:n]
        able = (self._barred[:n] == Bar.FREE) & (upper != UNKNOWN) & (expected != UNKNOWN)
        fits = upper <= room
        free = leaders_of(able & fits, self._rung)
        curve = spend_curve(quality, expected, free)
        if curve is None:
            return None
        some = np.flatnonzero(free.any(axis=1))
        utility = np.where(free, quality - weight * (expected / NANO_PER_USD), -np.inf)
        chosen = utility[some].argmax(axis=1)
        held = upper[some, chosen]
        least = np.sort(np.where(free, upper, UNLIMITED)[some].min(axis=1))
        return Drawn(
            curve=curve,
            after=self.count,
            room=room,
            all_fit=bool((fits | ~able).all()),
            settles_at=float(expected[some, chosen].sum() / max(1, held.sum())),
            reserved=float(held.mean()),
            cheapest=float(least[(len(least) - 1) * 19 // 20]),
        )


class Pacer:
    """The pacing of one budget of scope global, in memory. Safe to share between threads.

    What it needs after a restart comes from the ledger's counters and from the log.

    Parameters
    ----------
    budget
        Its name.
    arms, rung
        The names and rungs of the A arms.
    floor
        The cost weight below which pacing does not go.
    requests
        How many requests a window is expected to bring; None to go by the log.
    unit_costs
        What one and the same call costs at each arm, (A,) in any unit, NaN where that is not known.
        When it changes the sample is repriced.
    """

    def __init__(
        self,
        budget: str,
        arms: Sequence[str],
        rung: Ints,
        floor: float,
        requests: float | None = None,
        unit_costs: Dated[Floats] | None = None,
    ):
        self.budget = budget
        self._arms, self._rung, self._floor, self._requests = tuple(arms), rung, floor, requests
        self._unit_costs = unit_costs
        self._costs: Floats | None = None
        self._lock = threading.Lock()
        self._sample = Sample(rung)
        self._drawn: Drawn | None = None
        self._weight = floor
        self._asked, self._every = 0, 1  # requests, and how many of them one joins the sample for
        self._counts: dict[int, int] = {}  # requests by the number of their bin
        self._began = math.inf  # when the first request was seen
        self._read_until: float | None = None  # in the log, unix seconds
        self._window: tuple[str, WindowTraffic] | None = None

    # ── what the log knows ─────────────────────────────────────────────────────────────────────
    def read(self, log: Log, window: str, now: float) -> None:
        """Take over from the log what all processes have seen until `now`, unix seconds.

        The first time, that is the traffic of the last weeks and a sample of about one budget
        window ("day", …) of requests; then only the traffic since the last time.
        """
        if self._read_until is not None:
            since = self._read_until - self._read_until % BIN_SECONDS - BIN_SECONDS
            self.learn(log.volume(since, now, BIN_SECONDS), since, now)
            return
        since = now - now % BIN_SECONDS - HISTORY_SECONDS
        counts = log.volume(since, now, BIN_SECONDS)
        start, rows = _reach(counts, now - _WINDOW_SECONDS[window])
        found = log.decisions(start, now, every=max(1, rows // SAMPLE)) if rows else []
        self.learn(counts, since, now)
        with self._lock:
            if self._sample.count == 0:
                for decision in found[-SAMPLE:]:
                    options = self._logged(decision)
                    if options is not None:
                        self._sample.add(options)

    def learn(self, counts: Mapping[int, int], since: float, now: float) -> None:
        """Take over the requests from `since` to `now` by the number of their bin (unix seconds //
        `BIN_SECONDS`); what is known of the time before stays."""
        first = int(since // BIN_SECONDS)
        with self._lock:
            earlier = {at: count for at, count in self._counts.items() if at < first}
            self._counts = earlier | dict(counts)
            self._read_until = now
            if self._window is not None:
                self._window[1].recount()

    def _logged(self, decision: Sequence[Mapping[str, Any]]) -> Options | None:
        """A decision's arms as they stand in the log; None if they are not this policy's."""
        views = {view["arm"]: view for view in decision}
        if not all(arm in views for arm in self._arms):
            return None
        money = [[views[arm][key] for arm in self._arms] for key in ("expected", "upper")]
        expected, upper = np.array(
            [[UNKNOWN if amount is None else amount for amount in row] for row in money]
        )
        return Options(
            quality=np.array([[views[arm]["quality"] for arm in self._arms]], dtype=np.float64),
            expected=expected[None],
            upper=upper[None],
            barred=np.zeros((1, len(self._arms)), dtype=np.uint8),
            rung=self._rung,
            baseline=int(self._rung[-1]),
        )

    # ── what each request asks ─────────────────────────────────────────────────────────────────
    def objective(
        self, options: Options, room: Room, now: float, *, new: bool = True
    ) -> Objective | None:
        """The objective of one request, None where nothing can be said of its budget.

        Parameters: `options`, one row; `room`, the request's budgets, the paced one among them;
        `now`, unix seconds; `new`, whether the request counts as traffic: not if asked again.
        """
        state = None
        for each in room.budgets:
            if each.budget.name == self.budget:
                state = each
        limit = None if state is None else state.limit
        if state is None or limit is None or state.resets_at is None:
            return None
        remaining = max(0, limit - state.settled - state.held)
        with self._lock:
            traffic = self._traffic(state, state.resets_at, now)
            self._follow_prices(now)
            if new:
                self._count(options, now)
            requests, spread = traffic.remaining(self._counts, now)
            drawn = self._draw(options, remaining)
            if drawn is None:  # a usual request cannot be paid for any more
                return Objective(
                    cost_weight=ONLY_COST,
                    pace=Pace(self.budget, remaining, 1 + requests, kept=0),
                )
            in_flight = state.held / max(1.0, drawn.reserved)
            kept = min(drawn.cheapest * (1 + in_flight), MOST_KEPT * limit)
            left = limit - state.settled - drawn.settles_at * state.held - kept
            spendable = left - SURGE * spread * drawn.curve.spend[0]
            weight = drawn.curve.weight_for(spendable / (1 + requests))
            self._weight = max(self._floor, weight)
            pace = Pace(self.budget, max(0, round(left)), 1 + requests, round(kept))
            return Objective(cost_weight=self._weight, pace=pace)

    def _count(self, options: Options, now: float) -> None:
        number = int(now // BIN_SECONDS)
        self._counts[number] = self._counts.get(number, 0) + 1
        # Once it is full, the sample keeps one request in so many that it spans about a window:
        # what comes by day only, or at its end, is not forgotten before it comes again.
        self._asked += 1
        if self._sample.count < SAMPLE or self._asked % self._every == 0:
            self._sample.add(options)

    def _draw(self, options: Options, room: int) -> Drawn | None:
        if self._sample.count == 0:  # the request that asks does not count, and is all there is
            alone = Sample(self._rung)
            alone.add(options)
            return alone.draw(room, self._weight)
        if self._drawn is None or self._drawn.stale(self._sample.count, room):
            self._drawn = self._sample.draw(room, self._weight)
        return self._drawn

    def _follow_prices(self, now: float) -> None:
        costs = None if self._unit_costs is None else self._unit_costs.at(now)
        if costs is self._costs or costs is None:
            return
        if self._costs is not None:
            known = (costs > 0) & (self._costs > 0)
            self._sample.reprice(
                np.divide(costs, self._costs, out=np.ones(len(costs)), where=known)
            )
            self._drawn = None
        self._costs = costs

    def _traffic(self, state: BudgetState, end: float, now: float) -> WindowTraffic:
        """The traffic of the current window, which may be new."""
        self._began = min(self._began, now)
        if self._window is None or self._window[0] != state.window_id:
            self._window = state.window_id, self._open(state.budget, end)
            self._every = max(1, round(self._window[1].forecast.total / SAMPLE))
        return self._window[1]

    def _open(self, budget: Budget, end: float) -> WindowTraffic:
        zone, start = time_zone(budget.zone), window_start(budget, end)
        first, oldest = int(start // BIN_SECONDS), int((end - HISTORY_SECONDS) // BIN_SECONDS)
        self._counts = {at: count for at, count in self._counts.items() if at >= oldest}
        began = min([self._began, *(at * float(BIN_SECONDS) for at in self._counts)])
        profile = weekly_profile({at: n for at, n in self._counts.items() if at < first}, zone)
        forecast = Forecast.of(start, end, profile.rate, zone)
        since = max(start, began)
        if self._requests is not None:
            return WindowTraffic(forecast.scaled(self._requests), since)
        if forecast.total > 0:
            return WindowTraffic(forecast, since, profile)
        return WindowTraffic(forecast.scaled(GUESS), since, guessed=True)


def _reach(counts: Mapping[int, int], until: float) -> tuple[float, int]:
    """How far back the last `SAMPLE` requests reach, at least to `until` (unix seconds): that
    time, and how many requests there have been since."""
    rows, start = 0, until
    for number in sorted(counts, reverse=True):
        if rows >= SAMPLE and number * BIN_SECONDS < until:
            break
        rows += counts[number]
        start = min(start, float(number * BIN_SECONDS))
    return start, rows
