"""Reading a provider's usage report: every token into exactly one bucket, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.types import Usage

_LARGEST = 10**9  # no call bills a billion tokens: a larger count is a broken report


def read_usage(report: Mapping[str, Any] | None) -> tuple[Usage | None, str | None]:
    """Turn a report in OpenAI's shape (as litellm passes it on) into `Usage`.

    Cached and cache-written tokens are part of `prompt_tokens`, reasoning tokens part of
    `completion_tokens` (OpenAI's API reference); where `total_tokens` shows that a provider
    counts reasoning outside, it is added. Returns (usage, None), or (None, what is wrong).
    """
    if not report:
        return None, "usage missing"
    try:
        prompt = _count(report, "prompt_tokens")
        completion = _count(report, "completion_tokens")
        inside = _details(report, "prompt_tokens_details")
        outside = _details(report, "completion_tokens_details")
        read = _count(inside, "cached_tokens", 0) or _count(report, "cache_read_input_tokens", 0)
        written = _count(report, "cache_creation_input_tokens", 0) or _count(
            inside, "cache_creation_tokens", 0
        )
        by_lifetime = _details(inside, "cache_creation_token_details")
        hour = min(written, _count(by_lifetime, "ephemeral_1h_input_tokens", 0))
        audio_input = _count(inside, "audio_tokens", 0)
        reasoning = _count(outside, "reasoning_tokens", 0)
        audio_output = _count(outside, "audio_tokens", 0)
        total = _count(report, "total_tokens", prompt + completion)
    except ValueError as error:
        return None, f"usage invalid: {error}"
    if prompt == 0 and completion == 0:
        return None, "usage zero"  # litellm's stand-in for a report that never came
    if read + written + audio_input > prompt:
        return None, "usage invalid: more cached tokens than prompt tokens"
    if reasoning > completion or total == prompt + completion + reasoning:
        completion += reasoning
    return Usage(
        input=prompt - read - written - audio_input,
        cache_read=read,
        cache_write_5m=written - hour,
        cache_write_1h=hour,
        audio_input=audio_input,
        output=max(0, completion - reasoning - audio_output),
        reasoning=reasoning,
        audio_output=audio_output,
    ), None


def _count(report: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = report.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
        raise ValueError(f"{key} is {value!r}")
    return value


def _details(report: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = report.get(key)
    return value if isinstance(value, Mapping) else {}
