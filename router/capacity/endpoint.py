"""One endpoint's capacity: what may be sent to it just now, and what its answers teach."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from router.capacity.allowance import Allowance
from router.capacity.breaker import Breaker
from router.capacity.bucket import Bucket, Taken
from router.capacity.headers import LONGEST, read_headers
from router.decide.obstacles import Obstacle
from router.decide.options import Bar
from router.errors import (
    AuthenticationFailed,
    MalformedReply,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
)

if TYPE_CHECKING:
    from router.policy.capacity import BreakerOptions, CapacityLimits

Clock = Callable[[], float]
Kind = Literal["requests", "tokens"]

_AT_FAULT = (ProviderUnavailable, ProviderTimeout, MalformedReply, AuthenticationFailed)


@dataclass(frozen=True, slots=True)
class _Limit:
    """A limit of the policy on one kind of unit."""

    kind: Kind
    bucket: Bucket

    def units(self, tokens: int) -> int:
        return 1 if self.kind == "requests" else tokens


class Endpoint:
    """What one process knows of an endpoint. Safe between threads and tasks: each step is short,
    under one lock, and waits for nothing.

    Parameters: `clock`, seconds that never go back; `limits` and `breaker`, the policy's, None for
    none; `probe_seconds`, the longest that a call can take.
    """

    def __init__(
        self,
        clock: Clock,
        limits: CapacityLimits | None = None,
        breaker: BreakerOptions | None = None,
        probe_seconds: float = 600.0,
    ):
        self._clock, self._lock = clock, threading.Lock()
        self._limits = _limits(limits)
        self._parallel = limits.max_parallel if limits else None
        self._breaker = Breaker(breaker, probe_seconds) if breaker else None
        self._in_flight = 0
        self._blocked_until, self._blocked_by = 0.0, ""
        self._left: dict[Kind, Allowance] = {}
        self._unwell: Obstacle | None = None
        self.quiet = not self._limits and self._parallel is None

    def obstacle(self, tokens: int) -> Obstacle | None:
        """What is in the way of a call of about so many tokens, prompt and answer; None if nothing
        is."""
        with self._lock:
            return self._obstacle(tokens, self._clock())

    def enter(self, tokens: int) -> Ticket | Obstacle:
        """Count a call in, or say what is in its way: checked and taken in one step."""
        with self._lock:
            now = self._clock()
            obstacle = self._obstacle(tokens, now)
            if obstacle is not None:
                return obstacle
            at = _nanoseconds(now)
            taken = tuple(limit.bucket.take(limit.units(tokens), at) for limit in self._limits)
            for kind, allowance in self._left.items():
                allowance.take(1 if kind == "requests" else tokens)
            self._in_flight += 1
            probe = self._breaker.enter(now) if self._breaker else 0
            return Ticket(self, tokens, probe, taken)

    def report(self, unwell: Obstacle | None) -> None:
        """What its health check says: what is in the way of every call, None where nothing is."""
        with self._lock:
            self._unwell = unwell
            self._settle_down(self._clock())

    @property
    def unwell(self) -> bool:
        """Whether its health check found something that is in the way of every call."""
        return self._unwell is not None

    def _obstacle(self, tokens: int, now: float) -> Obstacle | None:
        if self._breaker and (found := self._breaker.obstacle(now)):
            return found
        if self._unwell is not None:
            return self._unwell
        if now < self._blocked_until:
            wait = self._blocked_until - now
            return Obstacle(Bar.AT_CAPACITY, f"{self._blocked_by} for {wait:.3g} s more", wait)
        if self._parallel is not None and self._in_flight >= self._parallel:
            return Obstacle(Bar.AT_CAPACITY, f"{self._in_flight} calls are under way at once")
        for limit in self._limits:
            nanoseconds = limit.bucket.wait(limit.units(tokens), _nanoseconds(now))
            if nanoseconds:
                wait = nanoseconds / 1e9
                why = f"{limit.bucket.per_minute:,} {limit.kind} a minute; room in {wait:.3g} s"
                return Obstacle(Bar.AT_CAPACITY, why, wait)
        for kind, allowance in self._left.items():
            wait = allowance.wait(1 if kind == "requests" else tokens, now)
            if wait:
                why = f"the provider has too few {kind} left; room in {wait:.3g} s"
                return Obstacle(Bar.AT_CAPACITY, why, wait)
        return None

    # ── what a ticket reports ──────────────────────────────────────────────────────────────────
    def _heard(self, headers: Mapping[str, Any] | None) -> None:
        word = read_headers(headers)
        if not word:
            return
        now = self._clock()
        for kind, said in (("requests", word.requests), ("tokens", word.tokens)):
            if said is not None:
                self._left[kind] = Allowance(said, now)  # type: ignore[index]

    def _failed(self, ticket: Ticket, error: BaseException, headers: Any) -> None:
        now = self._clock()
        told = error.retry_after if isinstance(error, ProviderError) else None
        if told is not None and told > 0:
            self._blocked_until = max(self._blocked_until, now + min(told, LONGEST))
            self._blocked_by = "the provider asked not to be called"
            # It says when to come back, which is more than when a limit is whole again.
            self._left.clear()
        else:
            self._heard(headers)
        if self._breaker is None:
            return
        # A 429 with a time is capacity; one without is a deployment that just refuses.
        if isinstance(error, _AT_FAULT) or (isinstance(error, RateLimited) and told is None):
            self._breaker.fail(ticket.probe, type(error).__name__, now)
        elif isinstance(error, ProviderError) and not isinstance(error, RateLimited):
            self._breaker.succeed(ticket.probe)  # it refused this request, and works
        else:
            self._breaker.forget(ticket.probe)

    def _settle_down(self, now: float) -> None:
        """Note whether a decision need not look here at all: a reading without the lock."""
        self.quiet = (
            not self._limits
            and self._parallel is None
            and not self._left
            and self._unwell is None
            and now >= self._blocked_until
            and (self._breaker is None or self._breaker.closed)
        )


class Ticket:
    """A call that was counted in. It ends once, however it ends; further reports are ignored."""

    __slots__ = ("_ended", "_endpoint", "_taken", "_tokens", "probe")

    def __init__(self, endpoint: Endpoint, tokens: int, probe: int, taken: tuple[Taken, ...]):
        self._endpoint, self._tokens, self.probe = endpoint, tokens, probe
        self._taken = taken  # of each limit
        self._ended = False

    def opened(self, headers: Mapping[str, Any] | None) -> None:
        """A stream's first bytes have come: the endpoint works, the call goes on."""
        endpoint = self._endpoint
        with endpoint._lock:
            if endpoint._breaker:
                endpoint._breaker.succeed(self.probe)
            endpoint._heard(headers)
            endpoint._settle_down(endpoint._clock())

    def answered(self, headers: Mapping[str, Any] | None = None, tokens: int | None = None) -> None:
        """The call was answered. `tokens`: billed, prompt and answer; None where not known."""
        with self._endpoint._lock:
            if self._end(tokens):
                if self._endpoint._breaker:
                    self._endpoint._breaker.succeed(self.probe)
                self._endpoint._heard(headers)
                self._endpoint._settle_down(self._endpoint._clock())

    def failed(self, error: BaseException, headers: Mapping[str, Any] | None = None) -> None:
        """The call failed or was cancelled with `error`."""
        with self._endpoint._lock:
            if self._end(None):
                self._endpoint._failed(self, error, headers)
                self._endpoint._settle_down(self._endpoint._clock())

    def unsent(self) -> None:
        """Nothing was sent after all: what was counted is given back."""
        endpoint = self._endpoint
        with endpoint._lock:
            if self._end(0):
                self._correct("requests", -1)
                if endpoint._breaker:
                    endpoint._breaker.forget(self.probe)

    def _end(self, tokens: int | None) -> bool:
        if self._ended:
            return False
        self._ended = True
        self._endpoint._in_flight -= 1
        if tokens is not None:
            self._correct("tokens", tokens - self._tokens)
        return True

    def _correct(self, kind: Kind, units: int) -> None:
        now = _nanoseconds(self._endpoint._clock())
        for limit, taken in zip(self._endpoint._limits, self._taken, strict=True):
            if limit.kind == kind:
                limit.bucket.correct(units, taken, now)


class Uncounted(Ticket):
    """The ticket of a call in a batch, which no limit of a deployment counts."""

    def __init__(self) -> None:
        self._ended = True

    def _end(self, tokens: int | None) -> bool:
        return False

    def unsent(self) -> None: ...

    def failed(self, error: BaseException, headers: Mapping[str, Any] | None = None) -> None: ...

    def answered(
        self, headers: Mapping[str, Any] | None = None, tokens: int | None = None
    ) -> None: ...


def _limits(limits: CapacityLimits | None) -> tuple[_Limit, ...]:
    if limits is None:
        return ()
    asked: tuple[tuple[Kind, int | None], ...] = (
        ("requests", limits.requests_per_minute),
        ("tokens", limits.tokens_per_minute),
    )
    return tuple(
        _Limit(kind, Bucket(per_minute, int(per_minute * limits.burst_seconds / 60)))
        for kind, per_minute in asked
        if per_minute is not None
    )


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
