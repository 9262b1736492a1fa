"""Whether this machine knows a time zone, and what to do where it knows none."""

from __future__ import annotations

from zoneinfo import ZoneInfo, available_timezones


def zone_problem(name: str) -> str | None:
    """What is wrong with the name of a time zone, None where this machine knows it."""
    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        if available_timezones():
            return f"{name!r} is not an IANA time zone"
        return f"{name!r} is unknown, as this machine has no time-zone data: pip install tzdata"
    return None
