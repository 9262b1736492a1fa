"""When and at which service a call that can wait is made: the cheapest way that is in time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from router.types import Way


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a request may wait, and how long each way takes at most.

    `now` and `deadline` are unix seconds. A call at the standard price takes at most
    `call_seconds`, with its retries; flex and batch may end without an answer after so many more,
    so that a call at the standard price has to fit behind them.
    """

    now: float
    deadline: float
    call_seconds: float
    flex_seconds: float
    batch_seconds: float

    def latest(self, service_tier: str | None) -> float:
        """The last moment, in unix seconds, at which a call of a service tier may begin to wait
        for its answer and there still be one by the deadline."""
        first = {"flex": self.flex_seconds, "batch": self.batch_seconds}.get(service_tier or "", 0)
        return self.deadline - self.call_seconds - first

    def allows(self, way: Way) -> bool:
        """Whether a way is in time. What is sent now, and would be without a deadline, always is:
        nothing is sooner."""
        at_once = way.at <= self.now and way.service_tier not in ("flex", "batch")
        return at_once or self.now <= way.at <= self.latest(way.service_tier)


def cheapest(now: Way, others: Iterable[Way], patience: Patience) -> Way:
    """Return the cheapest way that is in time: `now`, the call as it would be made without a
    deadline, or one of the others.

    Of equals `now` comes first, then the one that begins earliest. An unknown cost is no reason to
    wait, and beside a `now` of unknown cost nothing is known to be cheaper.
    """
    best = now
    for way in sorted(others, key=lambda each: each.at):
        if way.cost is None or best.cost is None or not patience.allows(way):
            continue
        if way.cost < best.cost:
            best = way
    return best
