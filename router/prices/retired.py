"""Which models litellm's map, as installed, says that their providers have retired."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Any

from router.prices.diff import litellm_map


def retired(models: Iterable[str], now: float) -> dict[str, date]:
    """Of `models` those whose last day was before `now` (unix seconds), with that day.

    A model that the map does not know, or gives no last day, is not among them.
    Raises `ConfigurationError` where litellm's map cannot be read.
    """
    listed, today = litellm_map(), datetime.fromtimestamp(now, UTC).date()
    days = {model: _day(listed(model).get("deprecation_date")) for model in models}
    return {model: day for model, day in days.items() if day is not None and day < today}


def _day(text: Any) -> date | None:
    try:
        return date.fromisoformat(text)
    except (TypeError, ValueError):
        return None
