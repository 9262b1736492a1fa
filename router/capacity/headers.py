"""What providers' response headers say of the capacity that is left.

- OpenAI, Groq and whoever copies them: `x-ratelimit-limit-requests`, `-remaining-requests`,
  `-reset-requests` ("1s", "6m0s", "17ms"), and `-tokens` alike
  (platform.openai.com/docs/guides/rate-limits).
- Anthropic: `anthropic-ratelimit-requests-limit`, `-remaining`, `-reset` (a time in RFC 3339), and
  `-tokens-…` for its most restrictive limit on tokens (docs.anthropic.com/en/api/rate-limits).

A reset is when the limit is whole again. What cannot be read is left out: a header is a stranger's
word, so numbers are bounded before anything is computed with them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

LONGEST = 3600.0  # seconds that a provider's word is taken for; then it is asked again
_MOST = 10**12
_UNIT_SECONDS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|d|h|m|s)){1,5}", re.ASCII)
_PART = re.compile(r"([0-9.]+)(ms|d|h|m|s)", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,15}(?:\.0+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Said:
    """What is left of one limit: `remaining` units of `limit` (None where not said), whole again in
    `reset` seconds (None where not said)."""

    remaining: int
    limit: int | None = None
    reset: float | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """What one response says; None where it says nothing."""

    requests: Said | None = None
    tokens: Said | None = None

    def __bool__(self) -> bool:
        return self.requests is not None or self.tokens is not None


def read_headers(headers: Mapping[str, Any] | None) -> Word:
    """Read a response's headers; names in any case, as litellm hands them on or as they came."""
    if not headers:
        return Word()
    try:
        named = {
            str(name).lower().removeprefix("llm_provider-"): str(value)[:100]
            for name, value in headers.items()
            if "ratelimit" in str(name).lower() or str(name).lower().endswith("date")
        }
    except Exception:  # a mapping of the provider's client, in whatever state
        return Word()
    date = named.get("date")
    return Word(_said(named, "requests", date), _said(named, "tokens", date))


def _said(named: Mapping[str, str], kind: str, date: str | None) -> Said | None:
    for limit, remaining, reset in (
        (f"x-ratelimit-limit-{kind}", f"x-ratelimit-remaining-{kind}", f"x-ratelimit-reset-{kind}"),
        tuple(f"anthropic-ratelimit-{kind}-{word}" for word in ("limit", "remaining", "reset")),
    ):
        left = _count(named.get(remaining))
        if left is not None:
            return Said(left, _count(named.get(limit)) or None, _seconds(named.get(reset), date))
    return None


def _count(text: str | None) -> int | None:
    if text is None or not _COUNT.fullmatch(text.strip()):
        return None
    return min(int(text.strip().partition(".")[0]), _MOST)


def _seconds(text: str | None, date: str | None) -> float | None:
    """Seconds until a reset: of a duration, a number, or a time after the response's own date."""
    if text is None:
        return None
    text = text.strip()
    if _SECONDS.fullmatch(text):
        # A number of seconds; one of this size is a time since 1970, by a clock that is not ours.
        return min(float(text), LONGEST) if float(text) < 1e9 else None
    if _DURATION.fullmatch(text):
        parts = _PART.findall(text)
        return min(sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts), LONGEST)
    try:
        until, sent = datetime.fromisoformat(text), parsedate_to_datetime(date or "")
        return min(max(0.0, (until - sent).total_seconds()), LONGEST)
    except (ValueError, TypeError, OverflowError):
        return None
