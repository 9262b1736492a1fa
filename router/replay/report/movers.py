"""What changed: models and tags from one half of the period to the other, days against the day
before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from router.log.base import LoggedRequest
from router.log.savings import Line
from router.types import AttemptRow

MOST = 5  # of each kind


@dataclass(frozen=True, slots=True)
class Mover:
    """A model's or tag's spend in the first and second half of the period, or a day's spend beside
    that of the day before it; nano-USD."""

    kind: str  # "model", "tag" or "day"
    name: str
    before: int
    after: int
    change: int


class Movers:
    """Sums spend by model and tag on either side of `middle`, unix seconds."""

    def __init__(self, middle: float):
        self._middle = middle
        self._spent: dict[tuple[str, str], list[int]] = {}

    def add(self, request: LoggedRequest, attempt: AttemptRow) -> None:
        """Count an attempt whose cost is known."""
        half = int(request.time >= self._middle)
        names = [("model", attempt.model), *(("tag", tag) for tag in dict.fromkeys(request.tags))]
        for key in names:
            self._spent.setdefault(key, [0, 0])[half] += attempt.cost or 0

    def result(self, by_day: Mapping[str, Line]) -> tuple[Mover, ...]:
        """The largest changes of each kind, the largest first."""
        movers = [
            Mover(kind, name, before, after, after - before)
            for (kind, name), (before, after) in self._spent.items()
        ]
        movers += _days(by_day)
        found: list[Mover] = []
        for kind in ("model", "tag", "day"):
            moved = [each for each in movers if each.kind == kind and each.change]
            found += sorted(moved, key=lambda each: (-abs(each.change), each.name))[:MOST]
        return tuple(found)


def _days(by_day: Mapping[str, Line]) -> list[Mover]:
    # A day without a request spent nothing, so the day after one counts from 0.
    found = []
    for day in sorted(by_day)[1:]:
        before = by_day.get(str(date.fromisoformat(day) - timedelta(days=1)), Line()).spent
        after = by_day[day].spent
        found.append(Mover("day", day, before, after, after - before))
    return found
