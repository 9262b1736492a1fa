"""How many requests a budget's window will still bring: an hour-of-week profile of earlier traffic,
corrected by what the window has seen so far."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from router.types import Floats, Ints

BIN_SECONDS = 900  # traffic is counted by quarters of an hour, on which any zone's hours begin
HOUR = 3600.0
HOURS_OF_WEEK = 168
# How uncertain a forecast's level is before the window has begun: its squared relative error.
LEVEL_VARIANCE = 0.1
# What nobody has seen yet may be bursts. Where less came than was only said to come, the forecast
# is worth this share of its requests more.
SLOW = 0.1
_SMOOTHING = (
    0.05  # of a window's requests, by which a level is steadied to measure scatter about it
)


@dataclass(frozen=True, slots=True)
class Profile:
    """What earlier traffic says of an hour. `rate`, (168,): requests an hour by the hour of the
    local week, which begins on Monday at midnight. `errors`, the sum over bins of the squared
    difference between the requests that came and those, and `requests`, the sum of the former."""

    rate: Floats
    errors: float
    requests: float


def weekly_profile(counts: Mapping[int, int], zone: tzinfo) -> Profile:
    """Learn how many requests each hour of the week brings in a time zone.

    Parameters: `counts`, requests by the number of their bin (unix seconds // `BIN_SECONDS`), from
    the first bin with traffic to the last one that is over; a bin in between that is missing had
    none. An hour of the week is shrunk towards its hour of the day, and that towards the mean of
    all hours, each the more the less it is borne out by repetition. Zeros where there is nothing to
    learn from.
    """
    if not counts:
        return Profile(np.zeros(HOURS_OF_WEEK), 0.0, 0.0)
    bins = range(min(counts), max(counts) + 1)
    seen = np.array([counts.get(number, 0) for number in bins], dtype=np.float64)
    hour = np.array([hour_of_week(number * BIN_SECONDS, zone) for number in bins])
    of_day = _shrunk(seen, hour % 24, np.full(24, seen.mean()))
    of_week = _shrunk(seen, hour, np.tile(of_day, 7))
    errors = float(((seen - of_week[hour]) ** 2).sum())
    return Profile(of_week * (HOUR / BIN_SECONDS), errors, float(seen.sum()))


def _shrunk(seen: Floats, group: Ints, prior: Floats) -> Floats:
    """The mean of each group, shrunk towards `prior`, both (G,): Bühlmann and Straub's credibility
    (1970), n / (n + variance within groups / variance between them)."""
    n = np.bincount(group, minlength=len(prior)).astype(np.float64)
    mean = np.bincount(group, seen, len(prior)) / np.maximum(n, 1)
    spare = float(np.maximum(n - 1, 0).sum())
    if not spare:
        return prior
    within = float(((seen - mean[group]) ** 2).sum()) / spare
    apart = float((n * (mean - prior) ** 2).sum()) - np.count_nonzero(n) * within
    between = max(0.0, apart / float(n.sum()))
    weight = n * between / np.maximum(n * between + within, 1e-300)
    shrunk: Floats = prior + weight * (mean - prior)
    return shrunk


def hour_of_week(time: float, zone: tzinfo) -> int:
    """Which hour of the local week a time in unix seconds is in, 0 to 167."""
    local = datetime.fromtimestamp(time, zone)
    return local.weekday() * 24 + local.hour


@dataclass(frozen=True, slots=True)
class Forecast:
    """The requests of one window. `edges`: unix seconds from its start to its end; `expected`: how
    many requests are forecast from the start to each edge."""

    edges: tuple[float, ...]
    expected: tuple[float, ...]

    @classmethod
    def of(cls, start: float, end: float, rate: Floats, zone: tzinfo) -> Forecast:
        """The forecast of a window by a weekly profile `rate`, (168,) requests an hour."""
        edges = np.append(np.arange(start, end, HOUR), end)
        hour = [hour_of_week(edge, zone) for edge in edges[:-1].tolist()]
        expected = np.append(0.0, np.cumsum(rate[hour] * np.diff(edges) / HOUR))
        return cls(tuple(edges.tolist()), tuple(expected.tolist()))

    @property
    def total(self) -> float:
        """Requests of the whole window."""
        return self.expected[-1]

    def scaled(self, total: float) -> Forecast:
        """The same curve for `total` requests; a straight line where nothing is forecast."""
        if self.total > 0:
            shares = [count / self.total for count in self.expected]
        else:
            length = self.edges[-1] - self.edges[0]
            shares = [(edge - self.edges[0]) / length for edge in self.edges]
        return Forecast(self.edges, tuple(total * share for share in shares))

    def until(self, time: float) -> float:
        """Requests forecast from the window's start to `time`, linear within an hour."""
        if time >= self.edges[-1]:
            return self.expected[-1]
        after = bisect_right(self.edges, time)
        if after == 0:
            return 0.0
        left, right = self.edges[after - 1], self.edges[after]
        before = self.expected[after - 1]
        return before + (self.expected[after] - before) * (time - left) / (right - left)


class WindowTraffic:
    """The requests of one window: those that came, and those still to come.

    Parameters: `forecast`; `since`, unix seconds, from when on requests were counted; `learnt`, the
    profile that the forecast's level was learnt with, None where it was only said; `guessed`,
    whether its level is a mere guess, which the first request outweighs.
    """

    def __init__(
        self,
        forecast: Forecast,
        since: float,
        learnt: Profile | None = None,
        *,
        guessed: bool = False,
    ):
        self.forecast = forecast
        self._since, self._learnt, self._guessed = since, learnt, guessed
        self._before = forecast.until(since)  # forecast for when nobody counted
        # What every request asks anew, and does not change.
        self._total, self._steady = forecast.total, _SMOOTHING * forecast.total
        self._earlier = 1.0 if learnt is None else learnt.errors / max(1.0, learnt.requests)
        self.recount()

    def recount(self) -> None:
        """Count from the beginning next time: earlier counts have changed."""
        self._bin = int(self._since // BIN_SECONDS)  # the first that is not over
        self._seen = self._due = 0.0  # requests that came, and that were forecast, until it began
        self._squares = (0.0, 0.0, 0.0)  # sums over bins: seen^2, seen * due, due^2

    def remaining(self, counts: Mapping[int, int], now: float) -> tuple[float, float]:
        """Return how many requests are still to come after `now`, and their standard deviation.

        Parameters: `counts`, requests of each bin until now. The forecast is scaled by how much
        more or less came than it said, by credibility (Bühlmann 1967): it is worth as many requests
        as (variance over mean of a bin) / (squared relative error of the level). So steady traffic
        corrects a wrong level at once, and one burst does not raise it for the rest of the window.
        """
        last = int(now // BIN_SECONDS)
        while self._bin < last:
            begins = max(self._bin * float(BIN_SECONDS), self._since)
            ends = (self._bin + 1.0) * BIN_SECONDS
            self._close_bin(
                counts.get(self._bin, 0), self.forecast.until(ends) - self.forecast.until(begins)
            )
        so_far = self.forecast.until(now)
        recent = counts.get(last, 0)
        seen, due = self._seen + recent, so_far - self._before
        left = self._total - so_far
        if self._guessed:
            mean = (seen + 1) / (due + 1) * left
            return mean, math.sqrt(mean)
        dispersion = self._dispersion(recent, due - self._due)
        belief = dispersion / LEVEL_VARIANCE
        if self._learnt is None and seen < due:
            belief += SLOW * self._total
        mean = (seen + belief) / (due + belief) * left
        return mean, math.sqrt(dispersion * mean)

    def _close_bin(self, seen: float, due: float) -> None:
        both, cross, squares = self._squares
        self._squares = (both + seen * seen, cross + seen * due, squares + due * due)
        self._seen += seen
        self._due += due
        self._bin += 1

    def _dispersion(self, recent: float, due: float) -> float:
        """Variance over mean of a bin's requests: of earlier windows' about their profile or of
        this one's about its forecast, whichever is more; 1 (as Poisson's) at least.

        `recent` requests have come in the bin that is not over, `due` were forecast until now.
        """
        steady = self._steady
        level = (self._seen + recent + steady) / (self._due + due + steady)
        both, cross, squares = self._squares
        errors = both - 2 * level * cross + level * level * squares
        if recent > level * due:
            errors += (recent - level * due) ** 2
        return max(1.0, self._earlier, errors / max(1.0, self._seen + recent))
