"""Budget windows: which calendar hour, day, week or month a moment belongs to, in a named zone."""

from __future__ import annotations

import math
import time as wall
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from router.errors import ConfigurationError, InvalidRequest
from router.types import Budget
from router.zones import zone_problem

_HOUR = 3600
_MOST_AHEAD = 3600.0  # seconds: the shortest calendar window
# A rolling window is counted in so many buckets and the one under way, so that the oldest counts
# in full until all of it is out of the window: never too little is counted.
ROLLING_BUCKETS = 60
_MOST_SECONDS = 10 * 366 * 86400
_WHOLE_MINUTES = 1e8  # from 1973 on no zone is whole minutes and a part of one from UTC


class Span(NamedTuple):
    """The windows that count now: ids from `since` to `window_id`, which new amounts go to.

    `since` is `window_id` but for a rolling window. `resets_at`: when `window_id` ends, unix
    seconds, None for never.
    """

    window_id: str
    since: str
    resets_at: float | None


def span(budget: Budget, now: float) -> Span:
    """Return the windows of `budget` that count at `now`, unix seconds.

    Raises what `window` raises.
    """
    if budget.window != "rolling":
        if _WHOLE_MINUTES <= now < 1e12:  # windows begin and end with minutes
            return _span(budget.window, budget.zone, now // 60 * 60)
        return _span.__wrapped__(budget.window, budget.zone, now)
    if not math.isfinite(now) or not 0 <= now < 1e12:
        raise InvalidRequest("now", f"{now!r} is not a time", value=now)
    seconds = rolling_seconds(budget)
    length = seconds / ROLLING_BUCKETS
    bucket = int(now // length)
    since = max(0, bucket - ROLLING_BUCKETS)
    return Span(f"{seconds}s:{bucket:015d}", f"{seconds}s:{since:015d}", (bucket + 1) * length)


def bucket_leaves(budget: Budget, window_id: str) -> float:
    """When a bucket of a rolling window stops counting, unix seconds."""
    bucket = int(window_id.partition(":")[2])
    return (bucket + 1 + ROLLING_BUCKETS) * (rolling_seconds(budget) / ROLLING_BUCKETS)


def rolling_seconds(budget: Budget) -> int:
    """The length of a rolling window; `ConfigurationError` for none or an impossible one."""
    seconds = budget.seconds
    if type(seconds) is not int or not 1 <= seconds <= _MOST_SECONDS:
        raise ConfigurationError(
            f"budget {budget.name!r}: a rolling window needs whole seconds from 1 to ten years, "
            f"not {seconds!r}"
        )
    return seconds


def window(budget: Budget, now: float) -> tuple[str, float | None]:
    """Return the identity of the window that holds `now`, and when the next one begins.

    Parameters: `budget`, whose `window` and `zone` are read; `now`, unix seconds.
    Returns (id, resets_at): an id that sorts by time among the windows of one kind, and unix
    seconds, None for a budget that never resets. The id does not depend on the limit. Days begin
    at local midnight, so a day of a change to or from summer time has 23 or 25 hours; weeks begin
    on Monday (ISO 8601). An hour is named by its first moment in UTC, because the local hour comes
    twice when summer time ends.
    Raises `ConfigurationError` for an unknown zone, `InvalidRequest` for an impossible time.
    """
    identity, _, resets_at = _span.__wrapped__(budget.window, budget.zone, now)
    return identity, resets_at


@lru_cache(maxsize=1024)  # every attempt asks, of each of its budgets
def _span(kind: str, zone_name: str, now: float) -> Span:
    if kind == "total":
        return Span("total", "total", None)
    zone = time_zone(zone_name)
    try:
        local = datetime.fromtimestamp(now, zone)
        if kind == "hour":
            offset = local.utcoffset() or timedelta(0)
            shift = int(offset.total_seconds())
            start = int((now + shift) // _HOUR) * _HOUR - shift
            identity = f"{datetime.fromtimestamp(start, UTC):%Y-%m-%dT%H:%MZ}"
            return Span(identity, identity, float(start + _HOUR))
        identity, following = _calendar(kind, local.date())
        midnight = datetime.combine(following, time.min, tzinfo=zone)
        return Span(identity, identity, midnight.timestamp())
    except (OverflowError, ValueError, OSError) as error:
        raise InvalidRequest("now", f"{now!r} is not a time: {error}", value=now) from None


def window_start(budget: Budget, resets_at: float) -> float:
    """Return when the window began that ends at `resets_at`, as `window` gave it; unix seconds.

    Raises `ConfigurationError` for a budget that never resets, or an unknown zone.
    """
    if budget.window == "hour":
        return resets_at - _HOUR
    zone = time_zone(budget.zone)
    last = datetime.fromtimestamp(resets_at, zone).date() - timedelta(days=1)
    if budget.window == "day":
        first = last
    elif budget.window == "week":
        first = last - timedelta(days=6)
    elif budget.window == "month":
        first = last.replace(day=1)
    else:
        raise ConfigurationError(f"budget window {budget.window!r} has no beginning")
    return datetime.combine(first, time.min, tzinfo=zone).timestamp()


def _calendar(kind: str, today: date) -> tuple[str, date]:
    """Return the id of the window of local date `today`, and the date that the next one begins."""
    if kind == "day":
        return today.isoformat(), today + timedelta(days=1)
    if kind == "week":
        year, week, weekday = today.isocalendar()
        return f"{year:04d}-W{week:02d}", today + timedelta(days=8 - weekday)
    if kind == "month":
        following = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
        return f"{today:%Y-%m}", following
    raise ConfigurationError(
        f"budget window {kind!r} is unknown; allowed: hour, day, week, month, total, rolling"
    )


def check_clock(store: str, theirs: float) -> None:
    """Hold this machine's clock against that of a store's server, `theirs` in unix seconds.

    Raises `ConfigurationError` for one that is more than an hour ahead: the windows that it would
    open are never left again, so that a day's budget would have to last everybody until then.
    """
    ahead = wall.time() - theirs
    if ahead > _MOST_AHEAD:
        raise ConfigurationError(
            f"this machine's clock is {ahead:.0f} s ahead of that of {store}, and would open the "
            f"budgets' next windows early for all; set the one that is wrong right"
        )


def time_zone(name: str) -> ZoneInfo:
    """Return the IANA zone `name`; `ConfigurationError` if this machine knows no such zone."""
    if problem := zone_problem(name):
        raise ConfigurationError(f"zone {problem}")
    return ZoneInfo(name)
