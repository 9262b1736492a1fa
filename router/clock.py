"""The router's clock: wall time that never goes back, and does not leap over a budget's window.

A budget's window is over when the clock says so, so a clock that leaps ahead would give it away
early, and one that falls back would give it twice. Wall time is therefore held against monotonic
time, which no one can set.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from router.errors import ClockJumped
from router.types import Budget

_log = logging.getLogger("router")

STEP = 5.0  # seconds by which a clock may be corrected without a word
HOUR = 3600.0
# A month of February and a day of 23 hours: the shortest that each window can be.
_SHORTEST = {"hour": HOUR, "day": 23 * HOUR, "week": 167 * HOUR, "month": 28 * 24 * HOUR - HOUR}


def shortest_window(budgets: Iterable[Budget]) -> float:
    """The shortest window of these budgets, seconds; an hour where none ever ends."""
    lengths = [
        float(budget.seconds or HOUR) if budget.window == "rolling" else _SHORTEST[budget.window]
        for budget in budgets
        if budget.window != "total"
    ]
    return min(lengths, default=HOUR)


def _awake_or_not() -> float:
    """Monotonic seconds in which a machine's sleep counts, so that waking up is no leap."""
    clock = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class GuardedClock:
    """Unix seconds, for as long as one process lives.

    It never goes back: a wall clock that is set back is waited for, one more than 5 seconds back is
    logged. One that gets ahead of monotonic time by more than `allowed` seconds is refused with
    `ClockJumped` on every reading until it is set right, `confirm` is called, or the process starts
    anew.

    Parameters: `allowed`; `wall` and `monotonic`, the two clocks, seconds.
    """

    def __init__(
        self,
        allowed: float,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] | None = None,
    ):
        self.allowed, self._wall, self._monotonic = allowed, wall, monotonic or _awake_or_not
        self._lock = threading.Lock()
        self._latest = wall()
        self._offset = self._latest - self._monotonic()
        self._behind = False

    def __call__(self) -> float:
        """The time; raises `ClockJumped`."""
        with self._lock:
            now, passed = self._wall(), self._monotonic()
            ahead = now - passed - self._offset
            if ahead > self.allowed:
                raise ClockJumped(ahead=ahead, allowed=self.allowed, now=now, trusted=now - ahead)
            if ahead < -STEP and not self._behind:
                _log.error("the clock was set back by %.0f s; the router's waits for it", -ahead)
            self._behind = ahead < -STEP
            self._latest = max(self._latest, now)
            return self._latest

    def confirm(self) -> None:
        """Take the wall clock as right, however far ahead it is."""
        with self._lock:
            now = self._wall()
            self._offset = now - self._monotonic()
            self._latest = max(self._latest, now)
