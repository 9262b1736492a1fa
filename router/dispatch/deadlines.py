"""What a deadline means in seconds: when a call has to begin, and how long each may take."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from router.decide.waiting import Patience
from router.dispatch.wire import CancelledUnsent
from router.errors import InvalidRequest
from router.policy.deferred import BATCH_WINDOW

if TYPE_CHECKING:
    from router.policy import Policy
    from router.types import Request

LONGEST_WAIT = 31 * 86_400.0  # seconds from now to the latest deadline
_FIRST_MOMENT = 1e9  # unix seconds, in 2001: less is meant as seconds from now
_SHORTEST_READ = 0.1  # seconds
_COLLECTED_WITHIN = 6 * 3600.0  # seconds after a batch's window in which some worker settles it
FLEX, BATCH = "flex", "batch"


def read_deadline(value: Any, now: float) -> float | None:
    """Return a deadline in unix seconds, None where there is none.

    It is a moment: unix seconds, or a `datetime` that knows its time zone. Raises `InvalidRequest`
    for anything else, for one that has passed and for one more than 31 days away.
    """
    if value is None:
        return None
    allowed = "unix seconds such as time.time() + 3600, or a datetime with a time zone"
    if isinstance(value, datetime):
        if value.tzinfo is None or value.utcoffset() is None:
            raise InvalidRequest(
                "deadline", f"{value} has no time zone", value=value, allowed=allowed
            )
        moment = value.timestamp()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        moment = float(value)
    else:
        raise InvalidRequest("deadline", f"{value!r} is no moment", value=value, allowed=allowed)
    if not moment >= _FIRST_MOMENT:  # NaN is not either
        raise InvalidRequest(
            "deadline",
            f"{value!r} is not a moment of today; it looks like seconds from now",
            value=value,
            allowed=allowed,
        )
    if not now < moment <= now + LONGEST_WAIT:
        problem = "has passed" if moment <= now else "is more than 31 days away"
        raise InvalidRequest("deadline", f"{value!r} {problem}", value=value, allowed=allowed)
    return moment


def patience(policy: Policy, now: float, deadline: float) -> Patience:
    """How long a request may wait under a policy, whose timeouts bound what each call takes."""
    flex = policy.deferred.flex_timeout if policy.deferred else 0.0
    return Patience(now, deadline, policy.timeout.total, flex, BATCH_WINDOW)


def seconds_for(request: Request, policy: Policy, clock: Callable[[], float]) -> float:
    """How long a request may take from now on, in seconds: until its deadline, where it has one,
    and no longer than `timeout.total` where it may not wait."""
    if request.deadline is None:
        return policy.timeout.total
    left = max(request.deadline - clock(), _SHORTEST_READ)
    return left if request.ways else min(left, policy.timeout.total)


def longest_call(policy: Policy, service_tier: str | None) -> float:
    """The longest that one wire attempt may go on, in seconds, a drained stream included."""
    longest = policy.timeout.total
    if service_tier == FLEX and policy.deferred is not None:
        longest = max(longest, policy.deferred.flex_timeout)
    if service_tier == BATCH:
        longest += BATCH_WINDOW + _COLLECTED_WITHIN
    return longest + policy.streams.drain_seconds


def timeouts(
    policy: Policy, service_tier: str | None, left: float, asked: Any
) -> tuple[float, float]:
    """How long to wait for a connection and for the next bytes of an answer, in seconds, `left`
    before the request's end. `asked`: the caller's own `timeout`, if any."""
    left = max(_SHORTEST_READ, left)
    longest_connect, longest_read = read_timeout(asked)
    read = min(policy.timeout.read, left)
    behind = left - policy.timeout.total  # a call at the standard price has to fit in there
    if service_tier == FLEX and policy.deferred is not None and behind > 0:
        read = min(policy.deferred.flex_timeout, behind)
    return min(policy.timeout.connect, left, longest_connect), min(read, longest_read)


def read_timeout(asked: Any) -> tuple[float, float]:
    """Return how long a caller's `timeout` lets a connection and the next bytes take, in seconds:
    a number above 0 for both, or an `httpx.Timeout` (None in it: for ever).

    Raises `InvalidRequest` for anything else.
    """
    found = (asked, asked)
    if asked is not None and hasattr(asked, "connect") and hasattr(asked, "read"):
        found = (asked.connect, asked.read)
    for seconds in found:
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if seconds is not None and not (is_number and seconds > 0):  # NaN is not either
            raise InvalidRequest(
                "timeout", f"{seconds!r} is no time to wait for", value=asked,
                allowed="seconds above 0, or an httpx.Timeout",
            )  # fmt: skip
    connect, read = (math.inf if seconds is None else float(seconds) for seconds in found)
    return connect, read


def flex_aside(request: Request, chosen: int, error: BaseException) -> BaseException:
    """What a deployment is told of a failure: of flex calls nothing, since its provider may well
    have room for others."""
    return CancelledUnsent() if _is_flex(request, chosen) else error


def _is_flex(request: Request, chosen: int) -> bool:
    return bool(request.ways) and request.ways[chosen].service_tier == FLEX
