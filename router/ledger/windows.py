"""Budget windows: which calendar hour, day, week or month a moment belongs to, in a named zone."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from router.errors import ConfigurationError, InvalidRequest
from router.types import Budget

_HOUR = 3600


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
    if budget.window == "total":
        return "total", None
    zone = time_zone(budget.zone)
    try:
        local = datetime.fromtimestamp(now, zone)
        if budget.window == "hour":
            offset = local.utcoffset() or timedelta(0)
            shift = int(offset.total_seconds())
            start = int((now + shift) // _HOUR) * _HOUR - shift
            return f"{datetime.fromtimestamp(start, UTC):%Y-%m-%dT%H:%MZ}", float(start + _HOUR)
        identity, following = _calendar(budget.window, local.date())
        return identity, datetime.combine(following, time.min, tzinfo=zone).timestamp()
    except (OverflowError, ValueError, OSError) as error:
        raise InvalidRequest("now", f"{now!r} is not a time: {error}", value=now) from None


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
        f"budget window {kind!r} is unknown; allowed: hour, day, week, month, total"
    )


def time_zone(name: str) -> ZoneInfo:
    """Return the IANA zone `name`; `ConfigurationError` if this machine knows no such zone."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ConfigurationError(
            f"time zone {name!r} is unknown; write an IANA name such as 'UTC' or 'Europe/Berlin'"
        ) from None
