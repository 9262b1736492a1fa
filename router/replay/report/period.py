"""Which period a report is about, and the bins of time that it is shown in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from router.log.base import Log

_MOST_BINS = 72
_HOUR, _DAY, _WEEK = 3600, 86_400, 7 * 86_400
UNITS = ((60, "minute"), (600, "10 minutes"), (_HOUR, "hour"), (_DAY, "day"), (_WEEK, "week"))
_FIRST_MONDAY = 4 * _DAY  # 1970-01-05: weeks begin on Mondays
_FROM, _TO = 0.0, 1e12  # what a ledger takes for a time


@dataclass(frozen=True, slots=True)
class Period:
    """From the second of the first request to that of the last, unix seconds; bins begin in UTC."""

    first: float
    last: float
    middle: float  # the halves that movers are told by meet here
    bin_seconds: int
    unit: str

    @property
    def end(self) -> float:
        """When the last second is over."""
        return self.last + 1

    def bin_start(self, time: float) -> float:
        """When the bin of a time begins."""
        shift = _FIRST_MONDAY if self.bin_seconds % _WEEK == 0 else 0
        return float((time - shift) // self.bin_seconds * self.bin_seconds + shift)

    def bin_starts(self) -> Iterator[float]:
        """When each bin begins."""
        start, last = self.bin_start(self.first), self.bin_start(self.last)
        while start <= last:
            yield start
            start += self.bin_seconds


def period_of(log: Log, since: float | None, until: float | None) -> Period | None:
    """The period that a log's requests span within the bounds; None where there are none.

    Few numbers are read, however long the log is: counts by week, then by hour and by second where
    it begins and ends.
    """
    low, high = _FROM if since is None else since, _TO if until is None else until
    first = last = None
    for length in (_WEEK, _HOUR, 1):
        spans = [(low, high)] if first is None or last is None else [first, last]
        found = [bin_ for span in spans for bin_ in log.volume(*span, length)]
        if not found:
            return None
        first, last = (
            (max(low, at * float(length)), min(high, (at + 1) * float(length)))
            for at in (min(found), max(found))
        )
    assert first is not None
    assert last is not None
    return make_period(first[0], last[0])


def make_period(first: float, last: float) -> Period:
    """A period with the finest unit of bins that are not too many to look at."""
    last = max(first, last)
    weeks = max(2, math.ceil((last - first) / _WEEK / _MOST_BINS))
    units = (*UNITS, (weeks * _WEEK, f"{weeks} weeks"))
    unit = next((unit for unit in units if (last - first) / unit[0] <= _MOST_BINS), units[-1])
    return Period(first, last, (first + last + 1) / 2, *unit)
