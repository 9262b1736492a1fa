"""A limit of so many units a minute, as one number: the Generic Cell Rate Algorithm.

ITU-T Recommendation I.371, annex A (virtual scheduling): with T the interval between units at the
allowed rate and TAT the theoretical arrival time of the next one, n units at time t conform where
max(TAT, t) + n T - t <= b T, and TAT then becomes max(TAT, t) + n T. It is a token bucket that
holds b units and is refilled continuously; in any d minutes at most b + d * rate units pass.
"""

from __future__ import annotations

_MINUTE = 60 * 10**9  # nanoseconds


class Bucket:
    """At most `per_minute` units a minute, and at most `burst` of them at once (1 at least).

    Times are nanoseconds of any clock that does not go back. It is exact: times are kept multiplied
    by the rate, so that the interval between two units is a whole number. Not safe between threads.
    """

    __slots__ = ("_arrival", "burst", "per_minute")

    def __init__(self, per_minute: int, burst: int):
        self.per_minute, self.burst = per_minute, max(1, burst)
        self._arrival: int | None = None  # TAT, in nanoseconds times the rate

    def wait(self, units: int, now: int) -> int:
        """Nanoseconds until `units` conform, 0 where they do at `now`.

        More than the bucket holds never would: they pass when it is full.
        """
        backlog = self._backlog(now)
        over = backlog + (min(units, self.burst) - self.burst) * _MINUTE
        return max(0, -(-over // self.per_minute))

    def take(self, units: int, now: int) -> None:
        """Let `units` pass, whether they conform or not; what is too much delays later ones."""
        self._arrival = now * self.per_minute + self._backlog(now) + units * _MINUTE

    def correct(self, units: int) -> None:
        """Take `units` more of what has passed, or give some back where negative."""
        if self._arrival is not None:
            self._arrival += units * _MINUTE

    def _backlog(self, now: int) -> int:
        """What has passed and is not made up for yet, in the unit of `_arrival`."""
        return 0 if self._arrival is None else max(0, self._arrival - now * self.per_minute)
