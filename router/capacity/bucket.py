"""A limit of so many units a minute, as one number: the Generic Cell Rate Algorithm.

ITU-T Recommendation I.371, annex A (virtual scheduling): with T the interval between units at the
allowed rate and TAT the theoretical arrival time of the next one, n units at time t conform where
max(TAT, t) + n T - t <= b T, and TAT then becomes max(TAT, t) + n T. It is a token bucket that
holds b units and is refilled continuously; in any d minutes at most b + d * rate units pass.
"""

from __future__ import annotations

from dataclasses import dataclass

_MINUTE = 60 * 10**9  # nanoseconds


@dataclass(frozen=True, slots=True)
class Taken:
    """Where a bucket stood when something had just passed: TAT, and all that was ever given back
    until then. Both in nanoseconds times the rate."""

    arrival: int
    given_back: int


class Bucket:
    """At most `per_minute` units a minute, and at most `burst` of them at once (1 at least).

    Times are nanoseconds of any clock that does not go back. It is exact: times are kept multiplied
    by the rate, so that the interval between two units is a whole number. Not safe between threads.
    """

    __slots__ = ("_arrival", "_given_back", "burst", "per_minute")

    def __init__(self, per_minute: int, burst: int):
        self.per_minute, self.burst = per_minute, max(1, burst)
        self._arrival: int | None = None  # TAT, in nanoseconds times the rate
        self._given_back = 0  # ever, in the same unit

    def wait(self, units: int, now: int) -> int:
        """Nanoseconds until `units` conform, 0 where they do at `now`.

        More than the bucket holds never would: they pass when it is full.
        """
        backlog = self._backlog(now)
        over = backlog + (min(units, self.burst) - self.burst) * _MINUTE
        return max(0, -(-over // self.per_minute))

    def take(self, units: int, now: int) -> Taken:
        """Let `units` pass, whether they conform or not; what is too much delays later ones."""
        self._arrival = now * self.per_minute + self._backlog(now) + units * _MINUTE
        return Taken(self._arrival, self._given_back)

    def correct(self, units: int, taken: Taken, now: int) -> None:
        """Take `units` more of what has passed, or give some back where negative.

        Given back is at most what of the backlog at `taken` would be there still, had nothing but
        giving back followed. The rest was refilled in the meantime, and a bucket that is full again
        gains nothing by it: so what truly passed keeps to burst and rate in any interval. (Of an
        interval that begins after `taken`, TAT was then no less than `taken.arrival` less what was
        given back by then, and all that is given back later leaves TAT at its beginning or after.)
        """
        if self._arrival is None:
            return
        change = units * _MINUTE
        if units < 0:
            since = self._given_back - taken.given_back
            left = taken.arrival - since - now * self.per_minute
            change = -min(-change, max(0, left))
            self._given_back -= change
        self._arrival += change

    def _backlog(self, now: int) -> int:
        """What has passed and is not made up for yet, in the unit of `_arrival`."""
        return 0 if self._arrival is None else max(0, self._arrival - now * self.per_minute)
