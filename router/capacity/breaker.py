"""A circuit breaker: a deployment that keeps failing is left alone for a while, then probed.

The states are Nygard's ("Release It!", 2007): closed, calls pass; open, none does; half-open, one
call at a time finds out whether the fault is over. Time is an argument, in seconds of any clock
that does not go back. Not safe between threads: its `Endpoint` holds a lock around it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from router.decide.obstacles import Obstacle
from router.decide.options import Bar

if TYPE_CHECKING:
    from router.policy.capacity import BreakerOptions


class Breaker:
    """One deployment's circuit.

    Parameters: `options`, the policy's; `probe_seconds`, how long a probe is waited for that never
    says how it ended, before another one may go.
    """

    def __init__(self, options: BreakerOptions, probe_seconds: float):
        self._options, self._probe_seconds = options, probe_seconds
        self._recent: deque[bool] = deque(maxlen=options.of)  # whether each call failed
        self._in_a_row = 0
        self._until: float | None = None  # when the next probe may go; None while closed
        self._backoff = 0.0
        self._probe = 0  # the latest probe's number
        self._probed_until: float | None = None  # by when the probe under way must have ended
        self._why = ""

    @property
    def closed(self) -> bool:
        """Whether calls pass."""
        return self._until is None

    def obstacle(self, now: float) -> Obstacle | None:
        """What is in a call's way; None where it passes, if only as the probe."""
        if self._until is None:
            return None
        if now < self._until:
            wait = self._until - now
            return Obstacle(Bar.CIRCUIT_OPEN, f"{self._why}; probed in {wait:.3g} s", wait)
        if self._probed_until is not None and now < self._probed_until:
            return Obstacle(Bar.CIRCUIT_OPEN, f"{self._why}; a probe is under way")
        return None

    def enter(self, now: float) -> int:
        """Let a call pass that has no obstacle; return its number if it is the probe, else 0."""
        if self._until is None:
            return 0
        self._probe += 1
        self._probed_until = now + self._probe_seconds
        return self._probe

    def succeed(self, probe: int) -> None:
        """A call was answered. Open, only the probe closes: others began before it opened."""
        if self._until is None:
            self._in_a_row = 0
            self._recent.append(False)
        elif self._is_current(probe):
            self._until = self._probed_until = None
            self._in_a_row, self._backoff = 0, 0.0
            self._recent.clear()

    def fail(self, probe: int, why: str, now: float) -> None:
        """A call failed through the deployment's fault, for the reason `why`."""
        if self._until is not None:
            if self._is_current(probe):
                self._open(f"{self._why.partition('; last')[0]}; last: {why}", now)
            return
        self._in_a_row += 1
        self._recent.append(True)
        options, failed = self._options, sum(self._recent)
        if self._in_a_row >= options.failures:
            self._open(f"{self._in_a_row} failures in a row; last: {why}", now)
        elif (
            options.ratio is not None
            and len(self._recent) == options.of
            and failed >= options.ratio * options.of
        ):
            self._open(f"{failed} of the last {options.of} calls failed; last: {why}", now)

    def forget(self, probe: int) -> None:
        """A call ended without saying anything about the deployment: another may probe at once."""
        if self._is_current(probe):
            self._probed_until = None

    def _is_current(self, probe: int) -> bool:
        return probe != 0 and probe == self._probe and self._probed_until is not None

    def _open(self, why: str, now: float) -> None:
        options = self._options
        grown = max(2 * self._backoff, options.open_seconds)
        self._backoff = min(grown, options.longest_open_seconds)
        self._until, self._probed_until, self._why = now + self._backoff, None, why
