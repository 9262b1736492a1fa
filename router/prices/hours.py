"""When a price that depends on the hour changes next."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

from router.prices.price import OffPeak, Price

_DAYS = (
    9  # a window that opens on one weekday only opens within a week; local dates may be off by one
)


def changes(price: Price, now: float) -> list[float]:
    """The next moment after `now` at which each off-peak window opens, and closes: unix seconds,
    in order.

    The windows of a price are cheap hours or, with a multiplier above 1, dear ones: whichever it
    is, waiting can pay only until one of these moments.
    """
    moments = set()
    for window in price.off_peak:
        inside = window.contains(now)
        for opens in (True, False):
            found = next(_edges(window, now, opens=opens), None)
            # One that closes before it opens next is the one that is open now.
            if found is not None and (opens or inside):
                moments.add(found)
    return sorted(moments)


def _edges(window: OffPeak, now: float, *, opens: bool) -> Iterator[float]:
    """Moments after `now` at which a window opens, or closes, earliest first."""
    zone = ZoneInfo(window.zone)
    today = datetime.fromtimestamp(now, zone).date()
    minutes = window.start if opens else window.end
    for days in range(-1, _DAYS):
        day = today + timedelta(days=days + minutes // (24 * 60))
        clock = time(minutes // 60 % 24, minutes % 60, tzinfo=zone)
        moment = datetime.combine(day, clock).timestamp()
        # Where the clocks are set, a wall-clock time may be no edge, or not exist.
        if moment > now and window.contains(moment) == opens:
            yield moment
