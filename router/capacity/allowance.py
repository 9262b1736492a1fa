"""What a provider said is left of one of its limits, followed until it says something newer."""

from __future__ import annotations

from router.capacity.headers import LONGEST, Said

_FORGET = 60.0  # seconds after which a word without a reset says nothing: limits are per minute


class Allowance:
    """A token bucket as the provider described it: what remains, refilled evenly until it is whole.

    Where it said no limit or no reset the pace is unknown: nothing is refilled before the reset.
    Seconds of any clock that does not go back. Not safe between threads.
    """

    __slots__ = ("_at", "_left", "_limit", "_pace", "_until")

    def __init__(self, said: Said, now: float):
        self._left, self._at = float(said.remaining), now
        self._until = now + min(said.reset if said.reset is not None else _FORGET, LONGEST)
        missing = (said.limit or 0) - said.remaining
        known = said.limit is not None and said.reset and missing > 0
        self._pace = missing / said.reset if known and said.reset else 0.0  # units a second
        self._limit = said.limit

    def wait(self, units: int, now: float) -> float:
        """Seconds until `units` are there, 0 where they are. More than the limit never are: they
        pass when it is whole again."""
        if now >= self._until:
            return 0.0
        lacking = units - (self._left + self._pace * (now - self._at))
        if lacking <= 0:
            return 0.0
        whole = self._until - now
        return min(whole, lacking / self._pace) if self._pace else whole

    def take(self, units: int) -> None:
        """A call has gone that takes so many units."""
        self._left -= units
